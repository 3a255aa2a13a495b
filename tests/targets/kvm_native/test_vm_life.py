# SPDX-License-Identifier: GPL-2.0-only
"""A VM and its memory: whole lives, errors, coming back to a fresh vCPU."""

from __future__ import annotations

import ctypes
import errno
import pickle
from collections.abc import Callable
from typing import TypeAlias

import pytest

from nvmxfuzz.inputs.places import VMXON_REGION
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.guest_memory import GuestMemory, Slot
from nvmxfuzz.targets.kvm_native.port import Script
from nvmxfuzz.targets.kvm_native.vcpu import Vcpu, ioctl, offered
from nvmxfuzz.targets.kvm_native.vm import RAM, Fresh

NewMachine: TypeAlias = Callable[..., Fresh]


@pytest.mark.parametrize(
    ("structure", "size"),
    [
        (s.Regs, 144),
        (s.Sregs, 312),
        (s.Sregs2, 320),
        (s.VcpuEvents, 64),
        (s.MpState, 4),
        (s.MsrEntry, 16),
        (s.CpuidEntry, 40),
        (s.MemoryRegion, 32),
        (s.EnableCap, 104),
        (s.NestedState, 128 + 0x2000),
    ],
)
def test_structures_have_the_kernels_sizes(structure: type[ctypes.Structure], size: int) -> None:
    assert ctypes.sizeof(structure) == size


def test_commands_have_the_kernels_numbers() -> None:
    assert io.KVM_CREATE_VM == 0xAE01
    assert io.KVM_SET_USER_MEMORY_REGION == 0x4020AE46
    assert io.KVM_GET_SUPPORTED_CPUID == 0xC008AE05
    assert io.KVM_SET_SREGS == 0x4138AE84
    assert io.KVM_GET_REGS == 0x8090AE81
    assert io.KVM_GET_MSRS == 0xC008AE88
    assert io.KVM_GET_NESTED_STATE == 0xC080AEBE
    assert io.KVM_SET_NESTED_STATE == 0x4080AEBF
    assert io.KVM_SET_VCPU_EVENTS == 0x4040AEA0
    assert io.KVM_ENABLE_CAP == 0x4068AEA3
    assert io.NAMES[0xAE80] == "KVM_RUN"


def test_an_error_tells_its_command_and_survives_pickling() -> None:
    error = IoctlError(errno.EINVAL, "KVM_SET_SREGS")
    again = pickle.loads(pickle.dumps(error))
    assert (again.errno, again.name, str(again)) == (22, "KVM_SET_SREGS", "KVM_SET_SREGS: EINVAL")


def test_memory_outside_of_the_slots_is_no_memory() -> None:
    buffer = ctypes.create_string_buffer(16)
    memory = GuestMemory()
    memory.add(Slot(0, 0x1000, 16, ctypes.addressof(buffer)))
    memory.write_int(0x1008, 0x1122_3344_5566_7788)
    assert memory.read(0x1008, 8) == bytes.fromhex("8877665544332211")
    for address, size in ((0xFFF, 1), (0x1000, 17), (0x1010, 1)):
        with pytest.raises(IndexError, match="no"):
            memory.read(address, size)


def test_guest_memory_is_what_the_guest_has(new_machine: NewMachine) -> None:
    memory = new_machine().vm.memory
    assert memory.read_int(RAM - 8) == 0
    memory.write_int(RAM - 8, 0x55)
    assert memory.read_int(RAM - 8) == 0x55
    with pytest.raises(IndexError):
        memory.read(RAM - 4, 8)


def test_slots_can_be_added_and_taken_away(new_machine: NewMachine) -> None:
    vm = new_machine().vm
    slot = vm.add_memory(1, 1 << 32, 0x10000)
    vm.memory.write(1 << 32, b"here")
    with pytest.raises(IoctlError) as overlapping:
        vm.add_memory(2, 0x1000, 0x1000)
    assert overlapping.value.errno == errno.EEXIST
    vm.set_memory(Slot(1, slot.guest_address, 0, slot.host_address))
    with pytest.raises(IndexError):
        vm.memory.read(1 << 32, 4)


@pytest.mark.parametrize(
    ("size", "address"), [(0x1001, 1 << 32), (0x1000, (1 << 32) + 1), (0x1000, (1 << 64) - 4096)]
)
def test_a_bad_slot_is_an_error(new_machine: NewMachine, size: int, address: int) -> None:
    vm = new_machine().vm
    good = vm.memory.slots[0]
    with pytest.raises(IoctlError) as refused:
        vm.set_memory(Slot(1, address, size, good.host_address))
    assert refused.value.errno == errno.EINVAL
    assert refused.value.name == "KVM_SET_USER_MEMORY_REGION"


def test_a_second_vcpu_of_one_number_is_an_error(new_machine: NewMachine) -> None:
    with pytest.raises(IoctlError) as refused:
        new_machine().vm.create_vcpu(0)
    assert refused.value.errno == errno.EEXIST


def test_only_the_file_of_a_vcpu_is_a_vcpu(new_machine: NewMachine) -> None:
    machine = new_machine()
    vm, library = machine.vm, machine.machine.library
    for file in (machine.machine.file, vm.file, 200, -1):
        assert not library.functions.nvmx_vcpu(file)
        with pytest.raises(ValueError, match=f"file {file} is not that of a vCPU"):
            Vcpu(library, file, vm.memory)
    assert Vcpu(library, machine.vcpu.file, vm.memory).address == machine.vcpu.address


def test_an_unknown_ioctl_is_an_error(new_machine: NewMachine) -> None:
    machine = new_machine()
    with pytest.raises(IoctlError) as refused:
        ioctl(machine.vm.library, machine.vm.file, 0xAEFF)
    assert refused.value.errno in (errno.ENOTTY, errno.EINVAL)
    assert refused.value.name == "ioctl 0xaeff"


def test_extensions_are_told(new_machine: NewMachine) -> None:
    machine = new_machine().machine
    assert machine.check_extension(io.KVM_CAP_NESTED_STATE) == 128 + 0x2000
    assert machine.check_extension(io.KVM_CAP_SREGS2) == 1
    assert machine.check_extension(9999) == 0
    assert machine.api_version() == 12


def test_renewing_undoes_everything(new_machine: NewMachine) -> None:
    machine = new_machine()
    vcpu = machine.vcpu
    before = (vcpu.get_regs(), vcpu.get_sregs(), vcpu.get_events(), vcpu.get_mp_state())
    msrs = offered(vcpu)
    for _ in range(3):
        l1.prepare(vcpu, machine.vm.memory)
        vcpu.run(Script(l1.vmxon(), l1.HLT))
        assert vcpu.get_nested_state().vmxon_pa == VMXON_REGION
        machine.renew()
        assert vcpu.get_nested_state().vmxon_pa == s.NO_ADDRESS
        assert machine.vm.memory.read_int(l1.OPERANDS) == 0
        after = (vcpu.get_regs(), vcpu.get_sregs(), vcpu.get_events(), vcpu.get_mp_state())
        assert after == before
        assert offered(vcpu) == msrs


def test_an_irqchip_can_be_had(new_machine: NewMachine) -> None:
    machine = new_machine()
    vm = machine.machine.create_vm(0)
    vm.create_irqchip()
    vm.create_vcpu()
    with pytest.raises(IoctlError):
        vm.create_irqchip()

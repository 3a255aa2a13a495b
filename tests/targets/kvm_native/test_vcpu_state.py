# SPDX-License-Identifier: GPL-2.0-only
"""Getting and setting the state of a vCPU, and what KVM refuses."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeAlias

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.vmx_msr import VmxBasic
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.vcpu import ioctl, offered
from nvmxfuzz.targets.kvm_native.vm import Fresh

NewMachine: TypeAlias = Callable[..., Fresh]


def test_registers_come_back_as_they_were_set(new_machine: NewMachine) -> None:
    vcpu = new_machine().vcpu
    regs = vcpu.get_regs()
    regs.rax, regs.r15, regs.rip = 1, 0xFFFF_FFFF_FFFF_FFFF, 0x1234
    vcpu.set_regs(regs)
    assert vcpu.get_regs() == regs
    sregs = l1.sregs(vcpu.get_sregs().apic_base)
    vcpu.set_sregs(sregs)
    found = vcpu.get_sregs()
    assert (found.cr0, found.cr4, found.efer, found.cs.l) == (sregs.cr0, sregs.cr4, sregs.efer, 1)


@pytest.mark.parametrize(("name", "value"), [("cr4", 1 << 40), ("efer", 1 << 10), ("cr0", 1 << 31)])
def test_registers_that_no_processor_has_are_refused(
    new_machine: NewMachine, name: str, value: int
) -> None:
    vcpu = new_machine().vcpu
    sregs = vcpu.get_sregs()
    setattr(sregs, name, value)
    with pytest.raises(IoctlError) as refused:
        vcpu.set_sregs(sregs)
    assert (refused.value.errno, refused.value.name) == (errno.EINVAL, "KVM_SET_SREGS")


def test_sregs2_have_the_pdptes(new_machine: NewMachine) -> None:
    vcpu = new_machine().vcpu
    sregs = vcpu.get_sregs2()
    sregs.cr0, sregs.cr4, sregs.cr3 = 0x8000_0031, 0x20, 0x3000
    sregs.flags = s.SREGS2_PDPTRS_VALID
    sregs.pdptrs[1] = 0x5001
    vcpu.set_sregs2(sregs)
    assert tuple(vcpu.get_sregs2().pdptrs) == (0, 0x5001, 0, 0)
    sregs.flags = 2
    with pytest.raises(IoctlError) as refused:
        vcpu.set_sregs2(sregs)
    assert refused.value.errno == errno.EINVAL


def test_events_come_back_as_they_were_set(new_machine: NewMachine) -> None:
    vcpu = new_machine().vcpu
    events = vcpu.get_events()
    events.exception.injected, events.exception.nr = 1, 6
    events.nmi.masked = 1
    vcpu.set_events(events)
    found = vcpu.get_events()
    assert (found.exception.injected, found.exception.nr, found.nmi.masked) == (1, 6, 1)
    events.flags = 1 << 31
    with pytest.raises(IoctlError) as refused:
        vcpu.set_events(events)
    assert refused.value.errno == errno.EINVAL


def test_mp_state_comes_back_as_it_was_set(new_machine: NewMachine) -> None:
    vcpu = new_machine().vcpu
    assert vcpu.get_mp_state() == io.MP_RUNNABLE
    with pytest.raises(IoctlError) as refused:
        vcpu.set_mp_state(77)
    assert refused.value.errno == errno.EINVAL


def test_an_smi_is_pending_until_the_vcpu_runs(new_machine: NewMachine) -> None:
    vcpu = new_machine().vcpu
    vcpu.smi()
    events = vcpu.get_events()
    assert (events.smi.pending, events.smi.smm) == (1, 0)


def test_msrs_are_set_until_one_is_refused(new_machine: NewMachine) -> None:
    vcpu = new_machine().vcpu
    values = ((msr.MSR_IA32_SYSENTER_CS, 0x10), (0xDEAD, 0), (msr.MSR_IA32_SYSENTER_EIP, 0x20))
    assert vcpu.set_msrs(values) == 1
    assert vcpu.get_msr(msr.MSR_IA32_SYSENTER_CS) == 0x10
    assert vcpu.get_msr(0xDEAD) is None
    assert vcpu.get_msrs((msr.MSR_IA32_SYSENTER_CS, 0xDEAD)) == (0x10,)


def test_l1_is_offered_vmx(new_machine: NewMachine) -> None:
    machine = new_machine()
    found = offered(machine.vcpu)
    assert found[msr.MSR_IA32_VMX_BASIC] & VmxBasic.TRUE_CONTROLS
    assert {index for index, _ in msr.VMX_CAPABILITY_MSRS[:18]} == set(found)
    assert (
        machine.vcpu.get_msr(msr.MSR_IA32_VMX_BASIC)
        == machine.machine.feature_msrs((msr.MSR_IA32_VMX_BASIC,))[0]
    )


def test_a_capability_can_be_taken_from_l1_but_not_given(new_machine: NewMachine) -> None:
    vcpu = new_machine().vcpu
    value = offered(vcpu)[msr.MSR_IA32_VMX_MISC]
    assert vcpu.set_msr(msr.MSR_IA32_VMX_MISC, value & ~(1 << 6))
    assert offered(vcpu)[msr.MSR_IA32_VMX_MISC] == value & ~(1 << 6)
    assert not vcpu.set_msr(msr.MSR_IA32_VMX_MISC, value | 1 << 9)


def test_cpuid_comes_back_as_it_was_set(new_machine: NewMachine) -> None:
    machine = new_machine()
    supported = machine.machine.supported_cpuid()
    found = {(entry.function, entry.index): entry.ecx for entry in machine.vcpu.get_cpuid()}
    assert found.keys() == {(entry.function, entry.index) for entry in supported}
    vmx = 1 << 5
    assert found[1, 0] & vmx
    without = [s.CpuidEntry.from_buffer_copy(entry) for entry in supported]
    for entry in without:
        if entry.function == 1:
            entry.ecx &= ~vmx
    machine.vcpu.set_cpuid(without)
    assert not machine.vcpu.set_msr(msr.MSR_IA32_FEAT_CTL, 5) or not offered(machine.vcpu)


def test_state_outside_of_vmx_operation_is_told(new_machine: NewMachine) -> None:
    state = new_machine().vcpu.get_nested_state()
    assert (state.flags, state.format, state.size) == (0, 0, 128)
    assert (state.vmxon_pa, state.vmcs12_pa) == (s.NO_ADDRESS, s.NO_ADDRESS)


@pytest.mark.parametrize(
    ("field", "value"), [("flags", 1 << 12), ("format", 1), ("size", 64), ("vmxon_pa", 0x1001)]
)
def test_a_bad_nested_state_is_refused(new_machine: NewMachine, field: str, value: int) -> None:
    machine = new_machine()
    l1.prepare(machine.vcpu, machine.vm.memory)
    state = machine.vcpu.get_nested_state()
    setattr(state, field, value)
    with pytest.raises(IoctlError) as refused:
        machine.vcpu.set_nested_state(state)
    assert refused.value.errno == errno.EINVAL


def test_the_enlightened_vmcs_has_a_version(new_machine: NewMachine) -> None:
    assert new_machine().vcpu.enable_evmcs() == 0x0101


def test_an_unknown_capability_is_refused(new_machine: NewMachine) -> None:
    with pytest.raises(IoctlError) as refused:
        new_machine().vcpu.enable_cap(9999)
    assert (refused.value.errno, refused.value.name) == (errno.EINVAL, "KVM_ENABLE_CAP")


@pytest.mark.parametrize("address", [0, 0x10, 1 << 63, (1 << 64) - 8])
@pytest.mark.parametrize(
    "command",
    [
        io.KVM_GET_REGS,
        io.KVM_SET_SREGS,
        io.KVM_GET_MSRS,
        io.KVM_SET_NESTED_STATE,
        io.KVM_SET_CPUID2,
    ],
)
def test_a_bad_pointer_is_an_error(new_machine: NewMachine, command: int, address: int) -> None:
    vcpu = new_machine().vcpu
    with pytest.raises(IoctlError) as refused:
        ioctl(vcpu.library, vcpu.file, command, address)
    assert (refused.value.errno, refused.value.name) == (errno.EFAULT, io.NAMES[command])

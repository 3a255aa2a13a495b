# SPDX-License-Identifier: GPL-2.0-only
"""KVM_SET_NESTED_STATE, an L2 that cannot run, SMI and RSM: by hand from what the kernel does."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.registers import Cr0, Cr4
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.places import CURRENT_VMCS, VMXON_REGION
from nvmxfuzz.kvm import nested_state as ns
from nvmxfuzz.kvm.nested_kvm import nested_kvm
from nvmxfuzz.kvm.nested_msrs import VMCS12_REVISION, VMCS12_SIZE
from nvmxfuzz.kvm.vcpu import L1State
from nvmxfuzz.kvm.vcpu_ioctls import kvm_get_sregs2, kvm_set_sregs
from nvmxfuzz.kvm.vcpu_run import kvm_run
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx, create_vmx
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs01 import prepare_vmcs01
from nvmxfuzz.kvm.vmcs12 import OFFSETS, read_word, unpack, write_fields, write_word
from nvmxfuzz.kvm.vmx_handle_exit import RSM, GuestExit, nested_vmx_run
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import load_profile

VMCALL = GuestExit(int(ExitReason.VMCALL), length=3)
UNDEFINED = GuestExit(int(ExitReason.EXCEPTION_NMI), fields={"vm_exit_intr_info": 0x8000_0306})
INTERRUPT = GuestExit(int(ExitReason.EXTERNAL_INTERRUPT))


def vmx_on(kernel: str, *, restricted: bool = False) -> tuple[VcpuVmx, bytes]:
    """Return an L1, and the image of a VMCS whose L2 it can enter."""
    kvm, virtual = nested_kvm(load_profile("skylake-x"), kernel)
    attempt = base("guest-64", virtual)
    memory = Memory(tuple(sorted((*attempt.memory.regions,))))
    processor = Processor(cr3=0x3000, efer=0x500)
    vmx = create_vmx(kvm, L1State(processor, rip=0x1000), memory)
    prepare_vmcs01(vmx.vcpu)
    vmx.vcpu.vmcs01 = vmx.vcpu.vmcs
    image = bytearray(VMCS12_SIZE)
    write_word(image, 0, VMCS12_REVISION)
    fields = dict(attempt.vmcs.items())
    if restricted:
        fields["secondary_vm_exec_control"] &= ~Secondary.UNRESTRICTED_GUEST
    write_fields(image, fields)
    return vmx, bytes(image)


@pytest.fixture(params=("6.1", "6.12"))
def made(request: pytest.FixtureRequest) -> tuple[VcpuVmx, bytes]:
    return vmx_on(request.param)


def state(image: bytes, **parts: int) -> ns.NestedStateImage:
    """Return VMX operation with a current VMCS; L2 is active if the flags say so."""
    size = ns.HEADER_SIZE + VMCS12_SIZE
    plain = ns.NestedStateImage(
        size=size, vmxon_pa=VMXON_REGION, vmcs12_pa=CURRENT_VMCS, vmcs12=image
    )
    return replace(plain, **parts)  # type: ignore[arg-type]


EMPTY = ns.NestedStateImage()


@pytest.mark.parametrize(
    "parts",
    [
        {"format": 1},
        {"size": ns.HEADER_SIZE - 1},
        {"flags": 0x10},
        {"flags": ns.RUN_PENDING},
        {"flags": ns.EVMCS},
        {"vmxon_pa": VMXON_REGION | 1},
        {"vmxon_pa": 1 << 52},
        {"vmxon_pa": ALL_ONES},
        {"smm_flags": ns.SMM_VMXON},
        {"smm_flags": 4},
        {"vmx_flags": 2},
    ],
)
def test_headers_that_change_nothing(made: tuple[VcpuVmx, bytes], parts: dict[str, int]) -> None:
    vmx, image = made
    assert ns.kvm_set_nested_state(vmx, state(image, **parts)) == -errno.EINVAL
    assert not vmx.nested.vmxon


@pytest.mark.parametrize(
    "parts",
    [
        {"vmcs12_pa": VMXON_REGION},
        {"vmcs12_pa": CURRENT_VMCS | 8},
        {"vmcs12_pa": ALL_ONES},
        {"size": ns.HEADER_SIZE + 997},
    ],
)
def test_what_is_found_late_leaves_vmx_operation(
    made: tuple[VcpuVmx, bytes], parts: dict[str, int]
) -> None:
    vmx, image = made
    assert ns.kvm_set_nested_state(vmx, state(image, **parts)) == -errno.EINVAL
    assert vmx.nested.vmxon


def test_a_wrong_revision_is_found_last(made: tuple[VcpuVmx, bytes]) -> None:
    vmx, image = made
    wrong = bytes([image[0] ^ 1]) + image[1:]
    assert ns.kvm_set_nested_state(vmx, state(wrong)) == -errno.EINVAL
    assert vmx.nested.current_vmptr == CURRENT_VMCS


def test_vmxon_alone_and_nothing_at_all(made: tuple[VcpuVmx, bytes]) -> None:
    vmx, _ = made
    alone = replace(EMPTY, vmxon_pa=VMXON_REGION)
    assert ns.kvm_set_nested_state(vmx, alone) == 0
    assert ns.vmx_get_nested_state(vmx) == alone
    assert ns.kvm_set_nested_state(vmx, EMPTY) == 0
    assert ns.vmx_get_nested_state(vmx) == EMPTY


def test_l2_comes_and_is_told_as_it_came(made: tuple[VcpuVmx, bytes]) -> None:
    vmx, image = made
    assert ns.kvm_set_nested_state(vmx, state(image, flags=ns.GUEST_MODE)) == 0
    assert vmx.vcpu.guest_mode
    assert vmx.vcpu.rip == unpack(image).guest_rip
    told = ns.vmx_get_nested_state(vmx)
    assert told.flags == ns.GUEST_MODE
    assert unpack(told.vmcs12).guest_rip == unpack(image).guest_rip


def test_a_vmcs12_that_fails_its_checks_leaves_l1(made: tuple[VcpuVmx, bytes]) -> None:
    vmx, image = made
    bad = bytearray(image)
    write_fields(bad, {"host_cr4": 0})
    assert ns.kvm_set_nested_state(vmx, state(bytes(bad), flags=ns.GUEST_MODE)) == -errno.EINVAL
    assert not vmx.vcpu.guest_mode


def test_a_failing_entry_is_the_number_two(made: tuple[VcpuVmx, bytes]) -> None:
    vmx, image = made
    bad = bytearray(image)
    write_fields(bad, {"guest_cr3": 1 << 62})
    assert ns.kvm_set_nested_state(vmx, state(bytes(bad), flags=ns.GUEST_MODE)) == 2
    assert not vmx.vcpu.guest_mode


def test_rare_fields_are_lost_where_l2_is_left_for_another_state(
    made: tuple[VcpuVmx, bytes],
) -> None:
    """KVM reads them from a vmcs02 that is a new one: what is restored is not what is read."""
    vmx, image = made
    assert ns.kvm_set_nested_state(vmx, state(image, flags=ns.GUEST_MODE)) == 0
    assert ns.kvm_set_nested_state(vmx, state(image)) == 0
    told = unpack(ns.vmx_get_nested_state(vmx).vmcs12)
    assert unpack(image).guest_cs_limit
    assert told.guest_cs_limit == 0
    assert told.guest_rip == unpack(image).guest_rip


# ---------------------------------------------------------------------- invalid state of L2


def _in_l2(kernel: str, flags: int = ns.GUEST_MODE) -> VcpuVmx:
    vmx, image = vmx_on(kernel, restricted=True)
    assert ns.kvm_set_nested_state(vmx, state(image, flags=flags)) == 0
    return vmx


def _spoil(vmx: VcpuVmx, rpl: int) -> None:
    sregs = kvm_get_sregs2(vmx)
    sregs.pdptrs = None
    sregs.segments["ss"].selector = sregs.segments["ss"].selector & ~3 | rpl
    assert kvm_set_sregs(vmx, sregs) == 0


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_an_invalid_l2_is_a_triple_fault_at_its_next_entry(kernel: str) -> None:
    vmx = _in_l2(kernel)
    _spoil(vmx, 1)
    assert vmx.emulation_required
    assert vmx.vcpu.guest_mode
    kvm_run(vmx)
    assert vmx.vcpu.guest_mode, "nothing has been entered"
    kvm_run(vmx, (INTERRUPT,))
    assert not vmx.vcpu.guest_mode
    assert vmx.vmcs12.vm_exit_reason == ExitReason.TRIPLE_FAULT


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_a_later_ioctl_mends_l2(kernel: str) -> None:
    vmx = _in_l2(kernel)
    _spoil(vmx, 1)
    _spoil(vmx, 0)
    assert not vmx.emulation_required
    kvm_run(vmx, (VMCALL,))
    assert vmx.vmcs12.vm_exit_reason == ExitReason.VMCALL


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_with_the_entry_pending_kvm_takes_it_for_its_own_bug(kernel: str) -> None:
    vmx = _in_l2(kernel, ns.GUEST_MODE | ns.RUN_PENDING)
    _spoil(vmx, 1)
    assert kvm_run(vmx, (VMCALL,)).errno == -errno.EIO
    assert vmx.vcpu.warnings


# ---------------------------------------------------------------------- SMM


def _smi(vmx: VcpuVmx) -> None:
    vmx.events.smi_pending = True
    kvm_run(vmx)
    assert vmx.in_smm
    vmx.vcpu.memory.write(vmx.vcpu.vmcs["guest_cs_base"] + vmx.vcpu.rip, RSM)


def test_smm_puts_l2_aside_and_rsm_brings_it_back(made: tuple[VcpuVmx, bytes]) -> None:
    vmx, image = made
    assert ns.kvm_set_nested_state(vmx, state(image, flags=ns.GUEST_MODE)) == 0
    vmx.gprs["rbx"] = 0x1234
    _smi(vmx)
    assert not vmx.vcpu.guest_mode
    assert not vmx.nested.vmxon
    assert ns.vmx_get_nested_state(vmx).smm_flags == ns.SMM_VMXON | ns.SMM_GUEST_MODE
    assert not vmx.vcpu.cr0 & (Cr0.PE | Cr0.PG)
    assert vmx.vcpu.cr4 == 0
    vmx.gprs["rbx"] = 0
    kvm_run(vmx, (UNDEFINED,))
    assert vmx.vcpu.guest_mode
    assert not vmx.in_smm
    assert vmx.vcpu.rip == unpack(image).guest_rip
    assert vmx.gprs["rbx"] == 0x1234
    assert vmx.nested.nested_run_pending


def test_rsm_with_registers_that_cannot_be_shuts_down(made: tuple[VcpuVmx, bytes]) -> None:
    vmx, _ = made
    _smi(vmx)
    cr4 = vmx.smbase + 0xFF48
    vmx.vcpu.memory.write(cr4, (1 << 63).to_bytes(8, "little"))
    kvm_run(vmx, (UNDEFINED,))
    assert vmx.events.triple_fault
    assert kvm_run(vmx).left == "shutdown"


def test_smm_has_no_vmxe(made: tuple[VcpuVmx, bytes]) -> None:
    vmx, _ = made
    _smi(vmx)
    sregs = kvm_get_sregs2(vmx)
    sregs.pdptrs = None
    sregs.cr4 |= Cr4.VMXE
    assert kvm_set_sregs(vmx, sregs) == -errno.EINVAL


def test_l1_enters_l2_by_itself(made: tuple[VcpuVmx, bytes]) -> None:
    vmx, image = made
    assert ns.kvm_set_nested_state(vmx, state(image)) == 0
    assert nested_vmx_run(vmx, launch=False) == "vmfail-valid 5"
    assert nested_vmx_run(vmx, launch=True) == "entered"
    kvm_run(vmx, (VMCALL,))
    assert read_word(vmx.nested.cached_vmcs12, OFFSETS["vm_exit_reason"]) == ExitReason.VMCALL
    assert nested_vmx_run(vmx, launch=True) == "vmfail-valid 4"
    assert nested_vmx_run(vmx, launch=False) == "entered"

# SPDX-License-Identifier: GPL-2.0-only
"""VMX instructions of L1, case by case from the SDM's table of error numbers and from nested.c."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.registers import Cr0, Cr4, Rflags
from nvmxfuzz.arch.vmx_msr import VmxMisc
from nvmxfuzz.kvm import nested_instructions as ni
from nvmxfuzz.kvm.guest_memory import PAGE_SIZE
from nvmxfuzz.kvm.hardware_setup import LoadedKvm, load_kvm_intel
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu
from nvmxfuzz.kvm.nested_kvm import nested_kvm
from nvmxfuzz.kvm.nested_msrs import VMCS12_REVISION
from nvmxfuzz.kvm.nested_operand import MemoryOperand, RegisterOperand
from nvmxfuzz.kvm.source import find_kernel
from nvmxfuzz.kvm.vcpu import L1State
from nvmxfuzz.kvm.vcpu_events import Events
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx, create_vmx
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.virtual_processor import default_vcpu
from nvmxfuzz.kvm.vmcs01 import prepare_vmcs01
from nvmxfuzz.kvm.vmcs12 import OFFSETS, SHADOW_VMCS, read_word
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import load_profile

KERNELS = ("6.1", "6.12")
PML4, PDPT, DIRECTORY, POINTER = 0x3000, 0x4000, 0x5000, 0x6000
VMXON, VMCS, OTHER, WRONG, SHADOW = 0x1000, 0x2000, 0x7000, 0x8000, 0x9000
UNBACKED = 0x80_0000
UNMAPPED, READ_ONLY = 0x20_0000, 0x40_0000
OPERAND = MemoryOperand(POINTER)
RAX = RegisterOperand("rax")


def _word(value: int) -> bytes:
    return value.to_bytes(8, "little")


def loaded() -> LoadedKvm:
    """Return the modules on the processor of these tests."""
    host = HostCpu.of(load_profile("skylake-x"))
    module = load_kvm_intel(host, find_kernel("6.12"), DEFAULT_PARAMS).module
    assert module is not None
    return module


def l1_on(kernel: str) -> VcpuVmx:
    """Return a 64-bit L1 in front of VMXON, with 2 MiB mapped, and as much again read-only."""
    kvm, _ = nested_kvm(load_profile("skylake-x"), kernel)
    memory = {
        PML4: _word(PDPT | 3),
        PDPT: _word(DIRECTORY | 3),
        DIRECTORY: _word(0x83) + _word(0) + _word(UNBACKED | 0x81),
        **{at: _word(VMCS12_REVISION) for at in (VMXON, VMCS, OTHER)},
        WRONG: _word(VMCS12_REVISION ^ 1),
        SHADOW: _word(VMCS12_REVISION | SHADOW_VMCS),
    }
    vmx = create_vmx(kvm, L1State(Processor(cr3=PML4), rip=0x1000), Memory.of(memory))
    prepare_vmcs01(vmx.vcpu)
    vmx.vcpu.vmcs01 = vmx.vcpu.vmcs
    return vmx


@pytest.fixture(params=KERNELS)
def l1(request: pytest.FixtureRequest) -> VcpuVmx:
    return l1_on(request.param)


@pytest.fixture
def root(l1: VcpuVmx) -> VcpuVmx:
    """L1 in VMX operation, without a current VMCS."""
    assert pointed(l1, "vmxon", VMXON) == "done"
    return l1


@pytest.fixture
def current(root: VcpuVmx) -> VcpuVmx:
    """L1 with a current VMCS."""
    assert pointed(root, "vmptrld", VMCS) == "done"
    return root


def pointed(vmx: VcpuVmx, name: str, address: int, operand: MemoryOperand = OPERAND) -> str:
    vmx.vcpu.memory.write(POINTER, _word(address))
    vmx.events = Events()
    result: str = getattr(ni, f"handle_{name}")(vmx, operand)
    return result


def again(vmx: VcpuVmx) -> VcpuVmx:
    """Return L1 with the exception that it has got taken."""
    vmx.events = Events()
    return vmx


def field(vmx: VcpuVmx, name: str) -> str:
    vmx.gprs["rcx"] = FIELD_BY_NAME[name].encoding
    return name


def test_vmxon_needs_vmxe_cpl_0_fixed_bits_and_the_msr(l1: VcpuVmx) -> None:
    vcpu = l1.vcpu
    vcpu.cr4 &= ~Cr4.VMXE
    assert pointed(l1, "vmxon", VMXON) == "fault 6"
    vcpu.cr4 |= Cr4.VMXE
    vcpu.cr0 &= ~Cr0.NE
    assert pointed(l1, "vmxon", VMXON) == "fault 13"
    vcpu.cr0 |= Cr0.NE
    l1.msrs = default_vcpu(loaded())
    l1.msrs.msr_ia32_feature_control = 1
    assert pointed(l1, "vmxon", VMXON) == "fault 13"
    l1.msrs.msr_ia32_feature_control = 5
    vcpu.vmcs["guest_ss_ar_bytes"] |= 3 << 5
    assert pointed(l1, "vmxon", VMXON) == "fault 13"
    assert not l1.nested.vmxon


@pytest.mark.parametrize("address", [VMXON | 8, WRONG, SHADOW, UNBACKED, 1 << 52, ALL_ONES])
def test_vmxon_with_a_bad_region_is_vmfail_invalid(l1: VcpuVmx, address: int) -> None:
    assert pointed(l1, "vmxon", address) == "vmfail-invalid"
    assert l1.vcpu.rflags & Rflags.CF
    assert l1.nested.vmxon_ptr == ALL_ONES


def test_vmxon_in_vmx_operation_is_error_15(current: VcpuVmx) -> None:
    assert pointed(current, "vmxon", VMXON) == "vmfail-valid 15"
    at = OFFSETS["vm_instruction_error"]
    assert read_word(current.nested.cached_vmcs12, at) == 15
    assert current.vcpu.rflags & Rflags.ZF


def test_without_a_current_vmcs_a_failure_has_no_number(root: VcpuVmx) -> None:
    assert pointed(root, "vmxon", VMXON) == "vmfail-invalid"
    assert pointed(root, "vmptrld", WRONG) == "vmfail-invalid"


@pytest.mark.parametrize(
    ("name", "address", "number"),
    [
        ("vmclear", VMCS | 1, 2),
        ("vmclear", 1 << 52, 2),
        ("vmclear", VMXON, 3),
        ("vmptrld", VMCS | 1, 9),
        ("vmptrld", VMXON, 10),
        ("vmptrld", WRONG, 11),
        ("vmptrld", UNBACKED, 11),
    ],
)
def test_errors_of_pointers(current: VcpuVmx, name: str, address: int, number: int) -> None:
    assert pointed(current, name, address) == f"vmfail-valid {number}"
    assert current.nested.current_vmptr == VMCS


def test_a_shadow_vmcs_can_be_loaded_where_shadowing_is_offered(current: VcpuVmx) -> None:
    vcpu = current.vcpu
    msrs = vcpu.virtual.msrs
    lacking = msrs.secondary_ctls_high & ~Secondary.VMCS_SHADOWING
    offered = vcpu.virtual
    vcpu.virtual = replace(offered, msrs=replace(msrs, secondary_ctls_high=lacking))
    assert pointed(current, "vmptrld", SHADOW) == "vmfail-valid 11"
    vcpu.virtual = offered
    assert pointed(current, "vmptrld", SHADOW) == "done"


def test_vmclear_of_no_memory_succeeds(current: VcpuVmx) -> None:
    assert pointed(current, "vmclear", UNBACKED) == "done"


def test_another_vmptrld_writes_the_vmcs_back(current: VcpuVmx) -> None:
    field(current, "guest_rip")
    current.gprs["rax"] = 0x1234
    assert ni.handle_vmwrite(again(current), "rcx", RAX) == "done"
    at = VMCS + OFFSETS["guest_rip"]
    assert current.vcpu.memory.read_int(at, 8) == 0
    assert pointed(current, "vmptrld", OTHER) == "done"
    assert current.vcpu.memory.read_int(at, 8) == 0x1234
    assert current.nested.current_vmptr == OTHER


def test_vmxoff_loses_what_was_cached(current: VcpuVmx) -> None:
    field(current, "guest_rip")
    assert ni.handle_vmwrite(again(current), "rcx", RAX) == "done"
    assert ni.handle_vmxoff(again(current)) == "done"
    assert current.vcpu.memory.read_int(VMCS + OFFSETS["guest_rip"], 8) == 0
    assert ni.handle_vmxoff(again(current)) == "fault 6"


def test_vmptrst(current: VcpuVmx) -> None:
    assert ni.handle_vmptrst(again(current), OPERAND) == "done"
    assert current.vcpu.memory.read_int(POINTER, 8) == VMCS


def test_fields_of_every_width_and_their_upper_halves(current: VcpuVmx) -> None:
    current.gprs["rax"] = 0x1122_3344_5566_7788
    for name, kept in (
        ("guest_cs_selector", 0x7788),
        ("exception_bitmap", 0x5566_7788),
        ("tsc_offset", 0x1122_3344_5566_7788),
        ("guest_es_ar_bytes", 0x1_7088 & 0x5566_7788),
    ):
        field(current, name)
        assert ni.handle_vmwrite(again(current), "rcx", RAX) == "done"
        assert ni.handle_vmread(again(current), "rcx", RegisterOperand("rbx")) == "done"
        assert current.gprs["rbx"] == kept
    current.gprs["rcx"] = FIELD_BY_NAME["tsc_offset"].encoding | 1
    assert ni.handle_vmread(again(current), "rcx", RegisterOperand("rbx")) == "done"
    assert current.gprs["rbx"] == 0x1122_3344


def test_fields_that_are_not_there_are_error_12(current: VcpuVmx) -> None:
    for encoding in (0x7FFF, 0x2036, 1 << 32, FIELD_BY_NAME["guest_cs_selector"].encoding | 1):
        current.gprs["rcx"] = encoding
        assert ni.handle_vmread(again(current), "rcx", RAX) == "vmfail-valid 12"
        assert ni.handle_vmwrite(again(current), "rcx", RAX) == "vmfail-valid 12"


def test_exit_information_is_read_only_without_the_capability(current: VcpuVmx) -> None:
    vcpu = current.vcpu
    field(current, "vm_exit_reason")
    assert ni.handle_vmwrite(again(current), "rcx", RAX) == "done"
    msrs = vcpu.virtual.msrs
    lacking = replace(msrs, misc=msrs.misc & ~VmxMisc.VMWRITE_ANY_FIELD)
    vcpu.virtual = replace(vcpu.virtual, msrs=lacking)
    assert ni.handle_vmwrite(again(current), "rcx", RAX) == "vmfail-valid 13"


def test_exceptions_of_memory_operands(root: VcpuVmx) -> None:
    def vmptrst(offset: int, segment: str = "ds") -> str:
        return ni.handle_vmptrst(again(root), MemoryOperand(offset, segment))

    assert vmptrst(1 << 63) == "fault 13"
    assert vmptrst(1 << 63, "ss") == "fault 12"
    assert vmptrst(UNMAPPED) == "fault 14"
    assert root.events.exception.error_code == 2
    assert UNMAPPED in (root.events.exception.payload, root.cr2)
    assert vmptrst(READ_ONLY) == "fault 14"
    assert root.events.exception.error_code == 3
    root.vcpu.cr0 &= ~Cr0.WP
    # Mapped, but to where there is no memory: KVM has nobody to ask.
    assert vmptrst(READ_ONLY) == "internal-error"


def test_segments_matter_without_ia_32e_mode(root: VcpuVmx) -> None:
    vcpu = root.vcpu
    vcpu.efer = 0
    vcpu.cr4 &= ~Cr4.PAE
    vcpu.cr0 &= ~Cr0.PG
    vcpu.vmcs["guest_cs_ar_bytes"] &= ~(1 << 13)
    vcpu.vmcs["guest_ds_limit"] = POINTER + 6
    assert ni.handle_vmptrst(again(root), OPERAND) == "fault 13"
    vcpu.vmcs["guest_ds_limit"] = POINTER + 7
    assert ni.handle_vmptrst(again(root), OPERAND) == "done"
    vcpu.vmcs["guest_ds_ar_bytes"] &= ~2
    assert ni.handle_vmptrst(again(root), OPERAND) == "fault 13"


@pytest.mark.parametrize(
    ("kind", "eptp", "result"),
    [
        (0, 0x1E, "vmfail-valid 28"),
        (1, 0x1E, "done"),
        (1, 0x1F, "vmfail-valid 28"),
        (1, 1 << 60 | 0x1E, "vmfail-valid 28"),
        (2, ALL_ONES, "done"),
        (3, 0x1E, "vmfail-valid 28"),
        (1 << 32 | 1, 0x1E, "vmfail-valid 28"),
    ],
)
def test_invept(current: VcpuVmx, kind: int, eptp: int, result: str) -> None:
    current.vcpu.memory.write(POINTER, _word(eptp) + _word(0))
    current.gprs["rcx"] = kind
    assert ni.handle_invept(again(current), "rcx", OPERAND) == result


@pytest.mark.parametrize(
    ("kind", "vpid", "address", "result"),
    [
        (0, 1, 0, "done"),
        (0, 0, 0, "vmfail-valid 28"),
        (0, 1, 1 << 63, "vmfail-valid 28"),
        (1, 1, 1 << 63, "done"),
        (1, 0x1_0001, 0, "vmfail-valid 28"),
        (2, 0, 0, "done"),
        (2, 0x1_0000, 0, "vmfail-valid 28"),
        (3, 1, 0, "done"),
        (4, 1, 0, "vmfail-valid 28"),
    ],
)
def test_invvpid(current: VcpuVmx, kind: int, vpid: int, address: int, result: str) -> None:
    current.vcpu.memory.write(POINTER, _word(vpid) + _word(address))
    current.gprs["rcx"] = kind
    assert ni.handle_invvpid(again(current), "rcx", OPERAND) == result


def test_outside_vmx_operation_everything_is_undefined(l1: VcpuVmx) -> None:
    assert ni.handle_invept(again(l1), "rcx", OPERAND) == "fault 6"
    assert ni.handle_vmread(again(l1), "rcx", RAX) == "fault 6"
    assert pointed(l1, "vmclear", VMCS) == "fault 6"


def test_above_cpl_0_everything_is_a_protection_fault(current: VcpuVmx) -> None:
    current.vcpu.vmcs["guest_ss_ar_bytes"] |= 3 << 5
    assert ni.handle_vmxoff(again(current)) == "fault 13"
    assert ni.handle_vmwrite(again(current), "rcx", RAX) == "fault 13"
    assert ni.handle_invvpid(again(current), "rcx", OPERAND) == "fault 13"


def test_an_operand_may_lie_on_two_pages(current: VcpuVmx) -> None:
    at = POINTER + PAGE_SIZE - 4
    current.vcpu.memory.write(at, _word(VMXON))
    assert ni.handle_vmclear(again(current), MemoryOperand(at)) == "vmfail-valid 3"


def test_success_goes_on_and_clears_the_flags(current: VcpuVmx) -> None:
    current.vcpu.rflags |= Rflags.CF | Rflags.ZF | Rflags.IF
    rip = current.vcpu.rip
    assert ni.handle_vmptrst(again(current), OPERAND) == "done"
    assert current.vcpu.rflags == Rflags.IF | Rflags.FIXED1
    assert current.vcpu.rip == rip + OPERAND.length

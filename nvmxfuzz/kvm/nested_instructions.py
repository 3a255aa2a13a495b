# SPDX-License-Identifier: GPL-2.0-only
"""handle_vmxon() and the others: the VMX instructions that L1 executes, VM entry aside.

vmx/nested.c, for a vCPU that L1 runs on, without the enlightened VMCS and with VMCS shadowing off
in KVM, so that each VMREAD and VMWRITE gets here. Each function returns how the instruction ends:
"done", "vmfail-invalid", "vmfail-valid N", "fault N", or "internal-error" where KVM gives up to
userspace because there is no memory behind the operand.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.events import Vector
from nvmxfuzz.arch.fields import FIELD_BY_ENCODING, FIELD_BY_NAME, field_type
from nvmxfuzz.arch.instruction_errors import InstructionError
from nvmxfuzz.arch.registers import Cr4, FeatureControl
from nvmxfuzz.arch.vmx_msr import EptVpidCap, VmxMisc
from nvmxfuzz.kvm.check_values import (
    is_noncanonical_base_address,
    nested_cr4_valid,
    nested_host_cr0_valid,
    page_address_valid,
)
from nvmxfuzz.kvm.guest_walk import Fault
from nvmxfuzz.kvm.nested_checks_execution import nested_vmx_check_eptp
from nvmxfuzz.kvm.nested_msrs import VMCS12_REVISION, VMCS12_SIZE
from nvmxfuzz.kvm.nested_operand import (
    MemoryOperand,
    RegisterOperand,
    kvm_register_read,
    kvm_register_write,
    read_operand,
    write_operand,
)
from nvmxfuzz.kvm.nested_vmx_result import (
    kvm_queue_exception,
    nested_vmx_fail,
    nested_vmx_fail_invalid,
    nested_vmx_succeed,
)
from nvmxfuzz.kvm.vcpu_vmx import (
    RARE_FIELDS,
    NestedVmx,
    VcpuVmx,
    copy_vmcs02_to_vmcs12_rare,
    is_64_bit_mode,
    is_vmx_code,
    vmx_get_cpl,
)
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs12 import (
    LAUNCH_STATE,
    SHADOW_VMCS,
    get_vmcs12_field_offset,
    vmcs12_read_any,
    vmcs12_write_any,
    write_fields,
)

UNDEFINED = Fault(Vector.UD)
PROTECTION = Fault(Vector.GP)

VMXOFF_LENGTH = 3

_VMXON_NEEDED_FEATURES = FeatureControl.LOCKED | FeatureControl.VMX_OUTSIDE_SMX
_ACCESS_RIGHTS = range(
    FIELD_BY_NAME["guest_es_ar_bytes"].encoding, FIELD_BY_NAME["guest_tr_ar_bytes"].encoding + 1
)
_ACCESS_RIGHTS_KEPT = 0x1F0FF
_EXT_FIELDS = frozenset(FIELD_BY_NAME[name].encoding for name in (*RARE_FIELDS, "guest_bndcfgs"))
_EXIT_INFO = "exit-info"
_INVEPT_TYPES = 6
_INVEPT_SINGLE = 1
_UNTRACED_EPTP = ("execution.eptp.memory-type", "execution.eptp.walk-length")
"""Values that no capability is about: only what calls the check traces that it has failed."""
_INDIVIDUAL_ADDRESS = 0
_ALL_CONTEXTS = 2
_VPID_TYPES = 0xF


def nested_vmx_check_permission(vmx: VcpuVmx) -> Fault | None:
    """#UD outside VMX operation and in modes without VMX instructions, #GP above CPL 0."""
    if not is_vmx_code(vmx) or not vmx.nested.vmxon:
        return UNDEFINED
    return PROTECTION if vmx_get_cpl(vmx) else None


# ---------------------------------------------------------------------- VMXON, VMXOFF


def handle_vmxon(vmx: VcpuVmx, operand: MemoryOperand) -> str:
    """VMXON."""
    vcpu = vmx.vcpu
    if not is_vmx_code(vmx) or not vcpu.cr4 & Cr4.VMXE:
        return kvm_queue_exception(vmx, UNDEFINED)
    if vmx_get_cpl(vmx):
        return kvm_queue_exception(vmx, PROTECTION)
    if vmx.nested.vmxon:
        error = int(InstructionError.VMXON_IN_VMX_ROOT_OPERATION)
        return nested_vmx_fail(vmx, error, operand.length)
    if (
        not nested_host_cr0_valid(vcpu, vcpu.cr0)
        or not nested_cr4_valid(vcpu, vcpu.cr4)
        or ~vmx.feature_control & _VMXON_NEEDED_FEATURES
    ):
        return kvm_queue_exception(vmx, PROTECTION)
    vmptr = read_operand(vmx, operand, 8)
    if isinstance(vmptr, Fault):
        return kvm_queue_exception(vmx, vmptr)
    revision = vcpu.memory.read_int(vmptr, 4) if page_address_valid(vcpu, vmptr) else None
    if revision != VMCS12_REVISION:
        return nested_vmx_fail_invalid(vmx, operand.length)
    vmx.nested.vmxon_ptr = vmptr
    enter_vmx_operation(vmx)
    return nested_vmx_succeed(vmx, operand.length)


def enter_vmx_operation(vmx: VcpuVmx) -> None:
    """Begin VMX operation, with a VMXON pointer that is there already."""
    vcpu = vmx.vcpu
    fresh = NestedVmx(
        vmxon=True,
        vmxon_ptr=vmx.nested.vmxon_ptr,
        smm_guest_mode=vmx.nested.smm_guest_mode,
        need_sync_vmcs02_to_vmcs12_rare=vmx.nested.need_sync_vmcs02_to_vmcs12_rare,
        dirty_vmcs12=vmx.nested.dirty_vmcs12,
        mtf_pending=vmx.nested.mtf_pending,
        nested_run_pending=vmx.nested.nested_run_pending,
        has_preemption_timer_deadline=vmx.nested.has_preemption_timer_deadline,
        preemption_timer_deadline=vmx.nested.preemption_timer_deadline,
    )
    vmx.nested = fresh
    vcpu.vmcs02 = {}
    vcpu.vmcs02_initialized = vcpu.vmcs02_launched = False


def handle_vmxoff(vmx: VcpuVmx) -> str:
    """VMXOFF."""
    fault = nested_vmx_check_permission(vmx)
    if fault:
        return kvm_queue_exception(vmx, fault)
    free_nested(vmx)
    return nested_vmx_succeed(vmx, VMXOFF_LENGTH)


def free_nested(vmx: VcpuVmx) -> None:
    """End VMX operation; what KVM has cached of the current VMCS is lost."""
    nested = vmx.nested
    if not nested.vmxon and not nested.smm_vmxon:
        return
    vmx.events.get_nested_state_pages = False
    nested.vmxon = nested.smm_vmxon = False
    nested.vmxon_ptr = nested.current_vmptr = ALL_ONES
    vmx.vcpu.vmcs02 = {}
    vmx.vcpu.vmcs02_initialized = vmx.vcpu.vmcs02_launched = False


# ---------------------------------------------------------------------- VMCS pointers


def nested_release_vmcs12(vmx: VcpuVmx) -> None:
    """Flush the current VMCS to memory; there is none from then on."""
    nested = vmx.nested
    if nested.current_vmptr == ALL_ONES:
        return
    copy_vmcs02_to_vmcs12_rare(vmx)
    write_fields(nested.cached_vmcs12, nested.shadow_vmcs)
    nested.shadow_vmcs = {}
    vmx.vcpu.memory.write(nested.current_vmptr & ~0xFFF, bytes(nested.cached_vmcs12))
    nested.current_vmptr = ALL_ONES


def handle_vmclear(vmx: VcpuVmx, operand: MemoryOperand) -> str:
    """VMCLEAR."""
    vmptr = _permitted_pointer(vmx, operand)
    if isinstance(vmptr, Fault):
        return kvm_queue_exception(vmx, vmptr)
    error = None
    if not page_address_valid(vmx.vcpu, vmptr):
        error = InstructionError.VMCLEAR_INVALID_ADDRESS
    elif vmptr == vmx.nested.vmxon_ptr:
        error = InstructionError.VMCLEAR_VMXON_POINTER
    if error is not None:
        return nested_vmx_fail(vmx, int(error), operand.length)
    if vmptr == vmx.nested.current_vmptr:
        nested_release_vmcs12(vmx)
    # Where there is no memory, nothing is cleared, and that is no failure.
    vmx.vcpu.memory.write(vmptr + LAUNCH_STATE, bytes(4))
    return nested_vmx_succeed(vmx, operand.length)


def _permitted_pointer(vmx: VcpuVmx, operand: MemoryOperand) -> int | Fault:
    return nested_vmx_check_permission(vmx) or read_operand(vmx, operand, 8)


def handle_vmptrld(vmx: VcpuVmx, operand: MemoryOperand) -> str:
    """VMPTRLD."""
    nested = vmx.nested
    vmptr = _permitted_pointer(vmx, operand)
    if isinstance(vmptr, Fault):
        return kvm_queue_exception(vmx, vmptr)
    error = None
    if not page_address_valid(vmx.vcpu, vmptr):
        error = InstructionError.VMPTRLD_INVALID_ADDRESS
    elif vmptr == nested.vmxon_ptr:
        error = InstructionError.VMPTRLD_VMXON_POINTER
    elif vmptr != nested.current_vmptr and not _load_vmcs12(vmx, vmptr):
        error = InstructionError.VMPTRLD_INCORRECT_VMCS_REVISION_ID
    if error is not None:
        return nested_vmx_fail(vmx, int(error), operand.length)
    return nested_vmx_succeed(vmx, operand.length)


def _load_vmcs12(vmx: VcpuVmx, vmptr: int) -> bool:
    header = vmx.vcpu.memory.read_int(vmptr, 4)
    if header is None or header & ~SHADOW_VMCS != VMCS12_REVISION:
        return False
    shadowing = vmx.vcpu.virtual.msrs.secondary_ctls_high & Secondary.VMCS_SHADOWING
    if header & SHADOW_VMCS and not shadowing:
        return False
    nested_release_vmcs12(vmx)
    image = vmx.vcpu.memory.read(vmptr, VMCS12_SIZE)
    assert image is not None
    vmx.nested.cached_vmcs12[:] = image
    set_current_vmptr(vmx, vmptr)
    return True


def set_current_vmptr(vmx: VcpuVmx, vmptr: int) -> None:
    """Make a VMCS, which KVM has or will have cached, the current one."""
    vmx.nested.current_vmptr = vmptr
    vmx.nested.dirty_vmcs12 = True
    vmx.nested.shadow_vmcs = {}


def handle_vmptrst(vmx: VcpuVmx, operand: MemoryOperand) -> str:
    """VMPTRST."""
    fault = nested_vmx_check_permission(vmx) or write_operand(
        vmx, operand, 8, vmx.nested.current_vmptr
    )
    if fault:
        return kvm_queue_exception(vmx, fault)
    return nested_vmx_succeed(vmx, operand.length)


# ---------------------------------------------------------------------- VMREAD, VMWRITE


def handle_vmread(vmx: VcpuVmx, encoding: str, destination: MemoryOperand | RegisterOperand) -> str:
    """VMREAD of the field whose encoding is in the register `encoding`."""
    fault = nested_vmx_check_permission(vmx)
    if fault:
        return kvm_queue_exception(vmx, fault)
    length = destination.length
    if not _has_vmcs_to_access(vmx):
        return nested_vmx_fail_invalid(vmx, length)
    field = kvm_register_read(vmx, encoding)
    place = get_vmcs12_field_offset(field)
    if place is None:
        return nested_vmx_fail(vmx, int(InstructionError.UNSUPPORTED_VMCS_COMPONENT), length)
    guest_mode = vmx.vcpu.guest_mode
    if field in _EXT_FIELDS and not guest_mode:
        copy_vmcs02_to_vmcs12_rare(vmx)
    nested = vmx.nested
    vmcs12 = nested.cached_shadow_vmcs12 if guest_mode else nested.cached_vmcs12
    value = vmcs12_read_any(vmcs12, place)
    if isinstance(destination, RegisterOperand):
        kvm_register_write(vmx, destination.name, value)
    else:
        fault = write_operand(vmx, destination, 8 if is_64_bit_mode(vmx) else 4, value)
        if fault:
            return kvm_queue_exception(vmx, fault)
    return nested_vmx_succeed(vmx, length)


def _has_vmcs_to_access(vmx: VcpuVmx) -> bool:
    """Whether L1 has a current VMCS, or L2 one that L1 has linked."""
    if vmx.nested.current_vmptr == ALL_ONES:
        return False
    return not vmx.vcpu.guest_mode or vmx.vmcs12.vmcs_link_pointer != ALL_ONES


def handle_vmwrite(vmx: VcpuVmx, encoding: str, source: MemoryOperand | RegisterOperand) -> str:
    """VMWRITE of the field whose encoding is in the register `encoding`."""
    fault = nested_vmx_check_permission(vmx)
    if fault:
        return kvm_queue_exception(vmx, fault)
    length = source.length
    if not _has_vmcs_to_access(vmx):
        return nested_vmx_fail_invalid(vmx, length)
    if isinstance(source, RegisterOperand):
        value: int | Fault = kvm_register_read(vmx, source.name)
    else:
        value = read_operand(vmx, source, 8 if is_64_bit_mode(vmx) else 4)
    if isinstance(value, Fault):
        return kvm_queue_exception(vmx, value)
    field = kvm_register_read(vmx, encoding)
    place = get_vmcs12_field_offset(field)
    if place is None:
        return nested_vmx_fail(vmx, int(InstructionError.UNSUPPORTED_VMCS_COMPONENT), length)
    writable = vmx.vcpu.virtual.msrs.misc & VmxMisc.VMWRITE_ANY_FIELD
    if field_type(field) == _EXIT_INFO and not writable:
        return nested_vmx_fail(vmx, int(InstructionError.VMWRITE_READ_ONLY_VMCS_COMPONENT), length)
    _write_vmcs12(vmx, field, place, value)
    return nested_vmx_succeed(vmx, length)


def _write_vmcs12(vmx: VcpuVmx, field: int, place: tuple[int, int], value: int) -> None:
    nested = vmx.nested
    if field in _ACCESS_RIGHTS:
        value &= _ACCESS_RIGHTS_KEPT
    if vmx.vcpu.guest_mode:
        vmcs12_write_any(nested.cached_shadow_vmcs12, place, value)
        return
    if field not in SHADOW_FIELDS_RW:
        copy_vmcs02_to_vmcs12_rare(vmx)
    vmcs12_write_any(nested.cached_vmcs12, place, value)
    if field not in SHADOW_FIELDS_RW:
        nested.dirty_vmcs12 = True
    elif nested.shadow_vmcs:
        name = FIELD_BY_ENCODING[field].name
        nested.shadow_vmcs[name] = vmcs12_read_any(nested.cached_vmcs12, place)


SHADOWED = (
    *("guest_intr_status", "guest_pml_index", "host_fs_selector", "host_gs_selector"),
    *("cpu_based_vm_exec_control", "pin_based_vm_exec_control", "exception_bitmap"),
    *("vm_entry_exception_error_code", "vm_entry_intr_info_field"),
    *("vm_entry_instruction_len", "tpr_threshold", "guest_interruptibility_info"),
    *("vmx_preemption_timer_value", "guest_rip", "guest_rsp", "guest_cr0", "guest_cr3"),
    *("guest_cr4", "guest_rflags", "cr0_guest_host_mask", "cr0_read_shadow"),
    *("cr4_read_shadow", "host_fs_base", "host_gs_base"),
)
"""Fields that L1 reads and writes in a shadow VMCS where the processor has one."""
SHADOW_FIELDS_RW = frozenset(FIELD_BY_NAME[name].encoding for name in SHADOWED)
"""The same, by encoding: every VM entry copies them, so that writing them makes nothing dirty."""


def keep_shadow_vmcs(vmx: VcpuVmx) -> None:
    """Note what KVM's shadow VMCS holds while L2 runs: what vmcs12 holds now."""
    values = vmx.vmcs12.__dict__
    vmx.nested.shadow_vmcs = {name: values[name] for name in SHADOWED}


# ---------------------------------------------------------------------- INVEPT, INVVPID


def handle_invept(vmx: VcpuVmx, kind: str, descriptor: MemoryOperand) -> str:
    """INVEPT with its type in the register `kind`."""
    msrs = vmx.vcpu.virtual.msrs
    offered = msrs.secondary_ctls_high & Secondary.ENABLE_EPT
    if not is_vmx_code(vmx) or not offered or not msrs.ept_caps & EptVpidCap.INVEPT:
        return kvm_queue_exception(vmx, UNDEFINED)
    fault = nested_vmx_check_permission(vmx)
    if fault:
        return kvm_queue_exception(vmx, fault)
    number = kvm_register_read(vmx, kind)
    types = msrs.ept_caps >> 24 & _INVEPT_TYPES
    if number >= 32 or not types >> number & 1:
        return _invalid_operand(vmx, descriptor)
    value = read_operand(vmx, descriptor, 16)
    if isinstance(value, Fault):
        return kvm_queue_exception(vmx, value)
    if number == _INVEPT_SINGLE:
        failed = nested_vmx_check_eptp(vmx.vcpu, value & ALL_ONES)
        if failed:
            if failed not in _UNTRACED_EPTP:
                vmx.vcpu.fired.append(failed)
            return _invalid_operand(vmx, descriptor)
    return nested_vmx_succeed(vmx, descriptor.length)


def handle_invvpid(vmx: VcpuVmx, kind: str, descriptor: MemoryOperand) -> str:
    """INVVPID with its type in the register `kind`."""
    msrs = vmx.vcpu.virtual.msrs
    offered = msrs.secondary_ctls_high & Secondary.ENABLE_VPID
    if not is_vmx_code(vmx) or not offered or not msrs.vpid_caps & EptVpidCap.INVVPID >> 32:
        return kvm_queue_exception(vmx, UNDEFINED)
    fault = nested_vmx_check_permission(vmx)
    if fault:
        return kvm_queue_exception(vmx, fault)
    number = kvm_register_read(vmx, kind)
    types = msrs.vpid_caps >> 8 & _VPID_TYPES
    if number >= 32 or not types >> number & 1:
        return _invalid_operand(vmx, descriptor)
    value = read_operand(vmx, descriptor, 16)
    if isinstance(value, Fault):
        return kvm_queue_exception(vmx, value)
    vpid, address = value & ALL_ONES, value >> 64
    if (
        vpid >> 16
        or (number != _ALL_CONTEXTS and not vpid)
        or (number == _INDIVIDUAL_ADDRESS and is_noncanonical_base_address(address, vmx.vcpu))
    ):
        return _invalid_operand(vmx, descriptor)
    return nested_vmx_succeed(vmx, descriptor.length)


def _invalid_operand(vmx: VcpuVmx, descriptor: MemoryOperand) -> str:
    error = int(InstructionError.INVALID_OPERAND_TO_INVEPT_INVVPID)
    return nested_vmx_fail(vmx, error, descriptor.length)

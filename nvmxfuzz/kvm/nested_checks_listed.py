# SPDX-License-Identifier: GPL-2.0-only
"""check_vmentry_prereqs() and check_vmentry_postreqs(): the checks as they were up to 5.0.

vmx.c. The single checks are today's; their order, what there is of them and what a failure comes to
are not. Of the host state only the control registers were looked at, and EFER only once VM entry
was past VMfail.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Primary, VmEntry, VmExit
from nvmxfuzz.arch.entry_failures import EntryFailure
from nvmxfuzz.arch.events import Activity, InterruptionInfo
from nvmxfuzz.arch.instruction_errors import InstructionError
from nvmxfuzz.kvm import nested_checks_execution as execution
from nvmxfuzz.kvm.check_values import (
    kvm_vcpu_is_legal_cr3,
    nested_cr4_valid,
    nested_guest_cr0_valid,
    nested_host_cr0_valid,
    vmx_control_verify,
)
from nvmxfuzz.kvm.nested_checks_controls import check_event, nested_vmx_check_msr_switch
from nvmxfuzz.kvm.nested_checks_guest import (
    check_bndcfgs,
    check_guest_efer,
    nested_vmx_check_vmcs_link_ptr,
)
from nvmxfuzz.kvm.nested_checks_host import check_host_efer
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.machine.vmcs import Vmcs

_CONTROL_FIELD = int(InstructionError.ENTRY_INVALID_CONTROL_FIELD)
_HOST_FIELD = int(InstructionError.ENTRY_INVALID_HOST_STATE_FIELD)


def check_vmentry_prereqs(vcpu: Vcpu, vmcs12: Vmcs) -> tuple[str, int]:
    """Return the first check that ends in VMfail with the error number, or ("", 0)."""
    failed = _check_settings(vcpu, vmcs12)
    if failed:
        return failed, _CONTROL_FIELD
    failed = _check_host_control_registers(vcpu, vmcs12)
    if failed:
        return failed, _HOST_FIELD
    if vmcs12.vm_entry_intr_info_field & InterruptionInfo.VALID:
        failed = check_event(vcpu, vmcs12)
    failed = failed or execution.check_ept(vcpu, vmcs12)
    return (failed, _CONTROL_FIELD) if failed else ("", 0)


def _check_settings(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    if vmcs12.guest_activity_state not in (Activity.ACTIVE, Activity.HLT):
        return "guest.activity.supported"
    return (
        execution.check_vpid(vmcs12)
        or execution.nested_vmx_check_io_bitmap_controls(vcpu, vmcs12)
        or execution.nested_vmx_check_msr_bitmap_controls(vcpu, vmcs12)
        or execution.nested_vmx_check_apic_access_controls(vcpu, vmcs12)
        or execution.nested_vmx_check_tpr_shadow_controls(vcpu, vmcs12)
        or execution.nested_vmx_check_apicv_controls(vcpu, vmcs12)
        or _check_msr_lists(vcpu, vmcs12)
        or execution.nested_vmx_check_pml_controls(vcpu, vmcs12)
        or execution.nested_vmx_check_shadow_vmcs_controls(vcpu, vmcs12)
        or _check_allowed(vcpu, vmcs12)
        or execution.nested_vmx_check_nmi_controls(vmcs12)
        or execution.check_vm_functions(vcpu, vmcs12)
        or execution.check_cr3_targets(vcpu, vmcs12)
    )


def _check_msr_lists(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    for name, count, address in (
        ("exit.msr-load.area", vmcs12.vm_exit_msr_load_count, vmcs12.vm_exit_msr_load_addr),
        ("exit.msr-store.area", vmcs12.vm_exit_msr_store_count, vmcs12.vm_exit_msr_store_addr),
        ("entry.msr-load.area", vmcs12.vm_entry_msr_load_count, vmcs12.vm_entry_msr_load_addr),
    ):
        if not nested_vmx_check_msr_switch(vcpu, count, address):
            return name
    return ""


def _check_allowed(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    msrs = vcpu.virtual.msrs
    primary = vmcs12.cpu_based_vm_exec_control
    if not vmx_control_verify(primary, msrs.procbased_ctls_low, msrs.procbased_ctls_high):
        return "execution.primary.allowed"
    if primary & Primary.ACTIVATE_SECONDARY_CONTROLS and not vmx_control_verify(
        vmcs12.secondary_vm_exec_control, msrs.secondary_ctls_low, msrs.secondary_ctls_high
    ):
        return "execution.secondary.allowed"
    if not vmx_control_verify(
        vmcs12.pin_based_vm_exec_control, msrs.pinbased_ctls_low, msrs.pinbased_ctls_high
    ):
        return "execution.pin-based.allowed"
    if not vmx_control_verify(vmcs12.vm_exit_controls, msrs.exit_ctls_low, msrs.exit_ctls_high):
        return "exit.controls.allowed"
    if not vmx_control_verify(vmcs12.vm_entry_controls, msrs.entry_ctls_low, msrs.entry_ctls_high):
        return "entry.controls.allowed"
    return ""


def _check_host_control_registers(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    if not nested_host_cr0_valid(vcpu, vmcs12.host_cr0):
        return "host.cr0.fixed"
    if not nested_cr4_valid(vcpu, vmcs12.host_cr4):
        return "host.cr4.valid"
    if not kvm_vcpu_is_legal_cr3(vcpu, vmcs12.host_cr3):
        return "host.cr3.width"
    return ""


def check_vmentry_postreqs(vcpu: Vcpu, vmcs12: Vmcs) -> tuple[str, int]:
    """Return the first check that ends in a VM exit with its qualification, or ("", 0)."""
    failed = ""
    if not nested_guest_cr0_valid(vcpu, vmcs12.guest_cr0):
        failed = "guest.cr0.fixed"
    elif not nested_cr4_valid(vcpu, vmcs12.guest_cr4):
        failed = "guest.cr4.valid"
    if failed:
        return failed, int(EntryFailure.DEFAULT)
    failed = nested_vmx_check_vmcs_link_ptr(vcpu, vmcs12)
    if failed:
        return failed, int(EntryFailure.VMCS_LINK_POINTER)
    ia32e = vmcs12.vm_entry_controls & VmEntry.IA_32E_MODE_GUEST != 0
    host_ia32e = vmcs12.vm_exit_controls & VmExit.HOST_ADDRESS_SPACE_SIZE != 0
    failed = (
        check_guest_efer(vcpu, vmcs12, ia32e)
        or check_host_efer(vcpu, vmcs12, host_ia32e)
        or check_bndcfgs(vcpu, vmcs12)
    )
    return failed, int(EntryFailure.DEFAULT)

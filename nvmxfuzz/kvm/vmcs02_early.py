# SPDX-License-Identifier: GPL-2.0-only
"""prepare_vmcs02_early(): the controls that L2 runs with, before anything of L2 is loaded.

vmx/nested.c, in the kernel's order. Everything that hardware could answer with a VMfail is set
here, so that it can be tried before L1's state is lost.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.registers import Cr4, Efer
from nvmxfuzz.kvm.check_values import nested_cpu_has2
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs01 import construct_eptp, vmx_set_constant_host_state
from nvmxfuzz.kvm.vmcs02_fields import copy_event
from nvmxfuzz.kvm.vmx_registers import cpu_has_load_ia32_efer, vmx_umip_emulated
from nvmxfuzz.machine.vmcs import Vmcs

POSTED_INTR_NESTED_VECTOR = 0xF0
PML_LAST_INDEX = 511

_EFER_SWITCHED = Efer.LMA | Efer.LME


def nested_vmx_calc_efer(vcpu: Vcpu, vmcs12: Vmcs) -> int:
    """Return the EFER that L2 starts with."""
    controls = vmcs12.vm_entry_controls
    if vcpu.nested_run_pending and controls & VmEntry.LOAD_IA32_EFER:
        return vmcs12.guest_ia32_efer
    if controls & VmEntry.IA_32E_MODE_GUEST:
        return vcpu.efer | _EFER_SWITCHED
    return vcpu.efer & ~_EFER_SWITCHED


def prepare_vmcs02_constant_state(vcpu: Vcpu) -> None:
    """Set what L0 alone decides and never changes; done once for a vmcs02."""
    vmcs = vcpu.vmcs
    kvm = vcpu.kvm
    config = kvm.config
    secondary = config.cpu_based_2nd_exec_ctrl
    places = kvm.places
    if vcpu.params.ept and vcpu.early_check:
        # Any valid EPTP will do: the dry run must not fail for the lack of one.
        vmcs["ept_pointer"] = construct_eptp(vcpu, 0)
    if secondary & Secondary.ENABLE_VM_FUNCTIONS:
        vmcs["vm_function_control"] = 0
    if config.pin_based_exec_ctrl & Pin.PROCESS_POSTED_INTERRUPTS:
        vmcs["posted_intr_nv"] = POSTED_INTR_NESTED_VECTOR
    if config.cpu_based_exec_ctrl & Primary.USE_MSR_BITMAPS:
        vmcs["msr_bitmap"] = places.msr_bitmap02
    if vcpu.params.pml:
        # Without it, values that make hardware fail should it ever log.
        own = vcpu.behaviour.vmcs02_has_pml
        vmcs["pml_address"] = places.pml if own else 0
        vmcs["guest_pml_index"] = PML_LAST_INDEX if own else 0xFFFF
    if secondary & Secondary.ENABLE_ENCLS_EXITING:
        vmcs["encls_exiting_bitmap"] = ALL_ONES
    vmcs["vm_exit_msr_store_addr"] = places.autostore
    vmcs["vm_exit_msr_load_addr"] = places.autoload_host
    vmcs["vm_entry_msr_load_addr"] = places.autoload_guest
    vmx_set_constant_host_state(vmcs, kvm)


def prepare_vmcs02_early_rare(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    """Set what changes only when L1 loads another vmcs12, before anything can fail."""
    if not vcpu.vmcs02_initialized:
        vcpu.vmcs02_initialized = True
        prepare_vmcs02_constant_state(vcpu)
    vcpu.vmcs["vmcs_link_pointer"] = ALL_ONES
    if vcpu.params.vpid:
        own = nested_cpu_has2(vmcs12, Secondary.ENABLE_VPID) and vcpu.kvm.vpid02
        vcpu.vmcs["virtual_processor_id"] = vcpu.kvm.vpid02 if own else vcpu.kvm.vpid01


def prepare_vmcs02_early(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    """Merge the controls: everything that a check ending in VMfail could be about."""
    guest_efer = nested_vmx_calc_efer(vcpu, vmcs12)
    if vcpu.dirty_vmcs12:
        prepare_vmcs02_early_rare(vcpu, vmcs12)
    vmcs = vcpu.vmcs
    pin = vcpu.vmcs01["pin_based_vm_exec_control"] | (
        vmcs12.pin_based_vm_exec_control & ~Pin.ACTIVATE_VMX_PREEMPTION_TIMER
    )
    if not vmcs12.pin_based_vm_exec_control & Pin.PROCESS_POSTED_INTERRUPTS:
        pin &= ~Pin.PROCESS_POSTED_INTERRUPTS
    vmcs["pin_based_vm_exec_control"] = pin
    vmcs["cpu_based_vm_exec_control"] = _merge_primary(vcpu, vmcs12)
    if vcpu.kvm.config.cpu_based_exec_ctrl & Primary.ACTIVATE_SECONDARY_CONTROLS:
        vmcs["secondary_vm_exec_control"] = _merge_secondary(vcpu, vmcs12)
    _merge_entry_and_exit(vcpu, vmcs12, guest_efer)
    if vcpu.nested_run_pending:
        copy_event(vmcs, vmcs12)
    else:
        vmcs["vm_entry_intr_info_field"] = 0


def _merge_primary(vcpu: Vcpu, vmcs12: Vmcs) -> int:
    controls = vcpu.vmcs01["cpu_based_vm_exec_control"]
    controls &= ~(
        Primary.INTERRUPT_WINDOW_EXITING | Primary.NMI_WINDOW_EXITING | Primary.USE_TPR_SHADOW
    )
    controls |= vmcs12.cpu_based_vm_exec_control
    if controls & Primary.USE_TPR_SHADOW:
        vcpu.vmcs["tpr_threshold"] = vmcs12.tpr_threshold
    else:
        controls |= Primary.CR8_LOAD_EXITING | Primary.CR8_STORE_EXITING
    controls |= Primary.UNCONDITIONAL_IO_EXITING
    controls &= ~(Primary.USE_IO_BITMAPS | Primary.USE_MSR_BITMAPS)
    return controls | vcpu.vmcs["cpu_based_vm_exec_control"] & Primary.USE_MSR_BITMAPS


def _merge_secondary(vcpu: Vcpu, vmcs12: Vmcs) -> int:
    behaviour = vcpu.behaviour
    controls = vcpu.vmcs01["secondary_vm_exec_control"] & ~behaviour.only_from_vmcs12
    if not behaviour.vmcs02_has_pml:
        controls &= ~Secondary.ENABLE_PML
    if vmcs12.cpu_based_vm_exec_control & Primary.ACTIVATE_SECONDARY_CONTROLS:
        controls |= vmcs12.secondary_vm_exec_control & ~Secondary.ENABLE_PML
    controls &= ~Secondary.VMCS_SHADOWING
    if vmx_umip_emulated(vcpu) and vmcs12.guest_cr4 & Cr4.UMIP:
        controls |= Secondary.DESCRIPTOR_TABLE_EXITING
    if controls & Secondary.VIRTUAL_INTERRUPT_DELIVERY:
        vcpu.vmcs["guest_intr_status"] = vmcs12.guest_intr_status
    if not behaviour.keeps_unrestricted_guest and not nested_cpu_has2(
        vmcs12, Secondary.UNRESTRICTED_GUEST
    ):
        controls &= ~Secondary.UNRESTRICTED_GUEST
    if controls & Secondary.ENABLE_ENCLS_EXITING:
        vmx_write_encls_bitmap(vcpu, vmcs12)
    return controls


def vmx_write_encls_bitmap(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    """Intercept the ENCLS leaves that KVM or, if it uses the control, L1 wants to see."""
    if not vcpu.behaviour.merges_encls_bitmap:
        vcpu.vmcs["encls_exiting_bitmap"] = ALL_ONES
        return
    bitmap = vcpu.vmcs01["encls_exiting_bitmap"]
    if nested_cpu_has2(vmcs12, Secondary.ENABLE_ENCLS_EXITING):
        bitmap |= vmcs12.encls_exiting_bitmap
    vcpu.vmcs["encls_exiting_bitmap"] = bitmap


def _merge_entry_and_exit(vcpu: Vcpu, vmcs12: Vmcs, guest_efer: int) -> None:
    wanted = vmcs12.vm_entry_controls
    if not vcpu.behaviour.passes_perf_global_ctrl:
        wanted &= ~VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL
    entry = vcpu.vmcs01["vm_entry_controls"] | wanted
    entry &= ~(VmEntry.IA_32E_MODE_GUEST | VmEntry.LOAD_IA32_EFER)
    vm_exit = vcpu.vmcs01["vm_exit_controls"] & ~VmExit.LOAD_IA32_EFER
    if cpu_has_load_ia32_efer(vcpu):
        if guest_efer & Efer.LMA:
            entry |= VmEntry.IA_32E_MODE_GUEST
        if guest_efer != vcpu.kvm.host.efer:
            entry |= VmEntry.LOAD_IA32_EFER
            vm_exit |= VmExit.LOAD_IA32_EFER
    vcpu.vmcs["vm_entry_controls"] = entry
    vcpu.vmcs["vm_exit_controls"] = vm_exit

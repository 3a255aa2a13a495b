# SPDX-License-Identifier: GPL-2.0-only
"""nested_check_vm_execution_controls() and its parts: vmcs12's VM-execution control fields.

vmx/nested.c, in the kernel's order. Each function returns the name of the first check that fails,
"" if none does: where the kernel returns -EINVAL. A name is ours; the kernel prints the condition.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmExit
from nvmxfuzz.arch.paging import Eptp
from nvmxfuzz.arch.vmx_msr import EptVpidCap
from nvmxfuzz.kvm.check_values import (
    kvm_vcpu_is_legal_aligned_gpa,
    kvm_vcpu_is_legal_gpa,
    nested_cpu_has2,
    page_address_valid,
    vmx_control_verify,
)
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.machine.vmcs import Vmcs

_SECONDARY = int(Primary.ACTIVATE_SECONDARY_CONTROLS)
_APICV = (
    Secondary.VIRTUALIZE_X2APIC_MODE
    | Secondary.APIC_REGISTER_VIRTUALIZATION
    | Secondary.VIRTUAL_INTERRUPT_DELIVERY
)
_VMFUNC_EPTP_SWITCHING = 1
_MT_MASK = int(Eptp.MEMORY_TYPE)
_MT_UC = 0
_MT_WB = 6
_PWL_MASK = int(Eptp.PAGE_WALK_LENGTH)
_PWL_4 = 3 << 3
_PWL_5 = 4 << 3


def nested_check_vm_execution_controls(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """Check everything that decides what causes a VM exit or how L2 is run."""
    msrs = vcpu.virtual.msrs
    if not vmx_control_verify(
        vmcs12.pin_based_vm_exec_control, msrs.pinbased_ctls_low, msrs.pinbased_ctls_high
    ):
        return "execution.pin-based.allowed"
    primary = vmcs12.cpu_based_vm_exec_control
    if not vmx_control_verify(primary, msrs.procbased_ctls_low, msrs.procbased_ctls_high):
        return "execution.primary.allowed"
    if primary & _SECONDARY and not vmx_control_verify(
        vmcs12.secondary_vm_exec_control, msrs.secondary_ctls_low, msrs.secondary_ctls_high
    ):
        return "execution.secondary.allowed"
    return (
        check_cr3_targets(vcpu, vmcs12)
        or nested_vmx_check_io_bitmap_controls(vcpu, vmcs12)
        or nested_vmx_check_msr_bitmap_controls(vcpu, vmcs12)
        or nested_vmx_check_tpr_shadow_controls(vcpu, vmcs12)
        or nested_vmx_check_apic_access_controls(vcpu, vmcs12)
        or nested_vmx_check_apicv_controls(vcpu, vmcs12)
        or nested_vmx_check_nmi_controls(vmcs12)
        or nested_vmx_check_pml_controls(vcpu, vmcs12)
        or nested_vmx_check_unrestricted_guest_controls(vmcs12)
        or nested_vmx_check_mode_based_ept_exec_controls(vmcs12)
        or nested_vmx_check_shadow_vmcs_controls(vcpu, vmcs12)
        or check_vpid(vmcs12)
        or _check_preemption_timer(vmcs12)
        or check_ept(vcpu, vmcs12)
        or check_vm_functions(vcpu, vmcs12)
        or _check_tsc_scaling(vcpu, vmcs12)
    )


def check_cr3_targets(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """There are no more CR3-target values than IA32_VMX_MISC says."""
    if vmcs12.cr3_target_count > vcpu.virtual.msrs.misc >> 16 & 0x1FF:
        return "execution.cr3-targets.count"
    return ""


def nested_vmx_check_io_bitmap_controls(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """Both I/O bitmaps are pages where they are used."""
    if not vmcs12.cpu_based_vm_exec_control & Primary.USE_IO_BITMAPS:
        return ""
    if not page_address_valid(vcpu, vmcs12.io_bitmap_a):
        return "execution.io-bitmap-a.address"
    if not page_address_valid(vcpu, vmcs12.io_bitmap_b):
        return "execution.io-bitmap-b.address"
    return ""


def nested_vmx_check_msr_bitmap_controls(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """The MSR bitmap is a page where it is used."""
    if not vmcs12.cpu_based_vm_exec_control & Primary.USE_MSR_BITMAPS:
        return ""
    if not page_address_valid(vcpu, vmcs12.msr_bitmap):
        return "execution.msr-bitmap.address"
    return ""


def nested_vmx_check_tpr_shadow_controls(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """The virtual-APIC page is a page where the TPR shadow is used; later, the threshold is 4 bits.

    The threshold is not compared with the virtual TPR, which L1 may change at any moment.
    """
    if not vmcs12.cpu_based_vm_exec_control & Primary.USE_TPR_SHADOW:
        return ""
    if not page_address_valid(vcpu, vmcs12.virtual_apic_page_addr):
        return "execution.virtual-apic.address"
    if (
        vcpu.behaviour.checks_tpr_threshold
        and vmcs12.tpr_threshold >> 4
        and not nested_cpu_has2(vmcs12, Secondary.VIRTUAL_INTERRUPT_DELIVERY)
    ):
        return "execution.tpr-threshold.width"
    return ""


def nested_vmx_check_apic_access_controls(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """The APIC-access page is a page where accesses to it are virtualized."""
    if nested_cpu_has2(vmcs12, Secondary.VIRTUALIZE_APIC_ACCESSES) and not page_address_valid(
        vcpu, vmcs12.apic_access_addr
    ):
        return "execution.apic-access.address"
    return ""


def nested_vmx_check_apicv_controls(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """What the APIC virtualization controls demand of one another."""
    pin = vmcs12.pin_based_vm_exec_control
    primary = vmcs12.cpu_based_vm_exec_control
    secondary = vmcs12.secondary_vm_exec_control if primary & _SECONDARY else 0
    posted = pin & Pin.PROCESS_POSTED_INTERRUPTS
    if not secondary & _APICV and not posted:
        return ""
    if (
        secondary & Secondary.VIRTUALIZE_X2APIC_MODE
        and secondary & Secondary.VIRTUALIZE_APIC_ACCESSES
    ):
        return "execution.x2apic-mode.apic-accesses"
    delivery = secondary & Secondary.VIRTUAL_INTERRUPT_DELIVERY
    if delivery and not pin & Pin.EXTERNAL_INTERRUPT_EXITING:
        return "execution.virtual-interrupts.external"
    if posted:
        if not delivery:
            return "execution.posted-interrupts.delivery"
        if not vmcs12.vm_exit_controls & VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT:
            return "execution.posted-interrupts.acknowledge"
        if vmcs12.posted_intr_nv & 0xFF00:
            return "execution.posted-interrupts.vector"
        if not kvm_vcpu_is_legal_aligned_gpa(vcpu, vmcs12.posted_intr_desc_addr, 64):
            return "execution.posted-interrupts.descriptor"
    if not primary & Primary.USE_TPR_SHADOW:
        return "execution.apic-virtualization.tpr-shadow"
    return ""


def nested_vmx_check_nmi_controls(vmcs12: Vmcs) -> str:
    """Virtual NMIs need NMI exiting, NMI windows need virtual NMIs."""
    pin = vmcs12.pin_based_vm_exec_control
    if pin & Pin.VIRTUAL_NMIS:
        return "" if pin & Pin.NMI_EXITING else "execution.virtual-nmis.nmi-exiting"
    if vmcs12.cpu_based_vm_exec_control & Primary.NMI_WINDOW_EXITING:
        return "execution.nmi-window.virtual-nmis"
    return ""


def nested_vmx_check_pml_controls(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """Page-modification logging needs EPT and a page."""
    if not nested_cpu_has2(vmcs12, Secondary.ENABLE_PML):
        return ""
    if not vmcs12.secondary_vm_exec_control & Secondary.ENABLE_EPT:
        return "execution.pml.ept"
    if not page_address_valid(vcpu, vmcs12.pml_address):
        return "execution.pml.address"
    return ""


def nested_vmx_check_unrestricted_guest_controls(vmcs12: Vmcs) -> str:
    """An unrestricted guest needs EPT."""
    if nested_cpu_has2(vmcs12, Secondary.UNRESTRICTED_GUEST) and not nested_cpu_has2(
        vmcs12, Secondary.ENABLE_EPT
    ):
        return "execution.unrestricted-guest.ept"
    return ""


def nested_vmx_check_mode_based_ept_exec_controls(vmcs12: Vmcs) -> str:
    """Mode-based execute control needs EPT."""
    if nested_cpu_has2(
        vmcs12, Secondary.MODE_BASED_EXECUTE_CONTROL_FOR_EPT
    ) and not nested_cpu_has2(vmcs12, Secondary.ENABLE_EPT):
        return "execution.mode-based-execute.ept"
    return ""


def nested_vmx_check_shadow_vmcs_controls(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """VMCS shadowing needs both of its bitmaps."""
    if not nested_cpu_has2(vmcs12, Secondary.VMCS_SHADOWING):
        return ""
    if not page_address_valid(vcpu, vmcs12.vmread_bitmap):
        return "execution.vmread-bitmap.address"
    if not page_address_valid(vcpu, vmcs12.vmwrite_bitmap):
        return "execution.vmwrite-bitmap.address"
    return ""


def nested_vmx_check_eptp(vcpu: Vcpu, eptp: int) -> str:
    """What the EPT pointer selects, the vCPU's EPT capabilities have; its address is legal."""
    caps = vcpu.virtual.msrs.ept_caps
    memory_type = eptp & _MT_MASK
    if memory_type == _MT_UC:
        if not caps & EptVpidCap.MEMORY_TYPE_UC:
            return "execution.eptp.uncacheable"
    elif memory_type == _MT_WB:
        if not caps & EptVpidCap.MEMORY_TYPE_WB:
            return "execution.eptp.write-back"
    else:
        return "execution.eptp.memory-type"
    walk = eptp & _PWL_MASK
    if walk == _PWL_5:
        if not caps & EptVpidCap.PAGE_WALK_5:
            return "execution.eptp.walk-of-5"
    elif walk == _PWL_4:
        if not caps & EptVpidCap.PAGE_WALK_4:
            return "execution.eptp.walk-of-4"
    else:
        return "execution.eptp.walk-length"
    if not kvm_vcpu_is_legal_gpa(vcpu, eptp) or eptp >> 7 & 0x1F:
        return "execution.eptp.reserved"
    if eptp & Eptp.ACCESSED_DIRTY and not caps & EptVpidCap.ACCESSED_DIRTY:
        return "execution.eptp.accessed-dirty"
    return ""


def check_vpid(vmcs12: Vmcs) -> str:
    """A VPID that is used is not 0."""
    if nested_cpu_has2(vmcs12, Secondary.ENABLE_VPID) and not vmcs12.virtual_processor_id:
        return "execution.vpid.zero"
    return ""


def _check_preemption_timer(vmcs12: Vmcs) -> str:
    # The one refusal among the controls that the kernel has no CC() for.
    if (
        not vmcs12.pin_based_vm_exec_control & Pin.ACTIVATE_VMX_PREEMPTION_TIMER
        and vmcs12.vm_exit_controls & VmExit.SAVE_VMX_PREEMPTION_TIMER_VALUE
    ):
        return "exit.preemption-timer.active"
    return ""


def check_ept(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """An EPT pointer that is used is valid."""
    if nested_cpu_has2(vmcs12, Secondary.ENABLE_EPT):
        return nested_vmx_check_eptp(vcpu, vmcs12.ept_pointer)
    return ""


def check_vm_functions(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """The VM functions are ones the vCPU has; EPTP switching needs EPT and a list."""
    if not nested_cpu_has2(vmcs12, Secondary.ENABLE_VM_FUNCTIONS):
        return ""
    functions = vmcs12.vm_function_control
    if functions & ~vcpu.virtual.msrs.vmfunc_controls:
        return "execution.vm-functions.allowed"
    if functions & _VMFUNC_EPTP_SWITCHING:
        if not vmcs12.secondary_vm_exec_control & Secondary.ENABLE_EPT:
            return "execution.eptp-switching.ept"
        if not page_address_valid(vcpu, vmcs12.eptp_list_address):
            return "execution.eptp-list.address"
    return ""


def _check_tsc_scaling(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    if (
        vcpu.behaviour.checks_tsc_multiplier
        and not vmcs12.tsc_multiplier
        and nested_cpu_has2(vmcs12, Secondary.USE_TSC_SCALING)
    ):
        return "execution.tsc-multiplier.zero"
    return ""

# SPDX-License-Identifier: GPL-2.0-only
"""init_vmcs() and what follows it: the VMCS that KVM runs L1 with, when L1 executes VMLAUNCH.

vmx/vmx.c. Of vmcs01 a nested entry reads the controls and writes the guest state back; the rest
is here so that a whole VMCS can be handed to a processor.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.arch.paging import Eptp
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.arch.segments import AccessRights
from nvmxfuzz.kvm.vcpu import Kvm, Vcpu
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmx_registers import (
    kvm_set_dr7,
    set_cr4_guest_host_mask,
    vmx_guest_debugctl_write,
    vmx_l1_guest_owned_cr0_bits,
    vmx_set_cr0,
    vmx_set_cr4,
    vmx_set_efer,
    vmx_set_rflags,
    vmx_update_exception_bitmap,
)

ZERO_VMCS = dict.fromkeys((field.name for field in FIELDS), 0)

_KERNEL_CS = 0x10
_KERNEL_DS = 0x18
_TSS_SELECTOR = 0x40
_EPTP_WB = 6
_EPTP_4_LEVELS = 3 << 3

_NOT_USED_PRIMARY = (
    Primary.RDTSC_EXITING
    | Primary.USE_IO_BITMAPS
    | Primary.MONITOR_TRAP_FLAG
    | Primary.PAUSE_EXITING
    | Primary.INTERRUPT_WINDOW_EXITING
    | Primary.NMI_WINDOW_EXITING
)
_CR8_EXITING = Primary.CR8_LOAD_EXITING | Primary.CR8_STORE_EXITING
_PAGING_EXITING = Primary.CR3_LOAD_EXITING | Primary.CR3_STORE_EXITING | Primary.INVLPG_EXITING
_NOT_USED_EXIT = (
    VmExit.SAVE_IA32_PAT
    | VmExit.SAVE_IA32_EFER
    | VmExit.SAVE_VMX_PREEMPTION_TIMER_VALUE
    | VmExit.CONCEAL_VMX_FROM_PT
    | VmExit.CLEAR_IA32_RTIT_CTL
    | VmExit.LOAD_IA32_PERF_GLOBAL_CTRL
    | VmExit.LOAD_IA32_EFER
)
_NOT_USED_ENTRY = (
    VmEntry.CONCEAL_VMX_FROM_PT
    | VmEntry.LOAD_IA32_RTIT_CTL
    | VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL
    | VmEntry.LOAD_IA32_EFER
    | VmEntry.IA_32E_MODE_GUEST
)
_NOT_USED_SECONDARY = (
    Secondary.INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES
    | Secondary.CONCEAL_VMX_FROM_PT
    | Secondary.VIRTUALIZE_X2APIC_MODE
    | Secondary.ENABLE_VM_FUNCTIONS
    | Secondary.DESCRIPTOR_TABLE_EXITING
    | Secondary.VMCS_SHADOWING
    | Secondary.VMM_BUS_LOCK_DETECTION
    | Secondary.INSTRUCTION_TIMEOUT
)
"""Not on in vmcs01 by default: system-wide PT, no bus-lock or notify exits."""

_DATA = 0xC093
_CODE_64 = 0xA09B
_CODE_32 = 0xC09B
_TSS = 0x8B


def construct_eptp(vcpu: Vcpu, root: int) -> int:
    """Return an EPTP for a root table with four levels."""
    eptp = root | _EPTP_WB | _EPTP_4_LEVELS
    nested_ad = vcpu.vmcs12.ept_pointer & Eptp.ACCESSED_DIRTY
    if vcpu.params.ept_ad_bits and (not vcpu.guest_mode or nested_ad):
        eptp |= Eptp.ACCESSED_DIRTY
    return eptp


def vmx_set_constant_host_state(vmcs: dict[str, int], kvm: Kvm) -> None:
    """Set the host state that is the same for every VM exit."""
    host = kvm.host
    vmcs["host_cr0"] = host.cr0
    vmcs["host_cr3"] = host.cr3
    vmcs["host_cr4"] = host.cr4
    vmcs["host_cs_selector"] = _KERNEL_CS
    vmcs["host_ds_selector"] = 0
    vmcs["host_es_selector"] = 0
    vmcs["host_ss_selector"] = _KERNEL_DS
    vmcs["host_tr_selector"] = _TSS_SELECTOR
    vmcs["host_idtr_base"] = host.idtr_base
    vmcs["host_rip"] = host.rip
    vmcs["host_ia32_sysenter_cs"] = host.sysenter_cs
    vmcs["host_ia32_sysenter_eip"] = host.sysenter_eip
    if kvm.config.vmexit_ctrl & VmExit.LOAD_IA32_PAT:
        vmcs["host_ia32_pat"] = host.pat
    if kvm.config.vmentry_ctrl & VmEntry.LOAD_IA32_EFER:
        vmcs["host_ia32_efer"] = host.efer


def vmx_vcpu_load_vmcs(vcpu: Vcpu) -> None:
    """Set the host state that belongs to the processor, in a VMCS that it has not run yet."""
    vmcs = vcpu.vmcs
    vmcs["host_tr_base"] = vcpu.host.tr_base
    vmcs["host_gdtr_base"] = vcpu.host.gdtr_base
    vmcs["host_ia32_sysenter_esp"] = vcpu.host.sysenter_esp


def vmx_pin_based_exec_ctrl(kvm: Kvm) -> int:
    """Return the pin-based controls of vmcs01."""
    controls = kvm.config.pin_based_exec_ctrl & ~Pin.ACTIVATE_VMX_PREEMPTION_TIMER
    return controls if kvm.params.apicv else controls & ~Pin.PROCESS_POSTED_INTERRUPTS


def vmx_exec_control(kvm: Kvm) -> int:
    """Return the primary controls of vmcs01."""
    controls = kvm.config.cpu_based_exec_ctrl & ~_NOT_USED_PRIMARY
    if not kvm.irqchip_in_kernel:
        controls &= ~Primary.USE_TPR_SHADOW
    if controls & Primary.USE_TPR_SHADOW:
        controls &= ~_CR8_EXITING
    else:
        controls |= _CR8_EXITING
    if kvm.params.ept:
        controls &= ~_PAGING_EXITING
    return controls


def vmx_secondary_exec_control(kvm: Kvm) -> int:
    """Return the secondary controls of vmcs01 for a vCPU that has the instructions they allow.

    Page-modification logging is on from the start in old kernels, else only while it is needed.
    """
    params = kvm.params
    controls = kvm.config.cpu_based_2nd_exec_ctrl & ~_NOT_USED_SECONDARY
    if not kvm.irqchip_in_kernel:
        controls &= ~Secondary.VIRTUALIZE_APIC_ACCESSES
    if not kvm.vpid01:
        controls &= ~Secondary.ENABLE_VPID
    if not params.ept:
        controls &= ~(Secondary.ENABLE_EPT | Secondary.EPT_VIOLATION_VE)
    if not params.unrestricted_guest:
        controls &= ~Secondary.UNRESTRICTED_GUEST
    if not kvm.behaviour.vmcs02_has_pml or not params.pml:
        controls &= ~Secondary.ENABLE_PML
    if not params.apicv:
        controls &= ~(Secondary.APIC_REGISTER_VIRTUALIZATION | Secondary.VIRTUAL_INTERRUPT_DELIVERY)
    return controls & ~(Secondary.RDRAND_EXITING | Secondary.RDSEED_EXITING)


def init_vmcs(vcpu: Vcpu) -> None:
    """Set up vmcs01 as the loaded VMCS, with the controls and host state of L1."""
    kvm = vcpu.kvm
    vmcs = vcpu.vmcs
    vmcs["msr_bitmap"] = kvm.places.msr_bitmap01
    vmcs["vmcs_link_pointer"] = ALL_ONES
    vmcs["pin_based_vm_exec_control"] = vmx_pin_based_exec_ctrl(kvm)
    vmcs["cpu_based_vm_exec_control"] = vmx_exec_control(kvm)
    if kvm.config.cpu_based_exec_ctrl & Primary.ACTIVATE_SECONDARY_CONTROLS:
        vmcs["secondary_vm_exec_control"] = vmx_secondary_exec_control(kvm)
    vmx_set_constant_host_state(vmcs, kvm)
    vmcs["vm_exit_msr_load_addr"] = kvm.places.autoload_host
    vmcs["vm_entry_msr_load_addr"] = kvm.places.autoload_guest
    if kvm.config.vmentry_ctrl & VmEntry.LOAD_IA32_PAT:
        vmcs["guest_ia32_pat"] = vcpu.pat
    vmcs["vm_exit_controls"] = kvm.config.vmexit_ctrl & ~_NOT_USED_EXIT
    vmcs["vm_entry_controls"] = kvm.config.vmentry_ctrl & ~_NOT_USED_ENTRY
    vcpu.cr0_guest_owned_bits = vmx_l1_guest_owned_cr0_bits(vcpu)
    vmcs["cr0_guest_host_mask"] = ALL_ONES & ~vcpu.cr0_guest_owned_bits
    set_cr4_guest_host_mask(vcpu)
    vmcs["virtual_processor_id"] = kvm.vpid01
    vmcs["encls_exiting_bitmap"] = ALL_ONES
    vmcs["ple_gap"] = 128
    vmcs["ple_window"] = 4096


def _load_l1(vcpu: Vcpu) -> None:
    vmcs = vcpu.vmcs
    processor = vcpu.l1.processor
    vmcs["guest_cs_ar_bytes"] = (_CODE_64 if processor.cs_l else _CODE_32) | processor.cpl << 5
    vmcs["guest_cs_selector"] = 0x8 | processor.cpl
    vmcs["guest_cs_limit"] = 0xFFFF_FFFF
    for name in ("ss", "ds", "es", "fs", "gs"):
        vmcs[f"guest_{name}_selector"] = 0x10 | processor.cpl
        vmcs[f"guest_{name}_limit"] = 0xFFFF_FFFF
        vmcs[f"guest_{name}_ar_bytes"] = _DATA | processor.cpl << 5
    vmcs["guest_tr_selector"] = 0x18
    vmcs["guest_tr_limit"] = 0x67
    vmcs["guest_tr_ar_bytes"] = _TSS
    vmcs["guest_ldtr_ar_bytes"] = int(AccessRights.UNUSABLE)
    vmcs["guest_gdtr_limit"] = vmcs["guest_idtr_limit"] = 0xFFFF
    vmcs["guest_bndcfgs"] = vcpu.l1.bndcfgs
    # Without EPT, what the processor has is the root of KVM's own page tables.
    vmcs["guest_cr3"] = vcpu.cr3 if vcpu.params.ept else vcpu.kvm.places.ept01
    vmcs["guest_rip"] = vcpu.rip
    vmcs["guest_rsp"] = vcpu.rsp
    vmcs["tsc_offset"] = vcpu.tsc_offset
    vmcs["tsc_multiplier"] = vcpu.tsc_scaling_ratio


def prepare_vmcs01(vcpu: Vcpu) -> dict[str, int]:
    """Return vmcs01 for the vCPU's L1 state, which it becomes the loaded VMCS of."""
    vcpu.vmcs = vmcs = dict(ZERO_VMCS)
    init_vmcs(vcpu)
    _load_l1(vcpu)
    vmx_set_efer(vcpu, vcpu.efer)
    vmx_set_cr0(vcpu, vcpu.cr0)
    vmx_set_cr4(vcpu, vcpu.cr4)
    vmx_set_rflags(vcpu, vcpu.rflags | Rflags.FIXED1)
    kvm_set_dr7(vcpu, vcpu.dr7)
    vmx_guest_debugctl_write(vcpu, vcpu.l1.debugctl)
    vmx_update_exception_bitmap(vcpu)
    if vcpu.params.ept:
        vmcs["ept_pointer"] = construct_eptp(vcpu, vcpu.kvm.places.ept01)
    return vmcs

# SPDX-License-Identifier: GPL-2.0-only
"""prepare_vmcs02(): L1's wishes and L0's needs, merged into vmcs02, and L2's registers loaded.

vmx/nested.c, in the kernel's order; the controls are merged before, in vmcs02_early.py.
vmcs02_routes.py says for each field where its value comes from, which is also what of L1's wishes
hardware can judge.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry
from nvmxfuzz.arch.entry_failures import EntryFailure
from nvmxfuzz.arch.msr import MSR_IA32_TSC
from nvmxfuzz.kvm.check_values import nested_cpu_has2
from nvmxfuzz.kvm.entry_behaviour import PerfGlobalCtrl
from nvmxfuzz.kvm.entry_run import kvm_init_mmu
from nvmxfuzz.kvm.nested_load import (
    load_perf_global_ctrl,
    nested_msr_store_list_has_msr,
    nested_vmx_load_cr3,
)
from nvmxfuzz.kvm.vcpu import TSC_RATIO_1, Vcpu
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.kvm.vmcs02_early import nested_vmx_calc_efer
from nvmxfuzz.kvm.vmcs02_fields import copy_eoi, copy_page_fault, copy_pdptrs, copy_rare
from nvmxfuzz.kvm.vmx_registers import (
    cet_fields,
    is_pae_paging,
    kvm_set_dr7,
    set_cr4_guest_host_mask,
    vmx_guest_debugctl_write,
    vmx_guest_state_valid,
    vmx_need_pf_intercept,
    vmx_set_cr0,
    vmx_set_cr4,
    vmx_set_efer,
    vmx_set_rflags,
    vmx_update_exception_bitmap,
)
from nvmxfuzz.machine.vmcs import Vmcs

_DEFAULT = int(EntryFailure.DEFAULT)


def prepare_vmcs02_rare(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    """Set the guest state and settings that change only when L1 writes to vmcs12."""
    vmcs = vcpu.vmcs
    copy_rare(vmcs, vmcs12)
    if vcpu.params.ept:
        copy_pdptrs(vmcs, vmcs12)
    if vcpu.kvm.mpx_supported and _loads(vcpu, vmcs12, VmEntry.LOAD_IA32_BNDCFGS):
        vmcs["guest_bndcfgs"] = vmcs12.guest_bndcfgs
    if nested_cpu_has2(vmcs12, Secondary.ENABLE_XSAVES_XRSTORS):
        vmcs["xss_exit_bitmap"] = vmcs12.xss_exit_bitmap
    if vmx_need_pf_intercept(vcpu):
        vmcs["page_fault_error_code_mask"] = 0
        vmcs["page_fault_error_code_match"] = 0
    else:
        copy_page_fault(vmcs, vmcs12)
    if cpu_has_vmx_apicv(vcpu):
        copy_eoi(vmcs, vmcs12)
    vmcs["vm_exit_msr_store_count"] = prepare_vmx_msr_autostore_list(vcpu, vmcs12)
    vmcs["vm_exit_msr_load_count"] = len(vcpu.msr_autoload)
    vmcs["vm_entry_msr_load_count"] = len(vcpu.msr_autoload)
    if vmcs12.vm_entry_controls & VmEntry.LOAD_CET_STATE:
        vmcs.update((name, vmcs12.__dict__[name]) for name in cet_fields(vcpu))
    set_cr4_guest_host_mask(vcpu)


def _loads(vcpu: Vcpu, vmcs12: Vmcs, control: int) -> bool:
    return vcpu.nested_run_pending and vmcs12.vm_entry_controls & control != 0


def cpu_has_vmx_apicv(vcpu: Vcpu) -> bool:
    """Whether the processor has all controls of APIC virtualization."""
    needed = Secondary.APIC_REGISTER_VIRTUALIZATION | Secondary.VIRTUAL_INTERRUPT_DELIVERY
    config = vcpu.kvm.config
    return (
        config.cpu_based_2nd_exec_ctrl & needed == needed
        and config.pin_based_exec_ctrl & Pin.PROCESS_POSTED_INTERRUPTS != 0
    )


def prepare_vmx_msr_autostore_list(vcpu: Vcpu, vmcs12: Vmcs) -> int:
    """Return how many MSRs hardware stores at VM exit: one, if L1's list of MSRs has the TSC."""
    stored = vcpu.behaviour.stores_tsc and nested_msr_store_list_has_msr(
        vcpu, vmcs12.vm_exit_msr_store_addr, vmcs12.vm_exit_msr_store_count, MSR_IA32_TSC
    )
    return 1 if stored else 0


def kvm_calc_nested_tsc(vcpu: Vcpu, vmcs12: Vmcs) -> tuple[int, int]:
    """Return L2's TSC offset and TSC multiplier, both 64 bits wide.

    kvm_calc_nested_tsc_offset() and kvm_calc_nested_tsc_multiplier().
    """
    offset, ratio = vcpu.tsc_offset, vcpu.tsc_scaling_ratio
    if not vmcs12.cpu_based_vm_exec_control & Primary.USE_TSC_OFFSETTING:
        return offset, ratio
    if nested_cpu_has2(vmcs12, Secondary.USE_TSC_SCALING):
        multiplier = vmcs12.tsc_multiplier
        if multiplier != TSC_RATIO_1:
            signed = offset - (1 << 64) if offset >> 63 else offset
            # The magnitude is multiplied and shifted, then the sign put back.
            scaled = abs(signed) * multiplier >> 48 & ALL_ONES
            offset = -scaled if signed < 0 else scaled
            ratio = ratio * multiplier >> 48 & ALL_ONES
    return offset + vmcs12.tsc_offset & ALL_ONES, ratio


def prepare_vmcs02(vcpu: Vcpu, vmcs12: Vmcs, *, from_vmentry: bool = True) -> tuple[str, int]:
    """Merge the rest, and load L2's registers into the vCPU.

    A state that is restored, not entered by L1, may be one that is mended before it runs.
    Returns the check that fails with its exit qualification, or ("", 0).
    """
    if vcpu.dirty_vmcs12:
        prepare_vmcs02_rare(vcpu, vmcs12)
    load_pdptrs = vcpu.dirty_vmcs12
    vcpu.dirty_vmcs12 = False
    _load_debug_state(vcpu, vmcs12)
    vmx_set_rflags(vcpu, vmcs12.guest_rflags)
    vmx_update_exception_bitmap(vcpu)
    vcpu.cr0_guest_owned_bits &= ~vmcs12.cr0_guest_host_mask
    vcpu.vmcs["cr0_guest_host_mask"] = ALL_ONES & ~vcpu.cr0_guest_owned_bits
    _load_pat(vcpu, vmcs12)
    vcpu.tsc_offset, vcpu.tsc_scaling_ratio = kvm_calc_nested_tsc(vcpu, vmcs12)
    vcpu.vmcs["tsc_offset"] = vcpu.tsc_offset
    if vcpu.kvm.config.cpu_based_2nd_exec_ctrl & Secondary.USE_TSC_SCALING:
        vcpu.vmcs["tsc_multiplier"] = vcpu.tsc_scaling_ratio
    if vcpu.in_smm and nested_cpu_has2(vmcs12, Secondary.ENABLE_EPT):
        vcpu.warn("kvm_calc_shadow_ept_root_page_role.smm")
    _load_control_registers(vcpu, vmcs12)
    if from_vmentry and _judges_segments(vcpu) and not vmx_guest_state_valid(vcpu):
        return "guest.segments.valid", _DEFAULT
    return _load_paging(vcpu, vmcs12, load_pdptrs, from_vmentry=from_vmentry)


def _judges_segments(vcpu: Vcpu) -> bool:
    params = vcpu.params
    return not vcpu.behaviour.segments_by_emulation or (
        params.emulate_invalid_guest_state and not params.unrestricted_guest
    )


def _load_debug_state(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    if _loads(vcpu, vmcs12, VmEntry.LOAD_DEBUG_CONTROLS):
        kvm_set_dr7(vcpu, vmcs12.guest_dr7)
        if vcpu.behaviour.checks_debugctl:
            supported = vcpu.virtual.debugctl_supported
            vmx_guest_debugctl_write(vcpu, vmcs12.guest_ia32_debugctl & supported)
        else:
            vcpu.vmcs["guest_ia32_debugctl"] = vmcs12.guest_ia32_debugctl
    else:
        kvm_set_dr7(vcpu, vcpu.dr7)
        vmx_guest_debugctl_write(vcpu, vcpu.pre_vmenter_debugctl)
    if not _loads(vcpu, vmcs12, VmEntry.LOAD_CET_STATE):
        vcpu.vmcs.update(vcpu.pre_vmenter_cet)
    if vcpu.kvm.mpx_supported and not _loads(vcpu, vmcs12, VmEntry.LOAD_IA32_BNDCFGS):
        vcpu.vmcs["guest_bndcfgs"] = vcpu.pre_vmenter_bndcfgs


def _load_pat(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    if _loads(vcpu, vmcs12, VmEntry.LOAD_IA32_PAT):
        vcpu.pat = vmcs12.guest_ia32_pat
        vcpu.vmcs["guest_ia32_pat"] = vcpu.pat
    elif vcpu.kvm.config.vmentry_ctrl & VmEntry.LOAD_IA32_PAT:
        vcpu.vmcs["guest_ia32_pat"] = vcpu.pat


def _load_control_registers(vcpu: Vcpu, vmcs12: Vmcs) -> None:
    vmx_set_cr0(vcpu, vmcs12.guest_cr0)
    vcpu.vmcs["cr0_read_shadow"] = (
        vmcs12.guest_cr0 & ~vmcs12.cr0_guest_host_mask
        | vmcs12.cr0_read_shadow & vmcs12.cr0_guest_host_mask
    )
    vmx_set_cr4(vcpu, vmcs12.guest_cr4)
    vcpu.vmcs["cr4_read_shadow"] = (
        vmcs12.guest_cr4 & ~vmcs12.cr4_guest_host_mask
        | vmcs12.cr4_read_shadow & vmcs12.cr4_guest_host_mask
    )
    vmx_set_efer(vcpu, nested_vmx_calc_efer(vcpu, vmcs12))


def _load_paging(
    vcpu: Vcpu, vmcs12: Vmcs, load_pdptrs: bool, *, from_vmentry: bool
) -> tuple[str, int]:
    nested_ept = nested_cpu_has2(vmcs12, Secondary.ENABLE_EPT)
    no_pdptes = nested_ept or not from_vmentry
    failed, qualification = nested_vmx_load_cr3(vcpu, vmcs12.guest_cr3, no_pdptes)
    if failed:
        return failed, qualification
    kvm_init_mmu(vcpu)
    if vcpu.params.ept:
        vcpu.vmcs["guest_cr3"] = vmcs12.guest_cr3
    if load_pdptrs and nested_ept and is_pae_paging(vcpu):
        copy_pdptrs(vcpu.vmcs, vmcs12)
    if (
        vmcs12.vm_entry_controls & VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL
        and vcpu.behaviour.perf_global_ctrl is not PerfGlobalCtrl.FIELD
        and not load_perf_global_ctrl(vcpu, vmcs12.guest_ia32_perf_global_ctrl)
    ):
        vcpu.warn("prepare_vmcs02.perf_global_ctrl")
        return "guest.perf-global-ctrl.msr", _DEFAULT
    vcpu.rsp = vmcs12.guest_rsp
    vcpu.rip = vmcs12.guest_rip
    return "", 0

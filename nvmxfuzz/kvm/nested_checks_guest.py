# SPDX-License-Identifier: GPL-2.0-only
"""nested_vmx_check_guest_state(): what KVM asks of vmcs12's guest state before it enters L2.

vmx/nested.c, in the kernel's order. A failure is a VM exit for invalid guest state; a function
returns the name of the check that fails and the exit qualification. Segments are judged later,
in vmcs02, by vmx_guest_state_valid(); much is left to the processor that runs vmcs02.
"""

from __future__ import annotations

from nvmxfuzz.arch.controls import Secondary, VmEntry
from nvmxfuzz.arch.entry_failures import EntryFailure
from nvmxfuzz.arch.events import Activity
from nvmxfuzz.arch.registers import BndCfgs, Cr0, Cr4, DebugCtl, Efer
from nvmxfuzz.kvm.check_values import (
    is_noncanonical_msr_address,
    kvm_pat_valid,
    kvm_valid_efer,
    kvm_valid_perf_global_ctrl,
    nested_cpu_has2,
    nested_cr4_valid,
    nested_guest_cr0_valid,
    page_address_valid,
    vmx_is_valid_debugctl,
)
from nvmxfuzz.kvm.nested_checks_cet import check_guest_cet
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.kvm.virtual_cpu import ALL_ONES
from nvmxfuzz.machine.vmcs import Vmcs

VMCS12_REVISION = 0x11E5_7ED0
VMCS12_SIZE = 0x1000
"""How much of a linked VMCS must be in one memslot: KVM_STATE_NESTED_VMX_VMCS_SIZE."""

PASSED = ("", 0)
_DEFAULT = int(EntryFailure.DEFAULT)
_LINK = int(EntryFailure.VMCS_LINK_POINTER)
_PAGE_MASK = ALL_ONES & ~0xFFF
_ACTIVITIES = (Activity.ACTIVE, Activity.HLT, Activity.WAIT_FOR_SIPI)


def nested_vmx_check_guest_state(vcpu: Vcpu, vmcs12: Vmcs) -> tuple[str, int]:
    """Return the first check that fails with its exit qualification, or PASSED."""
    failed = _check_control_registers(vcpu, vmcs12) or _check_debug_and_pat(vcpu, vmcs12)
    if failed:
        return failed, _DEFAULT
    failed = nested_vmx_check_vmcs_link_ptr(vcpu, vmcs12)
    if failed:
        return failed, _LINK
    ia32e = vmcs12.vm_entry_controls & VmEntry.IA_32E_MODE_GUEST != 0
    failed = (
        _check_perf_global_ctrl(vcpu, vmcs12)
        or _check_paging(vcpu, vmcs12, ia32e)
        or check_guest_efer(vcpu, vmcs12, ia32e)
        or check_bndcfgs(vcpu, vmcs12)
        or check_guest_cet(vcpu, vmcs12)
        or nested_check_guest_non_reg_state(vmcs12)
    )
    return failed, _DEFAULT


def _check_control_registers(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    if not nested_guest_cr0_valid(vcpu, vmcs12.guest_cr0):
        return "guest.cr0.fixed"
    if not nested_cr4_valid(vcpu, vmcs12.guest_cr4):
        return "guest.cr4.valid"
    if (
        vcpu.behaviour.checks_cet_needs_wp
        and vmcs12.guest_cr4 & Cr4.CET
        and not vmcs12.guest_cr0 & Cr0.WP
    ):
        return "guest.cet.write-protect"
    return ""


def _check_debug_and_pat(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    controls = vmcs12.vm_entry_controls
    if controls & VmEntry.LOAD_DEBUG_CONTROLS:
        debugctl = vmcs12.guest_ia32_debugctl
        if vcpu.behaviour.ignores_freeze_in_smm:
            debugctl &= ~DebugCtl.FREEZE_IN_SMM
        if vmcs12.guest_dr7 >> 32:
            return "guest.dr7.width"
        if vcpu.behaviour.checks_debugctl and not vmx_is_valid_debugctl(vcpu, debugctl):
            return "guest.debugctl.supported"
    if controls & VmEntry.LOAD_IA32_PAT and not kvm_pat_valid(vmcs12.guest_ia32_pat):
        return "guest.pat.types"
    return ""


def nested_vmx_check_vmcs_link_ptr(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """The linked VMCS is one of ours and is a shadow VMCS exactly if shadowing is used.

    KVM keeps the host address of the last one (a gfn_to_hva_cache). A pointer that no memslot
    backs spoils that address but not the cache's key: the pointer before it is then refused too.
    """
    pointer = vmcs12.vmcs_link_pointer
    if pointer == ALL_ONES:
        return ""
    if not page_address_valid(vcpu, pointer):
        return "guest.link-pointer.address"
    cached, broken = vcpu.shadow_vmcs12_cache
    if not vcpu.behaviour.caches_link_pointer:
        cached = ALL_ONES
    if cached != pointer:
        if not vcpu.memory.is_backed(pointer):
            vcpu.shadow_vmcs12_cache = cached, True
            return "guest.link-pointer.memory"
        vcpu.shadow_vmcs12_cache = pointer, False
    elif broken:
        return "guest.link-pointer.read"
    header = vcpu.memory.read_int(pointer, 4)
    assert header is not None
    if header & 0x7FFF_FFFF != VMCS12_REVISION:
        return "guest.link-pointer.revision"
    if (header >> 31 != 0) != nested_cpu_has2(vmcs12, Secondary.VMCS_SHADOWING):
        return "guest.link-pointer.shadow"
    return ""


def _check_perf_global_ctrl(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    if (
        vmcs12.vm_entry_controls & VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL
        and not kvm_valid_perf_global_ctrl(vcpu, vmcs12.guest_ia32_perf_global_ctrl)
    ):
        return "guest.perf-global-ctrl.reserved"
    return ""


def _check_paging(vcpu: Vcpu, vmcs12: Vmcs, ia32e: bool) -> str:
    if not vcpu.behaviour.checks_paging:
        return ""
    paging = vmcs12.guest_cr0 & Cr0.PG
    if paging and not vmcs12.guest_cr0 & Cr0.PE:
        return "guest.cr0.paging"
    if ia32e and not vmcs12.guest_cr4 & Cr4.PAE:
        return "guest.ia-32e.pae"
    if ia32e and not paging:
        return "guest.ia-32e.paging"
    return ""


def check_guest_efer(vcpu: Vcpu, vmcs12: Vmcs, ia32e: bool) -> str:
    """EFER is valid, with LMA and LME as the mode that L2 is to be in has them."""
    if not vmcs12.vm_entry_controls & VmEntry.LOAD_IA32_EFER or not vcpu.nested_run_pending:
        return ""
    efer = vmcs12.guest_ia32_efer
    if not kvm_valid_efer(vcpu, efer):
        return "guest.efer.reserved"
    if ia32e != (efer & Efer.LMA != 0):
        return "guest.efer.lma"
    if vmcs12.guest_cr0 & Cr0.PG and ia32e != (efer & Efer.LME != 0):
        return "guest.efer.lme"
    return ""


def check_bndcfgs(vcpu: Vcpu, vmcs12: Vmcs) -> str:
    """IA32_BNDCFGS is valid where it is loaded."""
    if not vmcs12.vm_entry_controls & VmEntry.LOAD_IA32_BNDCFGS:
        return ""
    if is_noncanonical_msr_address(vmcs12.guest_bndcfgs & _PAGE_MASK, vcpu):
        return "guest.bndcfgs.canonical"
    if vmcs12.guest_bndcfgs & BndCfgs.RESERVED:
        return "guest.bndcfgs.reserved"
    return ""


def nested_check_guest_non_reg_state(vmcs12: Vmcs) -> str:
    """The activity state is one that KVM runs: not shutdown, whatever L1 was told."""
    if vmcs12.guest_activity_state not in _ACTIVITIES:
        return "guest.activity.supported"
    return ""

# SPDX-License-Identifier: GPL-2.0-only
"""The host-state area.

SDM: "Checks on Host Control Registers, MSRs, and SSP", "Checks on Host Segment and
Descriptor-Table Registers" and "Checks Related to Address-Space Size".
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.controls import VmExit, VmExit2
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer
from nvmxfuzz.arch.segments import Selector
from nvmxfuzz.inputs.repair.draft import LOW_HALF, Draft, extend_sign
from nvmxfuzz.inputs.repair.processor import round_fixed
from nvmxfuzz.inputs.repair.values import (
    NEVER_CHECKED,
    cr3_of,
    efer_of,
    masked,
    pat_of,
    s_cet_of,
    settle_fred,
)

_SELECTORS: Final = tuple(
    f"host_{name}_selector" for name in ("es", "cs", "ss", "ds", "fs", "gs", "tr")
)
_ADDRESSES: Final = (
    "host_fs_base",
    "host_gs_base",
    "host_tr_base",
    "host_gdtr_base",
    "host_idtr_base",
    "host_ia32_sysenter_esp",
    "host_ia32_sysenter_eip",
)
_FOUR_LEVELS: Final = 48
_SELECTOR_CHECKED: Final = Selector.RPL | Selector.TI


def settle_host(draft: Draft) -> None:
    """Everything that a VM exit would load."""
    _control_registers(draft)
    _msrs(draft)
    if draft.vm_exit & VmExit.LOAD_CET_STATE:
        _cet(draft)
    _segments(draft)
    _rip(draft)


def _control_registers(draft: Draft) -> None:
    vmcs, caps = draft.vmcs, draft.caps
    cr4 = round_fixed(vmcs.host_cr4, caps.cr4_fixed0, caps.cr4_fixed1)
    if draft.vm_exit & VmExit.HOST_ADDRESS_SPACE_SIZE:
        cr4 |= Cr4.PAE
    else:
        cr4 &= ~(Cr4.PCIDE | Cr4.FRED)
    cr0 = round_fixed(
        vmcs.host_cr0, caps.cr0_fixed0 & ~NEVER_CHECKED, caps.cr0_fixed1 | NEVER_CHECKED
    )
    if cr4 & Cr4.CET:
        cr0 |= Cr0.WP
    vmcs.host_cr0 = cr0
    vmcs.host_cr4 = cr4
    vmcs.host_cr3 = cr3_of(draft, vmcs.host_cr3)


def _msrs(draft: Draft) -> None:
    vmcs, profile, controls = draft.vmcs, draft.profile, draft.vm_exit
    if controls & VmExit.LOAD_IA32_PERF_GLOBAL_CTRL:
        vmcs.host_ia32_perf_global_ctrl = masked(
            vmcs.host_ia32_perf_global_ctrl, profile.perf_global_ctrl_mask
        )
    if controls & VmExit.LOAD_IA32_PAT:
        vmcs.host_ia32_pat = pat_of(vmcs.host_ia32_pat)
    if controls & VmExit.LOAD_IA32_EFER:
        both = Efer.LMA | Efer.LME
        efer = efer_of(draft, vmcs.host_ia32_efer) & ~both
        vmcs.host_ia32_efer = efer | (both if controls & VmExit.HOST_ADDRESS_SPACE_SIZE else 0)
    if controls & VmExit.LOAD_PKRS:
        vmcs.host_ia32_pkrs &= LOW_HALF
    if draft.vm_exit2 & VmExit2.LOAD_IA32_SPEC_CTRL:
        vmcs.host_ia32_spec_ctrl = masked(vmcs.host_ia32_spec_ctrl, draft.profile.spec_ctrl_mask)
    if draft.vm_exit2 & VmExit2.LOAD_IA32_FRED:
        settle_fred(draft, vmcs, "host")


def _cet(draft: Draft) -> None:
    vmcs = draft.vmcs
    s_cet = s_cet_of(draft, vmcs.host_s_cet)
    ssp = vmcs.host_ssp & ~3
    if draft.vm_exit & VmExit.HOST_ADDRESS_SPACE_SIZE:
        vmcs.host_s_cet = draft.canonical(s_cet)
        vmcs.host_ssp = draft.canonical(ssp)
    else:
        vmcs.host_s_cet = s_cet & LOW_HALF
        vmcs.host_ssp = ssp & LOW_HALF
    vmcs.host_intr_ssp_table = draft.canonical(vmcs.host_intr_ssp_table)


def _segments(draft: Draft) -> None:
    vmcs = draft.vmcs
    fields = vmcs.__dict__
    for name in _SELECTORS:
        fields[name] &= ~_SELECTOR_CHECKED
    vmcs.host_cs_selector = vmcs.host_cs_selector or 8
    vmcs.host_tr_selector = vmcs.host_tr_selector or 8
    if not draft.vm_exit & VmExit.HOST_ADDRESS_SPACE_SIZE:
        vmcs.host_ss_selector = vmcs.host_ss_selector or 8
    for name in _ADDRESSES:
        fields[name] = draft.canonical(fields[name])


def _rip(draft: Draft) -> None:
    """A canonical RIP; with 48 bits where the host's paging has no more than that.

    The SDM does not say whether the processor's width or that of the paging mode counts.
    """
    vmcs = draft.vmcs
    if not draft.vm_exit & VmExit.HOST_ADDRESS_SPACE_SIZE:
        vmcs.host_rip &= LOW_HALF
    elif vmcs.host_cr4 & Cr4.LA57:
        vmcs.host_rip = draft.canonical(vmcs.host_rip)
    else:
        vmcs.host_rip = extend_sign(vmcs.host_rip, _FOUR_LEVELS)

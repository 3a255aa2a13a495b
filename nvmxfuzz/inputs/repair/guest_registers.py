# SPDX-License-Identifier: GPL-2.0-only
"""Guest control registers, debug registers and MSRs.

SDM: "Checks on Guest Control Registers, Debug Registers, and MSRs".
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.controls import VmEntry
from nvmxfuzz.arch.registers import BndCfgs, Cr0, Cr4, Efer
from nvmxfuzz.inputs.repair.draft import LOW_HALF, Coin, Draft
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

_MODE: Final = Cr0.PE | Cr0.PG


def settle_guest_registers(draft: Draft) -> None:
    """Everything that VM entry loads into control registers, DR7 and MSRs."""
    _cr4(draft)
    _cr0(draft)
    vmcs = draft.vmcs
    vmcs.guest_cr3 = cr3_of(draft, vmcs.guest_cr3)
    vmcs.guest_sysenter_esp = draft.canonical(vmcs.guest_sysenter_esp)
    vmcs.guest_sysenter_eip = draft.canonical(vmcs.guest_sysenter_eip)
    _debug_controls(draft)
    _msrs(draft)
    _newer_msrs(draft)


def _cr4(draft: Draft) -> None:
    vmcs, caps = draft.vmcs, draft.caps
    cr4 = round_fixed(vmcs.guest_cr4, caps.cr4_fixed0, caps.cr4_fixed1)
    if draft.ia32e:
        cr4 |= Cr4.PAE
    else:
        cr4 &= ~(Cr4.PCIDE | Cr4.FRED)
    if cr4 & Cr4.CET and not vmcs.guest_cr0 & Cr0.WP and draft.coin(Coin.CET):
        cr4 &= ~Cr4.CET | caps.cr4_fixed0
    vmcs.guest_cr4 = cr4


def _cr0(draft: Draft) -> None:
    vmcs, caps = draft.vmcs, draft.caps
    free = NEVER_CHECKED | _MODE if draft.unrestricted else NEVER_CHECKED
    cr0 = round_fixed(vmcs.guest_cr0, caps.cr0_fixed0 & ~free, caps.cr0_fixed1 | free)
    if draft.ia32e:
        cr0 |= Cr0.PG
    if cr0 & Cr0.PG and not cr0 & Cr0.PE:
        # Only an unrestricted guest may do without paging, and only outside IA-32e mode.
        if draft.unrestricted and not draft.ia32e and draft.coin(Coin.PAGING):
            cr0 &= ~Cr0.PG
        else:
            cr0 |= Cr0.PE
    if vmcs.guest_cr4 & Cr4.CET:
        cr0 |= Cr0.WP
    vmcs.guest_cr0 = cr0


def _debug_controls(draft: Draft) -> None:
    vmcs = draft.vmcs
    if draft.vm_entry & VmEntry.LOAD_DEBUG_CONTROLS:
        vmcs.guest_dr7 &= LOW_HALF
        vmcs.guest_ia32_debugctl = masked(vmcs.guest_ia32_debugctl, draft.profile.debugctl_mask)


def _msrs(draft: Draft) -> None:
    vmcs, controls = draft.vmcs, draft.vm_entry
    if controls & VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL:
        vmcs.guest_ia32_perf_global_ctrl = masked(
            vmcs.guest_ia32_perf_global_ctrl, draft.profile.perf_global_ctrl_mask
        )
    if controls & VmEntry.LOAD_IA32_PAT:
        vmcs.guest_ia32_pat = pat_of(vmcs.guest_ia32_pat)
    if controls & VmEntry.LOAD_IA32_EFER:
        _efer(draft)
    if controls & VmEntry.LOAD_IA32_BNDCFGS:
        vmcs.guest_bndcfgs = draft.canonical(vmcs.guest_bndcfgs & ~BndCfgs.RESERVED)
    if controls & VmEntry.LOAD_IA32_RTIT_CTL:
        vmcs.guest_ia32_rtit_ctl = masked(vmcs.guest_ia32_rtit_ctl, draft.profile.rtit_ctl_mask)
    if controls & VmEntry.LOAD_IA32_SPEC_CTRL:
        vmcs.guest_ia32_spec_ctrl = masked(vmcs.guest_ia32_spec_ctrl, draft.profile.spec_ctrl_mask)


def _efer(draft: Draft) -> None:
    """LMA follows the control; LME follows LMA where the guest uses paging."""
    vmcs = draft.vmcs
    efer = efer_of(draft, vmcs.guest_ia32_efer) & ~Efer.LMA
    if draft.ia32e:
        efer |= Efer.LMA
    if vmcs.guest_cr0 & Cr0.PG:
        efer = efer | Efer.LME if draft.ia32e else efer & ~Efer.LME
    vmcs.guest_ia32_efer = efer


def _newer_msrs(draft: Draft) -> None:
    vmcs, controls = draft.vmcs, draft.vm_entry
    if controls & VmEntry.LOAD_CET_STATE:
        vmcs.guest_s_cet = draft.canonical(s_cet_of(draft, vmcs.guest_s_cet))
        vmcs.guest_intr_ssp_table = draft.canonical(vmcs.guest_intr_ssp_table)
    if controls & VmEntry.LOAD_GUEST_IA32_LBR_CTL:
        vmcs.guest_ia32_lbr_ctl = masked(vmcs.guest_ia32_lbr_ctl, draft.profile.lbr_ctl_mask)
    if controls & VmEntry.LOAD_PKRS:
        vmcs.guest_ia32_pkrs &= LOW_HALF
    if controls & VmEntry.LOAD_UINV:
        vmcs.guest_uinv &= 0xFF
    if controls & VmEntry.LOAD_IA32_FRED:
        settle_fred(draft, vmcs, "guest")

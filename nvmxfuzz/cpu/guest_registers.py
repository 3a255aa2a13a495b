# SPDX-License-Identifier: GPL-2.0-only
"""Guest control registers, debug registers and MSRs.

SDM: "Checks on Guest Control Registers, Debug Registers, and MSRs". Linear addresses are held
against the processor's linear-address width, whatever CR4.LA57 says. KVM:
`nested_vmx_check_guest_state`.
"""

from __future__ import annotations

from nvmxfuzz.arch import sections
from nvmxfuzz.arch.bits import named_bits
from nvmxfuzz.arch.controls import VmEntry
from nvmxfuzz.arch.registers import (
    BndCfgs,
    Cr0,
    Cr3,
    Cr4,
    DebugCtl,
    Efer,
    LbrCtl,
    PerfGlobalCtrl,
    RtitCtl,
    SpecCtrl,
)
from nvmxfuzz.cpu.conditions import (
    entry_loads_cet,
    entry_loads_efer,
    entry_loads_fred,
    ia_32e_guest,
    intel_64,
    intel_64_loads_cet,
    intel_64_without_lam,
    loads_debug_controls,
    not_ia_32e_guest,
)
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import GUEST_STATE
from nvmxfuzz.cpu.fred_state import declare_fred_rules
from nvmxfuzz.cpu.predicates import (
    canonical,
    cr3_address_fits,
    efer_bits,
    fits_in_32_bits,
    only_known_bits,
    pat_memory_types,
    s_cet_bits,
    s_cet_suppresses_or_waits,
)
from nvmxfuzz.cpu.rule import Given, Section, Verdict, within

SECTION = Section(sections.GUEST_REGISTERS, GUEST_STATE)

# VM entry leaves CR0.NW and CR0.CD as they are, so that it does not check them.
_CHECKED_CR0 = ~(Cr0.NW | Cr0.CD)
_CHECKED_CR0_UNRESTRICTED = ~(Cr0.NW | Cr0.CD | Cr0.PE | Cr0.PG)
_DEBUGCTL = sum(named_bits(DebugCtl).values())
_PERF_GLOBAL_CTRL = sum(named_bits(PerfGlobalCtrl).values())
_RTIT_CTL = sum(named_bits(RtitCtl).values())
_LBR_CTL = sum(named_bits(LbrCtl).values())
_SPEC_CTRL = sum(named_bits(SpecCtrl).values())


paging = Given("vmcs.guest_cr0", Cr0.PG)
"""CR0.PG of the guest is 1."""


cet_enabled = Given("vmcs.guest_cr4", Cr4.CET)
"""CR4.CET of the guest is 1."""


@within("vm_entry", VmEntry.LOAD_DEBUG_CONTROLS)
def intel_64_loads_debug_controls(entry: Entry) -> int:
    """VM entry loads debug controls, on a processor that supports Intel 64 architecture."""
    return entry.intel_64


@within("vm_entry", VmEntry.LOAD_IA32_EFER)
def paging_and_loads_efer(entry: Entry) -> int:
    """CR0.PG of the guest is 1, and VM entry loads IA32_EFER."""
    return entry.vmcs.guest_cr0 & Cr0.PG


loads_perf_global_ctrl = Given("vm_entry", VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL)
"""The "load IA32_PERF_GLOBAL_CTRL" VM-entry control is 1."""

loads_pat = Given("vm_entry", VmEntry.LOAD_IA32_PAT)
"""The "load IA32_PAT" VM-entry control is 1."""

loads_bndcfgs = Given("vm_entry", VmEntry.LOAD_IA32_BNDCFGS)
"""The "load IA32_BNDCFGS" VM-entry control is 1."""

loads_rtit_ctl = Given("vm_entry", VmEntry.LOAD_IA32_RTIT_CTL)
"""The "load IA32_RTIT_CTL" VM-entry control is 1."""

loads_lbr_ctl = Given("vm_entry", VmEntry.LOAD_GUEST_IA32_LBR_CTL)
"""The "load guest IA32_LBR_CTL" VM-entry control is 1."""

loads_pkrs = Given("vm_entry", VmEntry.LOAD_PKRS)
"""The "load PKRS" VM-entry control is 1."""

loads_uinv = Given("vm_entry", VmEntry.LOAD_UINV)
"""The "load UINV" VM-entry control is 1."""

loads_spec_ctrl = Given("vm_entry", VmEntry.LOAD_IA32_SPEC_CTRL)
"""The "load IA32_SPEC_CTRL" VM-entry control is 1."""


@SECTION.rule("guest.cr0.must-be-1")
def cr0_must_be_1(entry: Entry) -> bool:
    """Each bit that is 1 in IA32_VMX_CR0_FIXED0 is 1 in CR0.

    NW and CD are not checked, nor are PE and PG of an unrestricted guest.
    """
    return (
        entry.caps.cr0_fixed0
        & ~entry.vmcs.guest_cr0
        & (_CHECKED_CR0_UNRESTRICTED if entry.unrestricted else _CHECKED_CR0)
        == 0
    )


@SECTION.rule("guest.cr0.must-be-0")
def cr0_must_be_0(entry: Entry) -> bool:
    """Each bit that is 0 in IA32_VMX_CR0_FIXED1 is 0 in CR0.

    NW and CD are not checked, nor are PE and PG of an unrestricted guest.
    """
    return (
        entry.vmcs.guest_cr0
        & ~entry.caps.cr0_fixed1
        & (_CHECKED_CR0_UNRESTRICTED if entry.unrestricted else _CHECKED_CR0)
        == 0
    )


@SECTION.rule("guest.cr0.pe", when=paging)
def paging_requires_protection(entry: Entry) -> bool:
    """CR0.PE (bit 0) is 1 if CR0.PG (bit 31) is 1."""
    return entry.vmcs.guest_cr0 & Cr0.PE != 0


@SECTION.rule("guest.cr4.must-be-1")
def cr4_must_be_1(entry: Entry) -> bool:
    """Each bit that is 1 in IA32_VMX_CR4_FIXED0 is 1 in CR4."""
    return entry.caps.cr4_fixed0 & ~entry.vmcs.guest_cr4 == 0


@SECTION.rule("guest.cr4.must-be-0")
def cr4_must_be_0(entry: Entry) -> bool:
    """Each bit that is 0 in IA32_VMX_CR4_FIXED1 is 0 in CR4."""
    return entry.vmcs.guest_cr4 & ~entry.caps.cr4_fixed1 == 0


@SECTION.rule("guest.cr0.wp", when=cet_enabled)
def cet_requires_wp(entry: Entry) -> bool:
    """CR0.WP (bit 16) is 1 if CR4.CET (bit 23) is 1."""
    return entry.vmcs.guest_cr0 & Cr0.WP != 0


@SECTION.rule("guest.debugctl.reserved", when=loads_debug_controls)
def debugctl_reserved(entry: Entry) -> Verdict:
    """IA32_DEBUGCTL sets no reserved bit if debug controls are to be loaded."""
    return only_known_bits(entry.vmcs.guest_ia32_debugctl, entry.profile.debugctl_mask, _DEBUGCTL)


@SECTION.rule("guest.cr0.pg", when=ia_32e_guest)
def ia_32e_guest_has_paging(entry: Entry) -> bool:
    """CR0.PG (bit 31) is 1 if the "IA-32e mode guest" VM-entry control is 1."""
    return entry.vmcs.guest_cr0 & Cr0.PG != 0


@SECTION.rule("guest.cr4.pae", when=ia_32e_guest)
def ia_32e_guest_has_pae(entry: Entry) -> bool:
    """CR4.PAE (bit 5) is 1 if the "IA-32e mode guest" VM-entry control is 1."""
    return entry.vmcs.guest_cr4 & Cr4.PAE != 0


@SECTION.rule("guest.cr4.pcide", when=not_ia_32e_guest)
def legacy_guest_has_no_pcid(entry: Entry) -> bool:
    """CR4.PCIDE (bit 17) is 0 if the "IA-32e mode guest" VM-entry control is 0."""
    return entry.vmcs.guest_cr4 & Cr4.PCIDE == 0


@SECTION.rule("guest.cr4.fred", when=not_ia_32e_guest)
def legacy_guest_has_no_fred(entry: Entry) -> bool:
    """CR4.FRED (bit 32) is 0 if the "IA-32e mode guest" VM-entry control is 0."""
    return entry.vmcs.guest_cr4 & Cr4.FRED == 0


@SECTION.rule("guest.cr3.width", when=intel_64)
def cr3_width(entry: Entry) -> bool:
    """CR3 sets no bit beyond the physical-address width, bits 62:61 aside."""
    return cr3_address_fits(entry.vmcs.guest_cr3, -1 << entry.profile.maxphyaddr)


@SECTION.rule("guest.cr3.lam", when=intel_64_without_lam)
def cr3_lam(entry: Entry) -> bool:
    """Bits 62:61 of CR3 are 0 on a processor without linear-address masking."""
    return entry.vmcs.guest_cr3 & (Cr3.LAM_U48 | Cr3.LAM_U57) == 0


@SECTION.rule("guest.dr7.upper", when=intel_64_loads_debug_controls)
def dr7_upper(entry: Entry) -> bool:
    """Bits 63:32 of DR7 are 0 if debug controls are to be loaded."""
    return fits_in_32_bits(entry.vmcs.guest_dr7)


@SECTION.rule("guest.sysenter-esp.canonical", when=intel_64)
def sysenter_esp_canonical(entry: Entry) -> bool:
    """IA32_SYSENTER_ESP is canonical, on processors that support Intel 64 architecture."""
    return canonical(entry.vmcs.guest_sysenter_esp, entry.profile.linear_address_bits)


@SECTION.rule("guest.sysenter-eip.canonical", when=intel_64)
def sysenter_eip_canonical(entry: Entry) -> bool:
    """IA32_SYSENTER_EIP is canonical, on processors that support Intel 64 architecture."""
    return canonical(entry.vmcs.guest_sysenter_eip, entry.profile.linear_address_bits)


@SECTION.rule("guest.s-cet.canonical", when=intel_64_loads_cet)
def s_cet_canonical(entry: Entry) -> bool:
    """IA32_S_CET is canonical if it is to be loaded."""
    return canonical(entry.vmcs.guest_s_cet, entry.profile.linear_address_bits)


@SECTION.rule("guest.ssp-table.canonical", when=intel_64_loads_cet)
def ssp_table_canonical(entry: Entry) -> bool:
    """IA32_INTERRUPT_SSP_TABLE_ADDR is canonical if it is to be loaded."""
    return canonical(entry.vmcs.guest_intr_ssp_table, entry.profile.linear_address_bits)


@SECTION.rule("guest.perf-global-ctrl.reserved", when=loads_perf_global_ctrl)
def perf_global_ctrl_reserved(entry: Entry) -> Verdict:
    """IA32_PERF_GLOBAL_CTRL sets no reserved bit if it is to be loaded."""
    return only_known_bits(
        entry.vmcs.guest_ia32_perf_global_ctrl,
        entry.profile.perf_global_ctrl_mask,
        _PERF_GLOBAL_CTRL,
    )


@SECTION.rule("guest.pat.memory-types", when=loads_pat)
def pat_has_memory_types(entry: Entry) -> bool:
    """Each byte of IA32_PAT is 0, 1, 4, 5, 6 or 7 if it is to be loaded."""
    return pat_memory_types(entry.vmcs.guest_ia32_pat)


@SECTION.rule("guest.efer.reserved", when=entry_loads_efer)
def efer_reserved(entry: Entry) -> bool:
    """IA32_EFER sets no reserved bit if it is to be loaded."""
    return efer_bits(entry.vmcs.guest_ia32_efer, entry.profile.features)


@SECTION.rule("guest.efer.lma", when=entry_loads_efer)
def efer_lma(entry: Entry) -> bool:
    """LMA of an IA32_EFER to be loaded equals the "IA-32e mode guest" VM-entry control."""
    return (entry.vmcs.guest_ia32_efer & Efer.LMA != 0) == (entry.ia32e_guest != 0)


@SECTION.rule("guest.efer.lme", when=paging_and_loads_efer)
def efer_lme(entry: Entry) -> bool:
    """LME of an IA32_EFER to be loaded equals its LMA if CR0.PG (bit 31) is 1."""
    return (entry.vmcs.guest_ia32_efer & Efer.LME != 0) == (
        entry.vmcs.guest_ia32_efer & Efer.LMA != 0
    )


@SECTION.rule("guest.bndcfgs.reserved", when=loads_bndcfgs)
def bndcfgs_reserved(entry: Entry) -> bool:
    """Bits 11:2 of IA32_BNDCFGS are 0 if it is to be loaded."""
    return entry.vmcs.guest_bndcfgs & BndCfgs.RESERVED == 0


@SECTION.rule("guest.bndcfgs.canonical", when=loads_bndcfgs)
def bndcfgs_canonical(entry: Entry) -> bool:
    """The linear address in bits 63:12 of IA32_BNDCFGS is canonical if it is to be loaded."""
    return canonical(entry.vmcs.guest_bndcfgs, entry.profile.linear_address_bits)


@SECTION.rule("guest.rtit-ctl.reserved", when=loads_rtit_ctl)
def rtit_ctl_reserved(entry: Entry) -> Verdict:
    """IA32_RTIT_CTL sets no reserved bit if it is to be loaded."""
    return only_known_bits(entry.vmcs.guest_ia32_rtit_ctl, entry.profile.rtit_ctl_mask, _RTIT_CTL)


@SECTION.rule("guest.s-cet.reserved", when=entry_loads_cet)
def s_cet_reserved(entry: Entry) -> bool:
    """IA32_S_CET sets no reserved bit if it is to be loaded."""
    return s_cet_bits(entry.vmcs.guest_s_cet, entry.profile.features)


@SECTION.rule("guest.s-cet.suppress", when=entry_loads_cet)
def s_cet_suppress(entry: Entry) -> bool:
    """SUPPRESS (bit 10) and TRACKER (bit 11) of an IA32_S_CET to be loaded are not both 1."""
    return s_cet_suppresses_or_waits(entry.vmcs.guest_s_cet)


@SECTION.rule("guest.lbr-ctl.reserved", when=loads_lbr_ctl)
def lbr_ctl_reserved(entry: Entry) -> Verdict:
    """IA32_LBR_CTL sets no reserved bit if it is to be loaded."""
    return only_known_bits(entry.vmcs.guest_ia32_lbr_ctl, entry.profile.lbr_ctl_mask, _LBR_CTL)


@SECTION.rule("guest.pkrs.upper", when=loads_pkrs)
def pkrs_upper(entry: Entry) -> bool:
    """Bits 63:32 of IA32_PKRS are 0 if it is to be loaded."""
    return fits_in_32_bits(entry.vmcs.guest_ia32_pkrs)


@SECTION.rule("guest.uinv.upper", when=loads_uinv)
def uinv_upper(entry: Entry) -> bool:
    """Bits 15:8 of the guest UINV are 0 if it is to be loaded."""
    return entry.vmcs.guest_uinv >> 8 == 0


declare_fred_rules(SECTION, "guest", entry_loads_fred)


@SECTION.rule("guest.spec-ctrl.reserved", when=loads_spec_ctrl)
def spec_ctrl_reserved(entry: Entry) -> Verdict:
    """IA32_SPEC_CTRL sets no reserved bit if it is to be loaded."""
    return only_known_bits(
        entry.vmcs.guest_ia32_spec_ctrl, entry.profile.spec_ctrl_mask, _SPEC_CTRL
    )

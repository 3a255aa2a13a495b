# SPDX-License-Identifier: GPL-2.0-only
"""The rules of the SDM's "Loading MSRs": each entry of the VM-entry MSR-load area in turn.

A value is held against what WRMSR would do at CPL 0, once the guest's registers are loaded. What
the profile does not say about an MSR stays unknown; `msr_values` has what is known.
"""

from __future__ import annotations

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import VmEntry
from nvmxfuzz.arch.registers import (
    BndCfgs,
    Cr0,
    Efer,
    FredConfig,
    SmmMonitorCtl,
)
from nvmxfuzz.arch.sections import MSR_LOADING as TITLE
from nvmxfuzz.cpu import msr_values as known
from nvmxfuzz.cpu.failures import MSR_LOADING
from nvmxfuzz.cpu.msr_slots import MsrSlot, load_slots
from nvmxfuzz.cpu.predicates import (
    aligned,
    canonical,
    efer_bits,
    fits_in_32_bits,
    only_bits,
    only_known_bits,
    pat_memory_types,
    s_cet_bits,
    s_cet_suppresses_or_waits,
)
from nvmxfuzz.cpu.rule import UNKNOWN, Section, Verdict

SECTION = Section(TITLE, MSR_LOADING, listed=True)

VIEWS = {"msr-load": load_slots}
_VIEW = "msr-load"

_SMM_MONITOR_CTL = SmmMonitorCtl.VALID | SmmMonitorCtl.MSEG_BASE


# What the entry itself must be


def outside_smm(slot: MsrSlot) -> bool:
    """VM entry is executed outside SMM."""
    return not slot.entry.processor.in_smm


def named_here(slot: MsrSlot) -> bool:
    """No rule refuses the MSR for its index alone: whether it exists is the question."""
    return (
        slot.index not in (msr.MSR_FS_BASE, msr.MSR_GS_BASE)
        and slot.index not in known.X2APIC
        and slot.index not in known.READ_ONLY
    )


@SECTION.rule("msr-load.slot.fs-base", view=_VIEW)
def not_fs_base(slot: MsrSlot) -> bool:
    """The MSR is not IA32_FS_BASE (C0000100H)."""
    return slot.index != msr.MSR_FS_BASE


@SECTION.rule("msr-load.slot.gs-base", view=_VIEW)
def not_gs_base(slot: MsrSlot) -> bool:
    """The MSR is not IA32_GS_BASE (C0000101H)."""
    return slot.index != msr.MSR_GS_BASE


@SECTION.rule("msr-load.slot.x2apic", view=_VIEW)
def not_x2apic(slot: MsrSlot) -> bool:
    """Bits 31:8 of the index are not 000008H: no register of the APIC, whatever its mode."""
    return slot.index not in known.X2APIC


@SECTION.rule("msr-load.slot.smm-only", view=_VIEW, when=outside_smm)
def not_writable_in_smm_only(slot: MsrSlot) -> bool:
    """Outside SMM the MSR is not IA32_SMM_MONITOR_CTL, which only SMM can write."""
    return slot.index != msr.MSR_IA32_SMM_MONITOR_CTL


@SECTION.rule("msr-load.slot.reserved", view=_VIEW)
def upper_half_clear(slot: MsrSlot) -> bool:
    """Bits 63:32 of the entry are 0."""
    return slot.reserved == 0


# That WRMSR can write the MSR at all


@SECTION.rule("msr-load.slot.exists", view=_VIEW, when=named_here)
def msr_exists(slot: MsrSlot) -> Verdict:
    """The processor has the MSR and loads it; not known of MSRs that it may refuse in a list.

    Nor is it known of entries beyond the recommended 512 * (IA32_VMX_MISC[27:25] + 1).
    """
    return known.exists(slot.index, slot.entry.profile)


@SECTION.rule("msr-load.slot.read-only", view=_VIEW)
def not_read_only(slot: MsrSlot) -> bool:
    """The MSR is not a VMX capability MSR or IA32_SMBASE, which WRMSR cannot write."""
    return slot.index not in known.READ_ONLY


@SECTION.rule("msr-load.slot.locked", view=_VIEW)
def not_locked(slot: MsrSlot) -> bool:
    """The MSR is not IA32_FEATURE_CONTROL: VMX operation needs its lock, which stops WRMSR."""
    return slot.index != msr.MSR_IA32_FEAT_CTL


# That WRMSR takes the value


def loads_efer(slot: MsrSlot) -> bool:
    """The MSR is IA32_EFER."""
    return slot.index == msr.MSR_EFER


def loads_efer_while_paging(slot: MsrSlot) -> bool:
    """The MSR is IA32_EFER, and the guest's CR0.PG is 1."""
    return slot.index == msr.MSR_EFER and slot.entry.vmcs.guest_cr0 & Cr0.PG != 0


def loads_pat(slot: MsrSlot) -> bool:
    """The MSR is IA32_PAT."""
    return slot.index == msr.MSR_IA32_CR_PAT


def loads_address(slot: MsrSlot) -> bool:
    """The MSR holds a linear address."""
    return slot.index in known.ADDRESSES


def loads_aligned_address(slot: MsrSlot) -> bool:
    """The MSR holds an address that must be aligned."""
    return slot.index in known.ALIGNMENT


def loads_cet(slot: MsrSlot) -> bool:
    """The MSR is IA32_U_CET or IA32_S_CET."""
    return slot.index in known.CET_CONTROLS


def loads_debugctl(slot: MsrSlot) -> bool:
    """The MSR is IA32_DEBUGCTL."""
    return slot.index == msr.MSR_IA32_DEBUGCTLMSR


def loads_perf_global_ctrl(slot: MsrSlot) -> bool:
    """The MSR is IA32_PERF_GLOBAL_CTRL."""
    return slot.index == msr.MSR_CORE_PERF_GLOBAL_CTRL


def loads_spec_ctrl(slot: MsrSlot) -> bool:
    """The MSR is IA32_SPEC_CTRL."""
    return slot.index == msr.MSR_IA32_SPEC_CTRL


def loads_lbr_ctl(slot: MsrSlot) -> bool:
    """The MSR is IA32_LBR_CTL."""
    return slot.index == msr.MSR_ARCH_LBR_CTL


def loads_rtit_ctl(slot: MsrSlot) -> bool:
    """The MSR is IA32_RTIT_CTL."""
    return slot.index == msr.MSR_IA32_RTIT_CTL


def loads_tsc_aux(slot: MsrSlot) -> bool:
    """The MSR is IA32_TSC_AUX."""
    return slot.index == msr.MSR_TSC_AUX


def loads_pkrs(slot: MsrSlot) -> bool:
    """The MSR is IA32_PKRS."""
    return slot.index == msr.MSR_IA32_PKRS


def loads_xss(slot: MsrSlot) -> bool:
    """The MSR is IA32_XSS."""
    return slot.index == msr.MSR_IA32_XSS


def loads_bndcfgs(slot: MsrSlot) -> bool:
    """The MSR is IA32_BNDCFGS."""
    return slot.index == msr.MSR_IA32_BNDCFGS


def loads_fred_config(slot: MsrSlot) -> bool:
    """The MSR is IA32_FRED_CONFIG."""
    return slot.index == msr.MSR_IA32_FRED_CONFIG


def loads_smm_monitor_ctl(slot: MsrSlot) -> bool:
    """The MSR is IA32_SMM_MONITOR_CTL, in SMM."""
    return slot.index == msr.MSR_IA32_SMM_MONITOR_CTL and slot.entry.processor.in_smm


@SECTION.rule("msr-load.efer.reserved", view=_VIEW, when=loads_efer)
def efer_reserved(slot: MsrSlot) -> bool:
    """A value for IA32_EFER sets no reserved bit; LMA is read-only and ignored."""
    return efer_bits(slot.value, slot.entry.profile.features)


@SECTION.rule("msr-load.efer.lme", view=_VIEW, when=loads_efer_while_paging)
def efer_lme_unchanged(slot: MsrSlot) -> bool:
    """A value for IA32_EFER does not change LME if the guest's CR0.PG is 1."""
    return (slot.value & Efer.LME != 0) == (
        slot.entry.vmcs.guest_ia32_efer & Efer.LME != 0
        if slot.entry.vm_entry & VmEntry.LOAD_IA32_EFER
        else slot.entry.ia32e_guest != 0
    )


@SECTION.rule("msr-load.pat.memory-types", view=_VIEW, when=loads_pat)
def pat_types(slot: MsrSlot) -> bool:
    """Each byte of a value for IA32_PAT is 0, 1, 4, 5, 6 or 7."""
    return pat_memory_types(slot.value)


@SECTION.rule("msr-load.address.canonical", view=_VIEW, when=loads_address)
def address_canonical(slot: MsrSlot) -> Verdict:
    """A value for an MSR that holds a linear address is canonical.

    Without Intel 64 architecture it is not known what becomes of bits 63:32.
    """
    return (
        canonical(slot.value, slot.entry.profile.linear_address_bits)
        if "long-mode" in slot.entry.profile.features
        else True
        if fits_in_32_bits(slot.value)
        else UNKNOWN
    )


@SECTION.rule("msr-load.address.aligned", view=_VIEW, when=loads_aligned_address)
def address_aligned(slot: MsrSlot) -> bool:
    """A stack pointer in an MSR is aligned: PLn_SSP to 4 bytes, FRED_SSPn to 8, FRED_RSPn to 64."""
    return aligned(slot.value, known.ALIGNMENT[slot.index])


@SECTION.rule("msr-load.cet.reserved", view=_VIEW, when=loads_cet)
def cet_reserved(slot: MsrSlot) -> bool:
    """A value for IA32_U_CET or IA32_S_CET sets no reserved bit."""
    return s_cet_bits(slot.value, slot.entry.profile.features)


@SECTION.rule("msr-load.cet.suppress", view=_VIEW, when=loads_cet)
def cet_suppress(slot: MsrSlot) -> bool:
    """A value for IA32_U_CET or IA32_S_CET has SUPPRESS and TRACKER not both 1."""
    return s_cet_suppresses_or_waits(slot.value)


@SECTION.rule("msr-load.debugctl.reserved", view=_VIEW, when=loads_debugctl)
def debugctl_reserved(slot: MsrSlot) -> Verdict:
    """A value for IA32_DEBUGCTL sets no reserved bit."""
    return only_known_bits(slot.value, slot.entry.profile.debugctl_mask, known.DEBUGCTL_BITS)


@SECTION.rule("msr-load.perf-global-ctrl.reserved", view=_VIEW, when=loads_perf_global_ctrl)
def perf_global_ctrl_reserved(slot: MsrSlot) -> Verdict:
    """A value for IA32_PERF_GLOBAL_CTRL sets no reserved bit."""
    return only_known_bits(
        slot.value, slot.entry.profile.perf_global_ctrl_mask, known.PERF_GLOBAL_CTRL_BITS
    )


@SECTION.rule("msr-load.spec-ctrl.reserved", view=_VIEW, when=loads_spec_ctrl)
def spec_ctrl_reserved(slot: MsrSlot) -> Verdict:
    """A value for IA32_SPEC_CTRL sets no reserved bit."""
    return only_known_bits(slot.value, slot.entry.profile.spec_ctrl_mask, known.SPEC_CTRL_BITS)


@SECTION.rule("msr-load.lbr-ctl.reserved", view=_VIEW, when=loads_lbr_ctl)
def lbr_ctl_reserved(slot: MsrSlot) -> Verdict:
    """A value for IA32_LBR_CTL sets no reserved bit."""
    return only_known_bits(slot.value, slot.entry.profile.lbr_ctl_mask, known.LBR_CTL_BITS)


@SECTION.rule("msr-load.rtit-ctl.reserved", view=_VIEW, when=loads_rtit_ctl)
def rtit_ctl_reserved(slot: MsrSlot) -> Verdict:
    """A value for IA32_RTIT_CTL sets no reserved bit; which others go together is not known."""
    return (
        False
        if only_known_bits(slot.value, slot.entry.profile.rtit_ctl_mask, known.RTIT_CTL_BITS)
        is False
        else True
        if slot.value == 0
        else UNKNOWN
    )


@SECTION.rule("msr-load.rtit-ctl.trace-in-vmx", view=_VIEW, when=loads_rtit_ctl)
def rtit_ctl_in_vmx(slot: MsrSlot) -> bool:
    """IA32_RTIT_CTL, whatever the value, is loaded only if IA32_VMX_MISC[14] allows PT in VMX."""
    return slot.entry.caps.pt_in_vmx


@SECTION.rule("msr-load.tsc-aux.high", view=_VIEW, when=loads_tsc_aux, msr="IA32_TSC_AUX")
@SECTION.rule("msr-load.pkrs.high", view=_VIEW, when=loads_pkrs, msr="IA32_PKRS")
def value_in_32_bits(slot: MsrSlot) -> bool:
    """Bits 63:32 of a value for {msr} are 0."""
    return fits_in_32_bits(slot.value)


@SECTION.rule("msr-load.xss.reserved", view=_VIEW, when=loads_xss)
def xss_reserved(slot: MsrSlot) -> Verdict:
    """A value for IA32_XSS selects only state components that the processor has."""
    return only_known_bits(slot.value, None, known.XSS_BITS)


@SECTION.rule("msr-load.bndcfgs.reserved", view=_VIEW, when=loads_bndcfgs)
def bndcfgs_reserved(slot: MsrSlot) -> bool:
    """Bits 11:2 of a value for IA32_BNDCFGS are 0."""
    return slot.value & BndCfgs.RESERVED == 0


@SECTION.rule("msr-load.fred-config.reserved", view=_VIEW, when=loads_fred_config)
def fred_config_reserved(slot: MsrSlot) -> bool:
    """Bits 11, 5:4 and 2 of a value for IA32_FRED_CONFIG are 0."""
    return slot.value & FredConfig.RESERVED == 0


@SECTION.rule("msr-load.smm-monitor-ctl.reserved", view=_VIEW, when=loads_smm_monitor_ctl)
def smm_monitor_ctl_reserved(slot: MsrSlot) -> bool:
    """A value for IA32_SMM_MONITOR_CTL sets bits 31:12, 0, and 2 if IA32_VMX_MISC[28] allows."""
    return only_bits(
        slot.value,
        _SMM_MONITOR_CTL
        | (SmmMonitorCtl.VMXOFF_UNBLOCKS_SMI if slot.entry.caps.smi_unblock_by_vmxoff else 0),
    )

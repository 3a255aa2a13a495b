# SPDX-License-Identifier: GPL-2.0-only
"""Host control registers, MSRs and SSP.

SDM: "Checks on Host Control Registers, MSRs, and SSP". Linear addresses are held against the
processor's linear-address width, whatever CR4.LA57 says. KVM: `nested_vmx_check_host_state`.
"""

from __future__ import annotations

from nvmxfuzz.arch import sections
from nvmxfuzz.arch.bits import named_bits
from nvmxfuzz.arch.controls import VmExit, VmExit2
from nvmxfuzz.arch.registers import Cr0, Cr3, Cr4, Efer, PerfGlobalCtrl, SpecCtrl
from nvmxfuzz.cpu.conditions import (
    exit_loads_cet,
    exit_loads_efer,
    exit_loads_fred,
    intel_64,
    intel_64_without_lam,
)
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import HOST_STATE
from nvmxfuzz.cpu.fred_state import declare_fred_rules
from nvmxfuzz.cpu.predicates import (
    aligned,
    canonical,
    cr3_address_fits,
    efer_bits,
    fits_in_32_bits,
    only_known_bits,
    pat_memory_types,
    s_cet_bits,
    s_cet_suppresses_or_waits,
)
from nvmxfuzz.cpu.rule import Given, Section, Verdict

SECTION = Section(sections.HOST_REGISTERS, HOST_STATE)

# VM exit leaves CR0.NW and CR0.CD as they are, so that VM entry does not check them.
_CHECKED_CR0 = ~(Cr0.NW | Cr0.CD)
_PERF_GLOBAL_CTRL = sum(named_bits(PerfGlobalCtrl).values())
_SPEC_CTRL = sum(named_bits(SpecCtrl).values())


cet_enabled = Given("vmcs.host_cr4", Cr4.CET)
"""CR4.CET of the host is 1."""


loads_perf_global_ctrl = Given("vm_exit", VmExit.LOAD_IA32_PERF_GLOBAL_CTRL)
"""The "load IA32_PERF_GLOBAL_CTRL" VM-exit control is 1."""

loads_pat = Given("vm_exit", VmExit.LOAD_IA32_PAT)
"""The "load IA32_PAT" VM-exit control is 1."""

loads_pkrs = Given("vm_exit", VmExit.LOAD_PKRS)
"""The "load PKRS" VM-exit control is 1."""

loads_spec_ctrl = Given("vm_exit2", VmExit2.LOAD_IA32_SPEC_CTRL)
"""The "load IA32_SPEC_CTRL" secondary VM-exit control is in effect."""


@SECTION.rule("host.cr0.must-be-1")
def cr0_must_be_1(entry: Entry) -> bool:
    """Each bit that is 1 in IA32_VMX_CR0_FIXED0 is 1 in CR0, NW and CD aside."""
    return entry.caps.cr0_fixed0 & ~entry.vmcs.host_cr0 & _CHECKED_CR0 == 0


@SECTION.rule("host.cr0.must-be-0")
def cr0_must_be_0(entry: Entry) -> bool:
    """Each bit that is 0 in IA32_VMX_CR0_FIXED1 is 0 in CR0, NW and CD aside."""
    return entry.vmcs.host_cr0 & ~entry.caps.cr0_fixed1 & _CHECKED_CR0 == 0


@SECTION.rule("host.cr4.must-be-1")
def cr4_must_be_1(entry: Entry) -> bool:
    """Each bit that is 1 in IA32_VMX_CR4_FIXED0 is 1 in CR4."""
    return entry.caps.cr4_fixed0 & ~entry.vmcs.host_cr4 == 0


@SECTION.rule("host.cr4.must-be-0")
def cr4_must_be_0(entry: Entry) -> bool:
    """Each bit that is 0 in IA32_VMX_CR4_FIXED1 is 0 in CR4."""
    return entry.vmcs.host_cr4 & ~entry.caps.cr4_fixed1 == 0


@SECTION.rule("host.cr0.wp", when=cet_enabled)
def cet_requires_wp(entry: Entry) -> bool:
    """CR0.WP (bit 16) is 1 if CR4.CET (bit 23) is 1."""
    return entry.vmcs.host_cr0 & Cr0.WP != 0


@SECTION.rule("host.cr3.width", when=intel_64)
def cr3_width(entry: Entry) -> bool:
    """CR3 sets no bit beyond the physical-address width, bits 62:61 aside."""
    return cr3_address_fits(entry.vmcs.host_cr3, entry.caps.physical_reserved)


@SECTION.rule("host.cr3.lam", when=intel_64_without_lam)
def cr3_lam(entry: Entry) -> bool:
    """Bits 62:61 of CR3 are 0 on a processor without linear-address masking."""
    return entry.vmcs.host_cr3 & (Cr3.LAM_U48 | Cr3.LAM_U57) == 0


@SECTION.rule("host.sysenter-esp.canonical", when=intel_64)
def sysenter_esp_canonical(entry: Entry) -> bool:
    """IA32_SYSENTER_ESP is canonical, on processors that support Intel 64 architecture."""
    return canonical(entry.vmcs.host_ia32_sysenter_esp, entry.profile.linear_address_bits)


@SECTION.rule("host.sysenter-eip.canonical", when=intel_64)
def sysenter_eip_canonical(entry: Entry) -> bool:
    """IA32_SYSENTER_EIP is canonical, on processors that support Intel 64 architecture."""
    return canonical(entry.vmcs.host_ia32_sysenter_eip, entry.profile.linear_address_bits)


@SECTION.rule("host.perf-global-ctrl.reserved", when=loads_perf_global_ctrl)
def perf_global_ctrl_reserved(entry: Entry) -> Verdict:
    """IA32_PERF_GLOBAL_CTRL sets no reserved bit if it is to be loaded."""
    return only_known_bits(
        entry.vmcs.host_ia32_perf_global_ctrl,
        entry.profile.perf_global_ctrl_mask,
        _PERF_GLOBAL_CTRL,
    )


@SECTION.rule("host.pat.memory-types", when=loads_pat)
def pat_has_memory_types(entry: Entry) -> bool:
    """Each byte of IA32_PAT is 0, 1, 4, 5, 6 or 7 if it is to be loaded."""
    return pat_memory_types(entry.vmcs.host_ia32_pat)


@SECTION.rule("host.efer.reserved", when=exit_loads_efer)
def efer_reserved(entry: Entry) -> bool:
    """IA32_EFER sets no reserved bit if it is to be loaded."""
    return efer_bits(entry.vmcs.host_ia32_efer, entry.profile.features)


@SECTION.rule("host.efer.lma", when=exit_loads_efer)
def efer_lma(entry: Entry) -> bool:
    """LMA of an IA32_EFER to be loaded equals the "host address-space size" VM-exit control."""
    return (entry.vmcs.host_ia32_efer & Efer.LMA != 0) == (
        entry.vm_exit & VmExit.HOST_ADDRESS_SPACE_SIZE != 0
    )


@SECTION.rule("host.efer.lme", when=exit_loads_efer)
def efer_lme(entry: Entry) -> bool:
    """LME of an IA32_EFER to be loaded equals the "host address-space size" VM-exit control."""
    return (entry.vmcs.host_ia32_efer & Efer.LME != 0) == (
        entry.vm_exit & VmExit.HOST_ADDRESS_SPACE_SIZE != 0
    )


@SECTION.rule("host.s-cet.reserved", when=exit_loads_cet)
def s_cet_reserved(entry: Entry) -> bool:
    """IA32_S_CET sets no reserved bit if it is to be loaded."""
    return s_cet_bits(entry.vmcs.host_s_cet, entry.profile.features)


@SECTION.rule("host.s-cet.suppress", when=exit_loads_cet)
def s_cet_suppress(entry: Entry) -> bool:
    """SUPPRESS (bit 10) and TRACKER (bit 11) of an IA32_S_CET to be loaded are not both 1."""
    return s_cet_suppresses_or_waits(entry.vmcs.host_s_cet)


@SECTION.rule("host.ssp.aligned", when=exit_loads_cet)
def ssp_aligned(entry: Entry) -> bool:
    """Bits 1:0 of SSP are 0 if it is to be loaded."""
    return aligned(entry.vmcs.host_ssp, 4)


@SECTION.rule("host.pkrs.upper", when=loads_pkrs)
def pkrs_upper(entry: Entry) -> bool:
    """Bits 63:32 of IA32_PKRS are 0 if it is to be loaded."""
    return fits_in_32_bits(entry.vmcs.host_ia32_pkrs)


declare_fred_rules(SECTION, "host", exit_loads_fred)


@SECTION.rule("host.spec-ctrl.reserved", when=loads_spec_ctrl)
def spec_ctrl_reserved(entry: Entry) -> Verdict:
    """IA32_SPEC_CTRL sets no reserved bit if it is to be loaded."""
    return only_known_bits(entry.vmcs.host_ia32_spec_ctrl, entry.profile.spec_ctrl_mask, _SPEC_CTRL)

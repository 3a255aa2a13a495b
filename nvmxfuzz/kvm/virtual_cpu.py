# SPDX-License-Identifier: GPL-2.0-only
"""The processor that KVM gives L1: its VMX capabilities and what its CPUID lets a register hold.

Everything here is settled when userspace has configured the vCPU; a VM entry only reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.registers import Cr4, DebugCtl, Efer
from nvmxfuzz.kvm.entry_behaviour import EntryBehaviour
from nvmxfuzz.machine.profile import Profile

ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF
WORD = 0xFFFF_FFFF

KVM_CR4_BITS = (
    Cr4.VME
    | Cr4.PVI
    | Cr4.TSD
    | Cr4.DE
    | Cr4.PSE
    | Cr4.PAE
    | Cr4.MCE
    | Cr4.PGE
    | Cr4.PCE
    | Cr4.OSFXSR
    | Cr4.PCIDE
    | Cr4.OSXSAVE
    | Cr4.SMEP
    | Cr4.FSGSBASE
    | Cr4.OSXMMEXCPT
    | Cr4.LA57
    | Cr4.VMXE
    | Cr4.SMAP
    | Cr4.PKE
    | Cr4.UMIP
)
"""The bits of CR4 that are not in CR4_RESERVED_BITS; later kernels add LAM_SUP."""

_EFER_ALWAYS = Efer.SCE | Efer.LME | Efer.LMA


@dataclass(frozen=True, slots=True)
class NestedMsrs:
    """struct nested_vmx_msrs: `*_low` bits must be 1 in vmcs12, `*_high` bits can be 1.

    Control words are 32 bits wide; `misc`, `basic`, `vmfunc_controls` and the CR masks 64;
    `ept_caps` and `vpid_caps` 32.
    """

    pinbased_ctls_low: int
    pinbased_ctls_high: int
    procbased_ctls_low: int
    procbased_ctls_high: int
    secondary_ctls_low: int
    secondary_ctls_high: int
    exit_ctls_low: int
    exit_ctls_high: int
    entry_ctls_low: int
    entry_ctls_high: int
    misc: int
    basic: int
    ept_caps: int
    vpid_caps: int
    vmfunc_controls: int
    cr0_fixed0: int
    cr0_fixed1: int
    cr4_fixed0: int
    cr4_fixed1: int

    @classmethod
    def of(cls, msrs: Mapping[int, int]) -> NestedMsrs:
        """Return what L1 reads as capability MSRs; the true control MSRs are the ones KVM keeps.

        An absent control MSR allows nothing; absent fixed-bit MSRs fix nothing.
        """

        def word(true_msr: int, plain: int) -> tuple[int, int]:
            value = msrs[true_msr] if true_msr in msrs else msrs.get(plain, 0)
            return value & WORD, value >> 32

        ept_vpid = msrs.get(msr.MSR_IA32_VMX_EPT_VPID_CAP, 0)
        return cls(
            *word(msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS, msr.MSR_IA32_VMX_PINBASED_CTLS),
            *word(msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS, msr.MSR_IA32_VMX_PROCBASED_CTLS),
            *word(msr.MSR_IA32_VMX_PROCBASED_CTLS2, msr.MSR_IA32_VMX_PROCBASED_CTLS2),
            *word(msr.MSR_IA32_VMX_TRUE_EXIT_CTLS, msr.MSR_IA32_VMX_EXIT_CTLS),
            *word(msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS, msr.MSR_IA32_VMX_ENTRY_CTLS),
            misc=msrs.get(msr.MSR_IA32_VMX_MISC, 0),
            basic=msrs.get(msr.MSR_IA32_VMX_BASIC, 0),
            ept_caps=ept_vpid & WORD,
            vpid_caps=ept_vpid >> 32,
            vmfunc_controls=msrs.get(msr.MSR_IA32_VMX_VMFUNC, 0),
            cr0_fixed0=msrs.get(msr.MSR_IA32_VMX_CR0_FIXED0, 0),
            cr0_fixed1=msrs.get(msr.MSR_IA32_VMX_CR0_FIXED1, ALL_ONES),
            cr4_fixed0=msrs.get(msr.MSR_IA32_VMX_CR4_FIXED0, 0),
            cr4_fixed1=msrs.get(msr.MSR_IA32_VMX_CR4_FIXED1, ALL_ONES),
        )


@dataclass(frozen=True, slots=True)
class VirtualCpu:
    """What KVM derived from the vCPU's CPUID and capability MSRs; masks are 64 bits wide."""

    msrs: NestedMsrs
    maxphyaddr: int
    features: frozenset[str]
    """Of L1's CPUID, in the words of `arch.features`."""
    reserved_gpa_bits: int
    """Bits that no guest-physical address may have."""
    cr3_ignored: int
    """Bits of CR3 above the address that are legal all the same (LAM)."""
    cr4_reserved: int
    efer_reserved: int
    debugctl_supported: int
    perf_global_ctrl_reserved: int
    """All ones without a virtual PMU."""
    has_perf_global_ctrl: bool
    """The virtual PMU has version 2 or later."""
    host_virt_addr_bits: int
    """57 where the processor below has LA57 and KVM uses it, else 48."""
    has_full_width_counters: bool = True
    """PDCM is in CPUID: the counters can be written by MSRs of their full width."""
    has_tsc_aux: bool = True
    """RDTSCP or RDPID is in CPUID."""
    supported_xss: int | None = 0
    """Bits of IA32_XSS; None without XSAVES."""
    pred_cmd: int | None = None
    """The commands of IA32_PRED_CMD that work; None where the vCPU has no such MSR."""
    flush_cmd: int | None = None
    """Likewise for IA32_FLUSH_CMD."""

    @classmethod
    def of(
        cls, profile: Profile, behaviour: EntryBehaviour, host: Profile | None = None
    ) -> VirtualCpu:
        """Return the vCPU whose CPUID and MSRs are those of `profile`, on a `host` processor.

        Without a host, it is taken to have what the vCPU has. A bit of CR4 is one that CPUID
        lets L1 set if IA32_VMX_CR4_FIXED1 has it, which is how KVM computes that MSR; RDTSCP and
        XSAVES are there if the controls for them are.
        """
        features = profile.features
        msrs = NestedMsrs.of(profile.msrs)
        below = features if host is None else host.features
        lam = behaviour.knows_lam and "lam" in features
        cr4_bits = KVM_CR4_BITS | (Cr4.LAM_SUP if lam else 0)
        if behaviour.knows_cet and features & {"cet-ss", "cet-ibt"}:
            cr4_bits |= Cr4.CET
        perf_global_ctrl = profile.perf_global_ctrl_mask or 0
        return cls(
            msrs=msrs,
            maxphyaddr=profile.maxphyaddr,
            features=features,
            reserved_gpa_bits=ALL_ONES & -(1 << profile.maxphyaddr),
            cr3_ignored=3 << 61 if lam else 0,
            cr4_reserved=ALL_ONES & ~(cr4_bits & (msrs.cr4_fixed1 | Cr4.PCE)),
            efer_reserved=_efer_reserved(features),
            debugctl_supported=_debugctl_supported(features),
            perf_global_ctrl_reserved=ALL_ONES & ~perf_global_ctrl,
            has_perf_global_ctrl="perf-global-ctrl" in features,
            host_virt_addr_bits=57 if "la57" in below else 48,
            has_full_width_counters="perf-global-ctrl" in features,
            has_tsc_aux=msrs.secondary_ctls_high & Secondary.ENABLE_RDTSCP != 0,
            supported_xss=0 if msrs.secondary_ctls_high & Secondary.ENABLE_XSAVES_XRSTORS else None,
        )


def _efer_reserved(features: frozenset[str]) -> int:
    allowed = _EFER_ALWAYS if "long-mode" in features else int(Efer.SCE)
    return ALL_ONES & ~(allowed | (Efer.NXE if "nx" in features else 0))


def _debugctl_supported(features: frozenset[str]) -> int:
    # LBRs belong to the virtual PMU's capabilities, which no profile has.
    bus_lock = DebugCtl.BUS_LOCK_DETECT if "bus-lock-detect" in features else 0
    return bus_lock | (DebugCtl.RTM if "rtm" in features else 0)

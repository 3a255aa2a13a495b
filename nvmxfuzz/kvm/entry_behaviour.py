# SPDX-License-Identifier: GPL-2.0-only
"""How nested VM entry differs between kernels: one value a version, a sum of named behaviours.

A difference is a field here, never a second copy of a function. 6.1 and 6.12 were held against the
kernel itself; the others rest on what was read of them, see `source`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.nested_evmcs import EVMCS_L1_5_18, EVMCS_L1_6_1, EVMCS_L1_6_12, NestedEvmcs


class PerfGlobalCtrl(Enum):
    """How IA32_PERF_GLOBAL_CTRL is loaded for L2 and for L1."""

    FIELD = "for L1 alone, into the field of vmcs01"
    MSR = "by kvm_set_msr(), whose refusal is a WARN and fails the entry"
    PMU = "by kvm_set_msr(), if the virtual PMU has the MSR"


class MissingRoot(Enum):
    """What becomes of an L2 whose page-table root is in no memslot."""

    TRIPLE_FAULT = "KVM takes it for a triple fault of L1's"
    BUG = (
        "a triple fault of L2's while its entry is pending: a WARN, and L1's next exit is the last"
    )
    DUMMY = "it runs, on an empty page table"


class StashedCr3(Enum):
    """When L1's CR3 is put into vmcs01 without EPT, so that a late VMfail finds it there."""

    NEVER = "never"
    NO_DRY_RUN = "unless the dry run is made"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class EntryBehaviour:
    """One kernel version's way of entering L2, x86_64, with CONFIG_KVM_HYPERV and CONFIG_KVM_SMM.

    The fields are in the order in which an entry comes to them.
    """

    version: str
    source: str
    """What was read."""

    one_list_of_checks: bool
    """check_vmentry_prereqs() and check_vmentry_postreqs() in place of today's functions."""
    traces_checks: bool
    """A check that fails is a trace event."""

    cr4_by_cpuid: bool
    """CR4 must have no bit that the vCPU's CPUID reserves; before, only the fixed bits count."""
    host_width_canonical: bool
    """Segment bases, descriptor tables and MSRs are canonical by the host's linear-address width;
    before, by the one that L1's CR4.LA57 selects."""
    knows_lam: bool
    """LAM bits in CR3 are legal where the vCPU has LAM."""
    knows_cet: bool
    """CET state is part of vmcs12, checked and loaded."""
    checks_cet_needs_wp: bool
    """CR4.CET without CR0.WP is refused in guest and host state."""
    error_code_reserved: int
    """Bits that the error code of an event to inject must not have."""
    checks_tpr_threshold: bool
    """Without virtual-interrupt delivery, bits 31:4 of the TPR threshold are 0."""
    checks_tsc_multiplier: bool
    """A TSC multiplier that is used is not 0."""
    evmcs: NestedEvmcs | None
    """The controls that L1 may use with the enlightened VMCS; None: not checked."""
    evmcs_functions_are_32_bits: bool
    """A VM function above bit 31 is a WARN on a vCPU with the enlightened VMCS."""

    has_dry_run: bool
    has_late_checks: bool
    """nested_vmx_check_controls_late() in its place, for developers."""
    stashed_cr3: StashedCr3
    reloads_l1_pdptes: bool
    """Without nested EPT, the PDPTEs of an L1 with PAE paging are read again at every entry."""
    tolerates_missing_pages: bool
    """An APIC-access page that is no memory turns its control off, and a descriptor of posted
    interrupts leaves all as it is; before, the one kills the VM, the other turns its control off.
    """

    checks_debugctl: bool
    """IA32_DEBUGCTL has only bits that KVM emulates, and only these get into vmcs02."""
    ignores_freeze_in_smm: bool
    """A quirk, on by default: DEBUGCTL.FREEZE_WHILE_SMM is let pass in vmcs12."""
    caches_link_pointer: bool
    """The host address of the linked VMCS is kept from one entry to the next."""
    checks_paging: bool
    """CR0.PG needs CR0.PE; IA-32e mode needs CR4.PAE and CR0.PG."""
    bugs_without_pae: bool
    """A vCPU that gets into IA-32e mode without PAE is a bug of KVM's: the VM ends."""

    vmcs02_has_pml: bool
    """L2 runs with L0's page-modification log."""
    keeps_unrestricted_guest: bool
    """vmcs02 has the control if KVM uses it, whether or not L1 set it."""
    only_from_vmcs12: int
    """Secondary controls that L2 has only if L1 set them."""
    merges_encls_bitmap: bool
    """L1's ENCLS bitmap is merged with L0's; before, every leaf causes a VM exit."""
    passes_perf_global_ctrl: bool
    """L1's `load IA32_PERF_GLOBAL_CTRL` at VM entry gets into vmcs02, whose field nobody writes."""
    stores_tsc: bool
    """The processor stores the TSC if L1's VM-exit MSR-store list has it."""
    perf_global_ctrl: PerfGlobalCtrl
    segments_by_emulation: bool
    """L2's segments are judged only where KVM could have to emulate: neither with unrestricted
    guest in KVM, nor without emulate_invalid_guest_state."""

    missing_root: MissingRoot
    limits_msr_lists: bool
    """An MSR list may have as many entries as IA32_VMX_MISC says."""
    hwcr_bits_together: bool
    """AMD's HWCR takes McStatusWrEn and TscFreqSel in any mixture, not McStatusWrEn alone."""
    virtual_interrupts_wake: bool
    """L2 does not halt if a virtual interrupt could be delivered at once."""
    windows_wake: bool
    """L2 does not halt if an interrupt window or NMI window would end it at once."""
    delivers_payload_at_once: bool = True
    """What comes with an exception (CR2, DR6) is in place when it is queued for L1, not when it is
    injected."""
    keeps_fixed_dr6: bool = False
    """A #DB leaves the bits of DR6 that are fixed to 1; before, it resets what is active low."""
    counts_nmis: bool = False
    """KVM_GET_VCPU_EVENTS tells how many NMIs are pending, and userspace may queue as many."""
    checks_efer_in_sregs: bool = False
    """KVM_SET_SREGS refuses bits of EFER that CPUID does not let it have."""
    hlt_asks_for_events: bool = False
    """HLT that KVM carries out is over at once if an event is there; before, the vCPU sleeps first.
    """
    lists_debugctl: bool = False
    """KVM_GET_MSR_INDEX_LIST has IA32_DEBUGCTL, so that a migration takes it along."""
    keeps_asking_for_pages: bool = False
    """A KVM_RUN that does not find what vmcs12 points to says so, and the next one looks again."""
    has_smm_file: bool = False
    """SMM has a file of its own (smm.c): interrupt shadows live through it, limits of segments are
    restored whole, and an RSM that fails leaves L2; before, RSM was part of the emulator."""


_ONLY_FROM_VMCS12_4_20 = (
    Secondary.VIRTUALIZE_APIC_ACCESSES
    | Secondary.ENABLE_INVPCID
    | Secondary.ENABLE_RDTSCP
    | Secondary.ENABLE_XSAVES_XRSTORS
    | Secondary.VIRTUAL_INTERRUPT_DELIVERY
    | Secondary.APIC_REGISTER_VIRTUALIZATION
    | Secondary.ENABLE_VM_FUNCTIONS
)

_V5_18 = EntryBehaviour(
    version="5.18",
    source="mainline nested.c shortly before v6.0, commits known to have come since v5.18 left out",
    one_list_of_checks=False,
    traces_checks=True,
    cr4_by_cpuid=False,
    host_width_canonical=False,
    knows_lam=False,
    knows_cet=False,
    checks_cet_needs_wp=False,
    error_code_reserved=0xFFFF_0000,
    checks_tpr_threshold=False,
    checks_tsc_multiplier=False,
    evmcs=EVMCS_L1_5_18,
    evmcs_functions_are_32_bits=False,
    has_dry_run=True,
    has_late_checks=False,
    stashed_cr3=StashedCr3.NO_DRY_RUN,
    reloads_l1_pdptes=True,
    tolerates_missing_pages=False,
    checks_debugctl=False,
    ignores_freeze_in_smm=False,
    caches_link_pointer=True,
    checks_paging=False,
    bugs_without_pae=False,
    vmcs02_has_pml=False,
    keeps_unrestricted_guest=False,
    only_from_vmcs12=int(
        _ONLY_FROM_VMCS12_4_20
        | Secondary.VIRTUALIZE_X2APIC_MODE
        | Secondary.ENABLE_USER_WAIT_AND_PAUSE
        | Secondary.DESCRIPTOR_TABLE_EXITING
    ),
    merges_encls_bitmap=True,
    passes_perf_global_ctrl=True,
    stores_tsc=True,
    perf_global_ctrl=PerfGlobalCtrl.MSR,
    segments_by_emulation=False,
    missing_root=MissingRoot.BUG,
    limits_msr_lists=True,
    hwcr_bits_together=False,
    virtual_interrupts_wake=False,
    windows_wake=True,
)

_V4_20 = replace(
    _V5_18,
    version="4.20",
    source="single functions of 4.19 and 5.0, a list of those of 4.20, and patches in between",
    one_list_of_checks=True,
    traces_checks=False,
    error_code_reserved=0xFFFF_8000,
    evmcs=None,
    stashed_cr3=StashedCr3.NEVER,
    reloads_l1_pdptes=False,
    tolerates_missing_pages=True,
    caches_link_pointer=False,
    vmcs02_has_pml=True,
    keeps_unrestricted_guest=True,
    only_from_vmcs12=int(_ONLY_FROM_VMCS12_4_20),
    merges_encls_bitmap=False,
    stores_tsc=False,
    perf_global_ctrl=PerfGlobalCtrl.FIELD,
    segments_by_emulation=True,
    missing_root=MissingRoot.TRIPLE_FAULT,
    limits_msr_lists=False,
    windows_wake=False,
)

_V6_1 = replace(
    _V5_18,
    version="6.1",
    source="Debian linux-source-6.1, 6.1.192",
    cr4_by_cpuid=True,
    evmcs=EVMCS_L1_6_1,
    evmcs_functions_are_32_bits=True,
    checks_debugctl=True,
    checks_paging=True,
    passes_perf_global_ctrl=False,
    perf_global_ctrl=PerfGlobalCtrl.PMU,
)

_V6_12 = replace(
    _V6_1,
    version="6.12",
    source="Debian linux-source-6.12, 6.12.117",
    host_width_canonical=True,
    bugs_without_pae=True,
    knows_lam=True,
    checks_cet_needs_wp=True,
    evmcs=EVMCS_L1_6_12,
    missing_root=MissingRoot.DUMMY,
    ignores_freeze_in_smm=True,
    hwcr_bits_together=True,
    virtual_interrupts_wake=True,
    delivers_payload_at_once=False,
    keeps_fixed_dr6=True,
    counts_nmis=True,
    checks_efer_in_sregs=True,
    hlt_asks_for_events=True,
    lists_debugctl=True,
    keeps_asking_for_pages=True,
    has_smm_file=True,
)

_V6_19 = replace(
    _V6_12,
    version="6.19",
    source="6.12, and the patches that took the dry run out and brought nested CET, as posted",
    knows_cet=True,
    checks_tpr_threshold=True,
    checks_tsc_multiplier=True,
    has_dry_run=False,
    has_late_checks=True,
    stashed_cr3=StashedCr3.ALWAYS,
    ignores_freeze_in_smm=False,
)

_BEHAVIOURS = (_V4_20, _V5_18, _V6_1, _V6_12, _V6_19)

ENTRY_KERNELS = tuple(behaviour.version for behaviour in _BEHAVIOURS)
"""The versions that `entry_behaviour` knows, oldest first."""


def entry_behaviour(version: str) -> EntryBehaviour:
    """Return the behaviour of that version; an unknown one is an InputError that lists them all."""
    for behaviour in _BEHAVIOURS:
        if behaviour.version == version:
            return behaviour
    raise InputError(
        f"the model of nested VM entry does not know kernel {version[:40]!r}: "
        f"choose one of {', '.join(ENTRY_KERNELS)}"
    )

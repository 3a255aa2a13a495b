# SPDX-License-Identifier: GPL-2.0-only
"""Where Bochs is known to differ from the rules, and why.

`docs/known-differences.md` lists the entries.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from nvmxfuzz.arch import sections
from nvmxfuzz.cpu.failures import CONTROLS, GUEST_STATE, MSR_LOADING
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.oracles.bochs import known_where as where
from nvmxfuzz.oracles.bochs.messages import UNABLE_TO_SET_UP
from nvmxfuzz.oracles.corrected import Corrected
from nvmxfuzz.oracles.known import KnownDifference, KnownMistake, always

MISTAKES: Final = (
    KnownMistake(
        "bochs.basic.shadow-vmcs",
        "Bochs enters with a current VMCS that is a shadow VMCS as if it were none.",
        sections.BASIC,
        where.taken_for_ordinary_vmcs,
    ),
    KnownMistake(
        "bochs.execution.address-width",
        "IA32_VMX_BASIC[48] is 1 on Bochs' 32-bit model, but addresses in the VMCS may have as "
        "many bits as MAXPHYADDR says.",
        sections.EXECUTION_CONTROLS,
        where.taken_for_wide_addresses,
    ),
)

_MSR_AREA: Final = (
    "Bochs multiplies the number of MSRs by 16 with 32 bits: an area whose size wraps around may "
    "end where it should not."
)
_MSR_AREA_AT_0: Final = (
    "Bochs multiplies the number of MSRs by 16 with 32 bits: an area at 0 whose size wraps around "
    "to 0 ends before address 0, which Bochs refuses."
)

DIFFERENCES: Final = (
    KnownDifference(
        "bochs.execution.posted-interrupt-descriptor",
        "Bochs wants the posted-interrupt descriptor at a page boundary; 64 bytes are enough.",
        sections.EXECUTION_CONTROLS,
        where.descriptor_within_page,
        failure=CONTROLS,
        messages=("VMFAIL: VMCS EXEC CTRL: Posted Interrupt Descriptor phy addr malformed",),
    ),
    KnownDifference(
        "bochs.execution.posted-interrupts",
        'Bochs looks at posted interrupts only if "use TPR shadow" is 1.',
        sections.EXECUTION_CONTROLS,
        where.no_tpr_shadow,
        unchecked=(
            "execution.posted-interrupts.delivery",
            "execution.posted-interrupts.vector",
            "execution.posted-interrupts.aligned",
            "execution.posted-interrupts.width",
        ),
    ),
    KnownDifference(
        "bochs.exit.secondary-controls",
        "Bochs does not look at bits 63:32 of the secondary VM-exit controls.",
        sections.EXIT_CONTROLS,
        where.high_exit_controls_only,
        unchecked=("exit.secondary.may-be-1",),
    ),
    KnownDifference(
        "bochs.exit.msr-store-end",
        _MSR_AREA,
        sections.EXIT_CONTROLS,
        where.wrapped_store_area_fits,
        unchecked=("exit.msr-store.end",),
    ),
    KnownDifference(
        "bochs.exit.msr-store-end-at-0",
        _MSR_AREA_AT_0,
        sections.EXIT_CONTROLS,
        where.store_area_wraps_to_nothing,
        failure=CONTROLS,
        messages=("VMFAIL: VMCS VMEXIT CTRL: msr store addr too high",),
    ),
    KnownDifference(
        "bochs.exit.msr-load-end",
        _MSR_AREA,
        sections.EXIT_CONTROLS,
        where.wrapped_exit_load_area_fits,
        unchecked=("exit.msr-load.end",),
    ),
    KnownDifference(
        "bochs.exit.msr-load-end-at-0",
        _MSR_AREA_AT_0,
        sections.EXIT_CONTROLS,
        where.exit_load_area_wraps_to_nothing,
        failure=CONTROLS,
        messages=("VMFAIL: VMCS VMEXIT CTRL: msr load addr too high",),
    ),
    KnownDifference(
        "bochs.entry.msr-load-end",
        _MSR_AREA,
        sections.ENTRY_CONTROLS,
        where.wrapped_entry_load_area_fits,
        unchecked=("entry.msr-load.end",),
    ),
    KnownDifference(
        "bochs.entry.msr-load-end-at-0",
        _MSR_AREA_AT_0,
        sections.ENTRY_CONTROLS,
        where.entry_load_area_wraps_to_nothing,
        failure=CONTROLS,
        messages=("VMFAIL: VMCS VMENTRY CTRL: msr load addr too high",),
    ),
    KnownDifference(
        "bochs.entry.other-event",
        "Bochs injects an event of type 7, whatever its vector, on a processor without the monitor "
        "trap flag, where that type is reserved.",
        sections.ENTRY_CONTROLS,
        where.other_event_without_mtf,
        unchecked=(
            "entry.event.other-type",
            "entry.event.other-vector",
            "entry.instruction-length.maximum",
            "entry.instruction-length.zero",
        ),
    ),
    KnownDifference(
        "bochs.entry.entry-to-smm",
        'Bochs takes "entry to SMM" outside SMM for a matter of guest state: the interruptibility '
        "state cannot be right then, and entry ends with exit 33 instead of error 7.",
        sections.ENTRY_CONTROLS,
        always,
        unchecked=("entry.smm.entry-to-smm",),
    ),
    KnownDifference(
        "bochs.host.perf-global-ctrl",
        "Bochs has no IA32_PERF_GLOBAL_CTRL and does not look at the host's.",
        sections.HOST_REGISTERS,
        always,
        unchecked=("host.perf-global-ctrl.reserved",),
    ),
    KnownDifference(
        "bochs.guest.perf-global-ctrl",
        "Bochs has no IA32_PERF_GLOBAL_CTRL and does not look at the guest's.",
        sections.GUEST_REGISTERS,
        always,
        unchecked=("guest.perf-global-ctrl.reserved",),
    ),
    KnownDifference(
        "bochs.guest.debugctl",
        "Bochs has no IA32_DEBUGCTL and does not look at the guest's.",
        sections.GUEST_REGISTERS,
        always,
        unchecked=("guest.debugctl.reserved",),
    ),
    KnownDifference(
        "bochs.guest.cr0-pg",
        "Bochs lets an unrestricted guest be in IA-32e mode with CR0.PG = 0.",
        sections.GUEST_REGISTERS,
        always,
        unchecked=("guest.cr0.pg",),
    ),
    KnownDifference(
        "bochs.guest.ss-null",
        "Bochs checks nothing of a usable SS but its DPL if the guest runs 64-bit code and the "
        "selector of SS is null.",
        sections.GUEST_SEGMENTS,
        where.null_ss_in_64_bit_code,
        unchecked=(
            "guest.ss.base-high",
            "guest.ss.type",
            "guest.ss.s",
            "guest.ss.p",
            "guest.ss.reserved-low",
            "guest.ss.reserved-high",
            "guest.ss.g-clear",
            "guest.ss.g-set",
        ),
    ),
    KnownDifference(
        "bochs.guest.rip",
        "Bochs does not check RIP of a guest that runs 64-bit code.",
        sections.GUEST_RIP_RFLAGS,
        always,
        unchecked=("guest.rip.linear-address",),
    ),
    KnownDifference(
        "bochs.guest.rflags-vm",
        "Bochs lets an unrestricted guest have RFLAGS.VM = 1 with CR0.PE = 0.",
        sections.GUEST_RIP_RFLAGS,
        always,
        unchecked=("guest.rflags.vm-real-mode",),
    ),
    KnownDifference(
        "bochs.guest.hlt-event",
        "Bochs injects any event into a guest in the HLT state.",
        sections.GUEST_NON_REGISTER,
        always,
        unchecked=("guest.activity.hlt-event",),
    ),
    KnownDifference(
        "bochs.guest.shutdown-event",
        "Bochs injects vector 18 into a guest in the shutdown state whatever the type of the "
        "event, not only as the machine-check exception.",
        sections.GUEST_NON_REGISTER,
        where.vector_of_machine_check,
        unchecked=("guest.activity.shutdown-event",),
    ),
    KnownDifference(
        "bochs.guest.virtual-nmi",
        'Bochs injects an NMI in spite of blocking by NMI if "virtual NMIs" is 1.',
        sections.GUEST_NON_REGISTER,
        always,
        unchecked=("guest.interruptibility.virtual-nmi",),
    ),
    KnownDifference(
        "bochs.guest.nmi-sti",
        "Bochs refuses to inject an NMI while STI blocks with exit qualification 0 instead of 3.",
        sections.GUEST_NON_REGISTER,
        where.nmi_while_sti_blocks,
        unchecked=("guest.interruptibility.nmi-sti",),
        failure=GUEST_STATE,
        messages=("VMENTER FAIL: VMCS guest interrupts blocked when injecting NMI",),
    ),
    KnownDifference(
        "bochs.guest.pending-debug-high",
        "Bochs does not look at bits 63:32 of the pending debug exceptions.",
        sections.GUEST_NON_REGISTER,
        where.high_pending_bits_only,
        unchecked=("guest.pending-debug.reserved",),
    ),
    KnownDifference(
        "bochs.guest.pending-debug-bs",
        "Bochs does not hold BS in the pending debug exceptions against TF and BTF.",
        sections.GUEST_NON_REGISTER,
        always,
        unchecked=("guest.pending-debug.bs-set", "guest.pending-debug.bs-clear"),
    ),
    KnownDifference(
        "bochs.msr-load.missing",
        "Bochs has neither IA32_DEBUGCTL nor IA32_PERF_GLOBAL_CTRL, and does not load them.",
        sections.MSR_LOADING,
        where.msr_missing_in_bochs,
        failure=MSR_LOADING,
        messages=(UNABLE_TO_SET_UP,),
        view="msr-load",
    ),
    KnownDifference(
        "bochs.msr-load.tsc-aux",
        "Bochs does not look at bits 63:32 of a value for IA32_TSC_AUX.",
        sections.MSR_LOADING,
        always,
        unchecked=("msr-load.tsc-aux.high",),
    ),
)

KNOWN: Final = (*MISTAKES, *DIFFERENCES)
"""Every entry."""


class Bochs(Corrected):
    """The rules as Bochs has them."""

    def judge(self, attempt: Attempt) -> Judgement:
        """Judge an attempt as Bochs is known to."""
        return Corrected.judge(self, _within_reach(attempt))


def _within_reach(attempt: Attempt) -> Attempt:
    """Return an attempt without the memory that no address of its processor reaches.

    The rules refuse a structure that goes on beyond; Bochs, where it does not, finds nothing there.
    """
    end = 1 << attempt.profile.maxphyaddr
    regions = attempt.memory.regions
    if not regions or regions[-1][0] + len(regions[-1][1]) <= end:
        return attempt
    kept = tuple((start, data[: end - start]) for start, data in regions if start < end)
    return replace(attempt, memory=Memory(kept))


BOCHS: Final = Bochs(DIFFERENCES, MISTAKES)
"""What Bochs does."""

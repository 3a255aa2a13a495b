# SPDX-License-Identifier: GPL-2.0-only
"""Which calls inside Bochs go elsewhere, and why.

Each table is {symbol: what is done instead}. The comments are the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

Action = Literal[
    "nothing", "zero", "one", "leave", "leave-in-guest", "decide", "log-error", "log-panic"
]
"""Return at once, with a value; leave Bochs; leave it if in the guest; note the outcome; log."""

# The kinds of end that `leave` gives, by symbol: numbers of `native.End.kind`.
ASSERTED: Final = 1
VM_EXIT: Final = 2
EXCEPTION: Final = 3
ENTERED: Final = 4
MARK: Final = 5
LONG_JUMP: Final = 6
IN_GUEST: Final = 7

ENDS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "__assert_fail": ASSERTED,
        "abort": ASSERTED,
        "bx_instr_vmexit": VM_EXIT,
        "_ZN8BX_CPU_C9exceptionEjt": EXCEPTION,
        "_ZN8BX_CPU_C19VMenterInjectEventsEv": ENTERED,
        "bx_instr_prefetch_hint": MARK,
        "__longjmp_chk": LONG_JUMP,
        "bx_instr_before_execution": IN_GUEST,
        "_ZN8BX_CPU_C16handleAsyncEventEv": IN_GUEST,
    }
)

INSTRUMENTATION: Final = (
    "bx_instr_after_execution",
    "bx_instr_before_execution",
    "bx_instr_cache_cntrl",
    "bx_instr_cnear_branch_not_taken",
    "bx_instr_cnear_branch_taken",
    "bx_instr_exception",
    "bx_instr_far_branch",
    "bx_instr_hlt",
    "bx_instr_hwinterrupt",
    "bx_instr_interrupt",
    "bx_instr_lin_access",
    "bx_instr_mwait",
    "bx_instr_opcode",
    "bx_instr_phy_access",
    "bx_instr_prefetch_hint",
    "bx_instr_repeat_iteration",
    "bx_instr_reset",
    "bx_instr_tlb_cntrl",
    "bx_instr_ucnear_branch",
    "bx_instr_vmexit",
    "bx_instr_wrmsr",
)

CONTAINED: Final[Mapping[str, Action]] = MappingProxyType(
    {
        # The wheel's own listeners stop a CPU that it did not start itself; they also take time.
        **dict.fromkeys(INSTRUMENTATION, "nothing"),
        # The wheel has assertions for what it does not emulate: they end the attempt only.
        "__assert_fail": "leave",
        "abort": "leave",
        # Back to the CPU's main loop, which may not be there: the end of a VM exit or an abort.
        "__longjmp_chk": "leave",
        # VMXON asks whether address line 20 is on; the wheel has an assertion there.
        "_ZN14bx_pc_system_c14get_enable_a20Ev": "one",
        # No time passes: the APIC's timers and the VMX-preemption timer never fire.
        "_ZN14bx_pc_system_c20activate_timer_ticksEjmb": "nothing",
        "_ZN14bx_pc_system_c16deactivate_timerEj": "nothing",
        # Physical memory is memory, even where the local APIC would answer.
        "_ZN15bx_local_apic_c11is_selectedEm": "zero",
        # The APIC is not among the state that is put back before each attempt.
        "_ZN15bx_local_apic_c8set_baseEm": "nothing",
        "_ZN15bx_local_apic_c16set_tsc_deadlineEm": "nothing",
        # Nobody prints the lines, but they name the check that failed.
        "_ZN12logfunctions5errorEPKcz": "log-error",
        "_ZN12logfunctions5panicEPKcz": "log-panic",
    }
)
"""For both paths."""

FAST: Final[Mapping[str, Action]] = MappingProxyType(
    {
        # The outcome is decided here; what a processor does next is no part of the verdict.
        "bx_instr_vmexit": "leave",
        "_ZN8BX_CPU_C9exceptionEjt": "leave",
        "_ZN8BX_CPU_C19VMenterInjectEventsEv": "leave",
        # No linear address is translated, and no instruction fetched.
        "_ZN8BX_CPU_C9TLB_flushEv": "nothing",
    }
)
"""For the path that calls VMLAUNCH as a function."""

COMPLETE: Final[Mapping[str, Action]] = MappingProxyType(
    {
        # The harness's own code ends each of its parts with PREFETCHNTA.
        "bx_instr_prefetch_hint": "leave",
        # No handler of the harness runs: the first exception is what it looks for.
        "_ZN8BX_CPU_C9exceptionEjt": "leave",
        # The first of these in the guest: VM entry is over, and no guest code must run.
        "bx_instr_before_execution": "leave-in-guest",
        "_ZN8BX_CPU_C16handleAsyncEventEv": "leave-in-guest",
        # From here on lines of the log are no longer about VM entry.
        "bx_instr_vmexit": "decide",
        "_ZN8BX_CPU_C19VMenterInjectEventsEv": "decide",
    }
)
"""For the path that executes VMLAUNCH among guest code."""

# SPDX-License-Identifier: GPL-2.0-only
"""From what Bochs did to an observation: the same for both paths."""

from __future__ import annotations

import ctypes
from typing import Final

from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry
from nvmxfuzz.targets.base import Observation, died, no_opinion, observed
from nvmxfuzz.targets.bochs import patches
from nvmxfuzz.targets.bochs.cpu import Cpu
from nvmxfuzz.targets.bochs.messages import ERROR, PANIC, LogLines

ENTRY_FAILURE: Final = 1 << 31
"""Bit of the exit reason: VM entry failed."""
_BASIC_REASON: Final = 0xFFFF
_MSR_LOADING: Final = int(ExitReason.MSR_LOAD_FAIL)
_MSR_ENTRY_SIZE: Final = 16
_PLAIN_ENTRY: Final = observed(ENTERED)


def failed_entry(reason: int, qualification: int) -> Outcome:
    """Return the outcome that an exit reason with the bit for a failed entry stands for."""
    return exit_on_entry(reason & _BASIC_REASON, qualification)


def concluded(cpu: Cpu, attempt: Attempt, outcome: Outcome, lines: LogLines) -> Observation:
    """Return the observation of `outcome`, after some lines of Bochs' log."""
    if not lines:
        return _PLAIN_ENTRY if outcome is ENTERED else observed(outcome)
    messages = cpu.messages.read(lines, ERROR)
    panics = cpu.messages.read(lines, PANIC)
    if panics:
        return no_opinion(f"Bochs went on after a panic: {panics[0].text}", messages)
    return Observation("outcome", (outcome,), messages=messages, msr=_msr(attempt, outcome))


def gave_up(kind: int, argument: int) -> Observation:
    """Return that Bochs ended in a way that would have ended a process of its own."""
    if kind != patches.ASSERTED:
        return died("Bochs left VM entry for a place that is not there")
    text = ctypes.string_at(argument).decode("latin-1") if argument else "abort"
    return died(f"an assertion failed in Bochs: {text}")


def _msr(attempt: Attempt, outcome: Outcome) -> int | None:
    """Return the index of the MSR whose loading failed, or None if that was not what failed."""
    if outcome.kind != "exit" or outcome.number != _MSR_LOADING:
        return None
    before = (outcome.qualification - 1) * _MSR_ENTRY_SIZE
    return attempt.memory.read_int(attempt.vmcs.vm_entry_msr_load_addr + before, 4)

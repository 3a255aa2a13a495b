# SPDX-License-Identifier: GPL-2.0-only
"""That nothing happens where nothing is to happen: KVM_RUN that a signal ends at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nvmxfuzz.arch.registers import Cr0
from nvmxfuzz.inputs.session_steps import VCPUS
from nvmxfuzz.oracles.restore.offer import Found
from nvmxfuzz.oracles.session.again import differences
from nvmxfuzz.oracles.session.play import Moment, Played
from nvmxfuzz.oracles.session.seen import is_runnable_l1
from nvmxfuzz.oracles.session.state import State
from nvmxfuzz.oracles.session.witness import VcpuView

_OF_THE_APIC: Final = ("interrupt", "set-lapic")
"""Steps that leave an interrupt pending which no view shows."""
_RESET_RIP: Final = 0xFFF0


def run_changes_nothing(played: Played) -> Iterator[Found]:
    """Out of VMX operation, with nothing pending, a run of no instruction leaves L1 as it was."""
    lost = [0] * VCPUS
    for moment in played.moments:
        if moment.step.kind in _OF_THE_APIC:
            return
        names = _changed_by_running(moment, played)
        if names:
            is_lost_cr3 = names == ("sregs.cr3",) and _cr3(moment.after) == lost[moment.step.vcpu]
            site = "CR3 of before INIT" if is_lost_cr3 else names[0]
            yield site, f"a run of no instruction changes {', '.join(names[:8])}"
        if _is_initialised(moment):
            lost[moment.step.vcpu] = _cr3(moment.before)


def _changed_by_running(moment: Moment, played: Played) -> tuple[str, ...]:
    state, result = State(moment.before), moment.result
    ran = moment.step.kind == "run" and (result.outcome, result.left) == ("l1", "intr")
    if not ran or state.in_vmx or not is_runnable_l1(state, played):
        return ()
    return differences(moment.before, moment.after)


def _is_initialised(moment: Moment) -> bool:
    """Whether INIT has come where paging was off, and CR3 was not 0."""
    before, after = State(moment.before), State(moment.after)
    reset = after.regs["rip"] == _RESET_RIP and not after.sregs["cr3"]
    return reset and not before.sregs["cr0"] & Cr0.PG and before.sregs["cr3"] != 0


def _cr3(view: VcpuView) -> int:
    return State(view).sregs["cr3"]

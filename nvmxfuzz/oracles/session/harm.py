# SPDX-License-Identifier: GPL-2.0-only
"""That no step makes KVM warn, die or loop; and, of each WARN, what has brought it about.

A WARN is told by its file and line, which say little and move. With it stands what is seen to lead
there: `known` knows causes, and a WARN that has another one, or none, is a finding.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.inputs.session_steps import VCPUS, SessionStep
from nvmxfuzz.oracles.restore.offer import Found
from nvmxfuzz.oracles.session.again import is_stuffed
from nvmxfuzz.oracles.session.play import NOT_MODELLED, Moment, Played
from nvmxfuzz.oracles.session.roots import has_ept, is_in_no_memory
from nvmxfuzz.oracles.session.seen import is_invalid
from nvmxfuzz.oracles.session.state import State

_ADDRESS: Final = re.compile("0x[0-9a-f]+")
_RUN_PENDING: Final = 2
_SMM_GUEST_MODE: Final = 1
_EXIT_TO_L1: Final = re.compile(r"vmx/nested\.c|nested_vmx_vmexit")
"""Where KVM warns that it leaves L2 while its entry is pending, which then stays so."""


@dataclass(slots=True)
class _Course:
    """What a vCPU has come by that no view shows."""

    left_pending: bool = False
    """KVM has left L2 with its entry pending."""
    edited: bool = False
    """Somebody has edited the guest, its memory or its nested state: RSM may find anything."""


def no_warn(played: Played) -> Iterator[Found]:
    """No step ends in a WARN, a BUG, a signal or the step limit."""
    courses = [_Course() for _ in range(VCPUS)]
    for moment in played.moments:
        step, course = moment.step, courses[moment.step.vcpu]
        for warning in moment.result.warnings:
            where = _cause(moment, course, played)
            course.left_pending |= _EXIT_TO_L1.search(warning) is not None
            yield f"WARN {warning}{where}", f"{step.kind} makes KVM warn at {warning}{where}"
        stopped = moment.result.stopped
        if stopped and not stopped.startswith(NOT_MODELLED):
            place = _ADDRESS.sub("an address", stopped)
            yield f"stopped {place}", f"KVM does not return from {step.kind}: {stopped}"
        _go_on(moment, courses)


def _go_on(moment: Moment, courses: list[_Course]) -> None:
    step = moment.step
    in_smm = step.kind == "prepare" and moment.before.in_smm
    if in_smm or step.kind in ("memory-write", "smram-write"):
        # Both vCPUs have their SMRAM in one place, and `prepare` writes what a VMCS points to.
        for each in courses:
            each.edited = True
    elif is_stuffed(step):
        courses[step.vcpu].edited = True


def _cause(moment: Moment, course: _Course, played: Played) -> str:
    """Return what leads to a WARN; a sentence of what is special if that is not known."""
    state = State(moment.before)
    ended = moment.result.errno == -errno.EIO
    pending = state.view.in_l2 and state.nested["flags"] & _RUN_PENDING
    if course.left_pending and ended:
        return ", L2 was left with its entry pending"
    if pending and (state.events.get("triple_fault_pending", 0) or _asks(moment.step)):
        return ", a triple fault with the entry pending"
    if pending and ended and is_invalid(state, played):
        return ", an invalid L2 with the entry pending"
    if pending and is_in_no_memory(state):
        return ", an L2 whose page tables are in no memory"
    if state.view.in_smm and state.nested["smm_flags"] & _SMM_GUEST_MODE:
        return ", RSM to another L2" if course.edited else ", in SMM over L2"
    if state.view.in_smm:
        return ", EPT for L2 in SMM" if _enters_with_ept(moment.step, state) else ", in SMM"
    if not state.view.in_l2 and not has_ept(played) and is_in_no_memory(state):
        return ", page tables in no memory without EPT"
    return ", entry of L2 pending" if pending else ""


def _enters_with_ept(step: SessionStep, state: State) -> bool:
    """Whether L1 enters an L2 that has EPT, as far as can be seen."""
    return step.kind in ("vmlaunch", "vmresume") and state.has_ept


def _asks(step: SessionStep) -> bool:
    """Whether userspace asks for a triple fault just now."""
    return step.kind == "set-events" and step.chosen("part") == "triple_fault_pending"

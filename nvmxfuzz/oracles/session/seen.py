# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of what is seen of a session, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.inputs.session_steps import SETS_NESTED_STATE, STEP_KINDS, SessionStep
from nvmxfuzz.kvm.guest_state_valid import guest_segments_valid
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.oracles.restore.offer import Found
from nvmxfuzz.oracles.session.entry import refusing_rules
from nvmxfuzz.oracles.session.instructions import ENTRY, Doubts, permitted
from nvmxfuzz.oracles.session.play import Moment, Played
from nvmxfuzz.oracles.session.roots import is_in_no_memory
from nvmxfuzz.oracles.session.state import State

_BY_DESIGN: Final = frozenset(
    {
        *("io", "ept-violation", "ept-misconfiguration", "apic-access"),
        *("exception-ud", "exception-gp", "task-switch", "page-fault", "gdtr-idtr", "ldtr-tr"),
    }
)
"""Exits that KVM handles by emulating what L2 executes, whose state is valid."""
_TRIPLE_FAULT: Final = "triple-fault"
_ENDING: Final = ("l2-exit triple-fault", "l2-exit vmfail", "l2-other-exit triple-fault")
"""Exits after which the exit reason says so; VMfail leaves that of the exit before."""
_EXITS: Final = ("l2-exit", "l2-other-exit")
_RUNNING: Final = ("run", *_EXITS)
_SEGMENTS: Final = ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt")
_WRITING_REGIONS: Final = ("memory-write", "prepare-enlightened", *SETS_NESTED_STATE)
"""Steps that may leave another revision identifier in a region."""
_RUN_PENDING: Final = 2
_MTF_PENDING: Final = 8
_UNRESTRICTED_GUEST_SUPPORTED: Final = 1 << 39


_INSTRUCTIONS: Final = frozenset(
    kind.name for kind in STEP_KINDS if any(each.name == "mode" for each in kind.operands)
)


def is_executed(step: SessionStep) -> bool:
    """Whether a step is a VMX instruction."""
    return step.kind in _INSTRUCTIONS


# ---------------------------------------------------------------------- emulation


def never_emulated(played: Played) -> Iterator[Found]:
    """KVM executes no instruction of L2 itself, but for what it answers an exit of L2 with."""
    for moment in played.moments:
        if not moment.result.emulated:
            continue
        exits = moment.step.kind in _EXITS
        by_design = exits and moment.step.chosen("exit") in _BY_DESIGN
        # It may have been L1 that was emulated, after that.
        left = moment.result.outcome == _TRIPLE_FAULT
        if not by_design or (is_invalid(State(moment.before), played) and not left):
            yield name_of(moment.step), f"KVM emulates L2 in {moment.step.kind}"


def name_of(step: SessionStep) -> str:
    """Return the kind of a step, of an exit of L2 which one it is."""
    return f"{step.kind} {step.chosen('exit')}" if step.kind in _EXITS else step.kind


# ---------------------------------------------------------------------- invalid L2


def is_invalid(state: State, played: Played) -> bool:
    """Whether L2 is active with a state that KVM must not run, as vmx_guest_state_valid() says."""
    if not state.view.in_l2 or _is_unrestricted(state, played):
        return False
    return not guest_segments_valid(segments(state), state.sregs["cr0"], state.regs["rflags"])


def _has_unrestricted_guests(played: Played) -> bool:
    world = played.case.world
    mine = all(world.parameter(name) for name in ("ept", "unrestricted_guest"))
    return mine and world.profile.msrs.get(0x48B, 0) & _UNRESTRICTED_GUEST_SUPPORTED != 0


def _is_unrestricted(state: State, played: Played) -> bool:
    primary = state.vmcs12.get("cpu_based_vm_exec_control", 0)
    secondary = state.vmcs12.get("secondary_vm_exec_control", 0)
    wanted = primary & Primary.ACTIVATE_SECONDARY_CONTROLS and secondary & (
        Secondary.UNRESTRICTED_GUEST
    )
    return bool(wanted and _has_unrestricted_guests(played))


def segments(state: State) -> dict[str, int]:
    """Return the segment registers as a VMCS has them."""
    return _segments(state.sregs)


def _segments(words: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in _SEGMENTS:
        part = {key: words[f"{name}.{key}"] for key in _PARTS}
        rights = sum(part[key] << shift for key, shift in _PARTS.items() if shift is not None)
        unusable = part["unusable"] or not part["present"]
        field = "ldtr" if name == "ldt" else name
        found[f"guest_{field}_ar_bytes"] = rights & 0xFFFF | bool(unusable) << 16
        for key in ("selector", "base", "limit"):
            found[f"guest_{field}_{key}"] = part[key]
    return found


_PARTS: Final[dict[str, int | None]] = {
    "type": 0,
    "s": 4,
    "dpl": 5,
    "present": 7,
    "avl": 12,
    "l": 13,
    "db": 14,
    "g": 15,
    "unusable": None,
    "selector": None,
    "base": None,
    "limit": None,
}


def triple_fault(played: Played) -> Iterator[Found]:
    """L2 ends in a triple fault at its VM entry if its state is invalid then, and only then."""
    for moment in played.undisturbed():
        before = moment.before
        # Of what happens in SMM, where only userspace can bring L2, the outcome does not tell.
        if not before.in_l2 or before.in_smm or moment.result.stopped or moment.result.errno:
            continue
        if moment.step.kind not in _RUNNING and not is_executed(moment.step):
            continue
        state = State(moment.before)
        if not state.is_at_rest or state.nested["flags"] & _MTF_PENDING:
            # What is pending comes first, and may leave L2.
            continue
        invalid, ended = is_invalid(state, played), moment.result.outcome == _TRIPLE_FAULT
        if invalid and not ended:
            pending = state.nested["flags"] & _RUN_PENDING
            site = "entry pending" if pending else "active"
            yield site, f"L2 is invalid, and {moment.step.kind} is {moment.result.outcome!r}"
        elif ended and not invalid and name_of(moment.step) not in _ENDING:
            nowhere = ", page tables in no memory" if is_in_no_memory(state) else ""
            site = f"valid {name_of(moment.step)}{nowhere}"
            yield site, f"L2 is valid, and ends in a triple fault{nowhere}"


# ---------------------------------------------------------------------- instructions


def executed_by_l1(played: Played) -> Iterator[tuple[Moment, State, Doubts]]:
    """Yield the VMX instructions that a plain L1 executes."""
    doubts, paging = Doubts(), tuple[int, ...]()
    for moment in played.undisturbed():
        step, result = moment.step, moment.result
        ended = result.stopped or result.errno or result.left not in ("", "intr")
        if not paging or (is_executed(step) and not ended):
            state = State(moment.before)
            here = tuple(state.sregs[name] for name in ("cr0", "cr3", "cr4", "efer"))
            paging = paging or here
            if is_executed(step) and not ended and state.is_plain_l1 and _is_runnable(state):
                yield moment, state, replace(doubts, paging=doubts.paging or here != paging)
        doubts = Doubts(
            doubts.revisions or step.kind in _WRITING_REGIONS,
            doubts.cpuid or step.kind == "set-cpuid",
            doubts.paging or step.kind in ("memory-write", "smram-write"),
            doubts.evmcs or step.kind == "enlighten",
        )


def is_runnable_l1(state: State, played: Played) -> bool:
    """Whether L1 would execute instructions, by a processor and not by KVM, and no event comes."""
    outside = not state.view.in_l2 and not state.view.in_smm
    return (
        state.is_at_rest and outside and (_has_unrestricted_guests(played) or _is_runnable(state))
    )


def _is_runnable(state: State) -> bool:
    """Whether a processor could be in that state, so that KVM need not emulate L1."""
    return _are_valid(state.view.sregs, state.regs["rflags"])


@lru_cache(maxsize=64)
def _are_valid(sregs: tuple[tuple[str, int], ...], rflags: int) -> bool:
    """Whether segments are; L1 has the same ones at most of its instructions."""
    words = dict(sregs)
    return guest_segments_valid(_segments(words), words["cr0"], rflags)


def instruction_errors(played: Played) -> Iterator[Found]:
    """What a VMX instruction of L1 comes to is what its operation in the SDM permits."""
    for moment, state, doubts in executed_by_l1(played):
        allowed = permitted(moment.step, state, doubts)
        if allowed is None or ENTRY in allowed or moment.result.outcome in allowed:
            continue
        wanted = " or ".join(sorted(allowed))
        outcome = moment.result.outcome
        site = f"{moment.step.kind} {moment.step.chosen('mode')}: {outcome}, not {wanted}"
        yield site, f"{moment.step.kind} comes to {outcome}; permitted is {wanted}"


def entry_rejects_invalid(played: Played) -> Iterator[Found]:
    """VMLAUNCH and VMRESUME enter L2 with no state that the rules refuse."""
    for moment, state, doubts in executed_by_l1(played):
        if moment.result.outcome != str(ENTERED) or doubts.cpuid:
            continue
        if ENTRY not in (permitted(moment.step, state, doubts) or ()):
            continue
        broken = refusing_rules(moment.step, state, played.case.world)
        if broken:
            yield broken[0], f"{moment.step.kind} enters L2, against {', '.join(broken)}"

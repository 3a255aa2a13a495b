# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of VM entry as the rules judge it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, lru_cache
from typing import TypeAlias
from zlib import crc32

from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.reads import inputs_by_rule
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.inputs.bases import base, default_base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.difference import Change, Edit, apply_to, differences_between
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.profile_name import named_profile
from nvmxfuzz.inputs.repair import repair, satisfiable
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle

VmEntryWitness: TypeAlias = Callable[[Attempt], Judgement]

_TARGETS = ("cpu", "cpu")
_INVALID_GUEST_STATE = 33
_READ_BEFORE_GUEST_STATE = frozenset({"guest_cr0", "guest_cr4"})
"""Guest fields that checks on event injection read: CR0.PE and CR4.FRED."""


def _ends_before_guest_state(outcome: Outcome) -> bool:
    return outcome.kind in ("fail-invalid", "fail-valid", "fault")


def _finding(oracle: str, rules: Iterable[str], site: str, message: str) -> Finding:
    return Finding(oracle, tuple(rules), _TARGETS, site, message)


def _listed(outcomes: Iterable[Outcome]) -> str:
    return ", ".join(map(str, sorted(outcomes)))


def dry_run(case: EntryCase, run: VmEntryWitness) -> Finding | None:
    """With bit 1 of GUEST_RFLAGS clear the entry ends in exit 33, just if no VMfail is left."""
    vmcs = case.attempt.vmcs
    test = vmcs.replace({"guest_rflags": vmcs.guest_rflags & ~Rflags.FIXED1})
    real = run(case.attempt)
    dry = run(replace(case.attempt, vmcs=test))
    left = set(filter(_ends_before_guest_state, real.permitted))
    shown = set(filter(_ends_before_guest_state, dry.permitted))
    if left != shown or (left == set(real.permitted)) != (shown == set(dry.permitted)):
        said = f"permitted are {_listed(real.permitted)}, in a dry run {_listed(dry.permitted)}"
        return _finding("entry.dry-run", (), f"vmfail: {_listed(left ^ shown)}", said)
    wrong = [o for o in dry.permitted if o not in shown and o.number != _INVALID_GUEST_STATE]
    if wrong:
        said = f"a dry run permits {_listed(dry.permitted)}"
        return _finding("entry.dry-run", (), f"exit: {_listed(wrong)}", said)
    return None


def fail_or_exit(case: EntryCase, run: VmEntryWitness) -> Finding | None:
    """A VMfail is never permitted together with an exit, unless a check is not known."""
    judgement = run(case.attempt)
    if judgement.unknown:
        return None
    kinds = {_ends_before_guest_state(outcome) for outcome in judgement.permitted}
    if len(kinds) == 1:
        return None
    said = f"permitted are {_listed(judgement.permitted)}"
    return _finding("entry.fail-or-exit", (), _listed(judgement.permitted), said)


def guest_state_unread(case: EntryCase, run: VmEntryWitness) -> Finding | None:
    """Where entry ends in a VMfail the guest state is not loaded: another one changes nothing."""
    judgement = run(case.attempt)
    if not all(_ends_before_guest_state(outcome) for outcome in judgement.permitted):
        return None
    other = run(_with_other_guest_state(case.attempt))
    if other.permitted == judgement.permitted:
        return None
    said = f"permitted are {_listed(judgement.permitted)}, with another {_listed(other.permitted)}"
    changed = set(judgement.permitted) ^ set(other.permitted)
    return _finding("entry.guest-state-unread", (), _listed(changed), said)


def repaired(case: EntryCase, run: VmEntryWitness) -> Finding | None:
    """A repaired state breaks no rule, its one-edit neighbour only rules that name the edit.

    Not asked of profiles from outside whose capabilities let no state enter, as far as is known.
    """
    if named_profile(case) is None and not _lets_enter(case.profile, run):
        return None
    valid = repair(case.attempt)
    broken = run(valid).broken_names
    if broken:
        said = f"a repaired state breaks {', '.join(broken)}"
        return _finding("entry.repaired", broken, "repair", said)
    edit = _one_edit(valid, case.attempt)
    if edit is None:
        return None
    neighbour = run(apply_to(valid, (edit,)))
    named = _inputs_by_rule()
    place = _input_name(edit)
    unrelated = [rule for rule in neighbour.broken_names if place not in named[rule]]
    if not unrelated:
        return None
    said = f"after an edit of {place} a repaired state breaks {', '.join(unrelated)}"
    return _finding("entry.repaired", unrelated, f"neighbour: {place}", said)


@lru_cache(maxsize=64)
def _lets_enter(profile: Profile, run: VmEntryWitness) -> bool:
    """Tell whether no contradiction is seen in `profile`, and its usual base, repaired, enters.

    Both are asked: the one looks at capabilities in every mode, the other at one state for good.
    """
    if not satisfiable(profile):
        return False
    return not run(repair(base(default_base(profile), profile))).broken


def _with_other_guest_state(attempt: Attempt) -> Attempt:
    """Return the attempt with every bit of the guest-state area flipped."""
    edits = {
        field.name: getattr(attempt.vmcs, field.name) ^ ((1 << field.width) - 1)
        for field in FIELDS
        if field.type == "guest" and field.name not in _READ_BEFORE_GUEST_STATE
    }
    return replace(attempt, vmcs=attempt.vmcs.replace(edits))


def _input_name(change: Change) -> str:
    """Return what `inputs_by_rule` calls the place of a change: a field, or the memory."""
    if isinstance(change, Edit) and layout("vm_entry").by_name[change.slot].area != "memory":
        return change.slot
    return "memory"


def _one_edit(valid: Attempt, wanted: Attempt) -> Change | None:
    """Return one of the edits that lead from a repaired state to the one it came from."""
    edits = differences_between(valid, wanted)
    if not edits:
        return None
    return edits[crc32(repr(edits).encode()) % len(edits)]


@cache
def _inputs_by_rule() -> dict[str, frozenset[str]]:
    return inputs_by_rule(CHAPTER)


ORACLES: tuple[Oracle[EntryCase, VmEntryWitness], ...] = (
    Oracle("entry.dry-run", "KVM commit 52017608da33 (seed 001)", dry_run),
    Oracle("entry.fail-or-exit", "SDM: VM Entries", fail_or_exit),
    Oracle("entry.guest-state-unread", "SDM: VM Entries", guest_state_unread),
    Oracle("entry.repaired", "SDM: VM Entries", repaired),
)

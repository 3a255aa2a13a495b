# SPDX-License-Identifier: GPL-2.0-only
"""What is said of a dump of a failed VM entry, for a reader and for a program."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from nvmxfuzz.arch.bits import Named, named_numbers
from nvmxfuzz.arch.entry_failures import EntryFailure
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.instruction_errors import InstructionError
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.triage.explain import Explanation, may_be_why
from nvmxfuzz.triage.explain.hypotheses import GUEST
from nvmxfuzz.triage.explain.processors import MOST_LENIENT, STRICTEST
from nvmxfuzz.triage.explain.verdicts import Judged

_SOURCES: Final = {"kvm": "dump_vmcs() of KVM", "qemu": "registers printed by QEMU"}
_WIDTH: Final = 100
_NOTHING: Final = (
    "nothing that the dump shows breaks a check for certain. What it does not show may: see what "
    "is not decided, and what is assumed."
)
_NO_STATE: Final = "the dump has no state that could be held against the checks."
_NO_CAUSE: Final = (
    "no cause of the catalogue has evidence here. It may be a field that the dump does not print, "
    "a hypervisor below this KVM with checks of its own, or a processor with checks that these "
    "rules do not know."
)
_MOST_NAMED: Final = 3
_MOST_LISTED: Final = 8


def to_text(explanation: Explanation, *, everything: bool = False) -> str:
    """Return an explanation as a person reads it; with `everything`, each rule not decided too."""
    lines = [_heading(explanation)]
    for title, body in (
        ("Broken", _rules(explanation)),
        ("Broken in some cases", _conditional(explanation, everything)),
        ("Probable cause", _causes(explanation)),
        ("Not decided", _undecided(explanation.unknown, everything)),
        ("Assumed", map(_wrapped, explanation.assumptions)),
    ):
        lines += _section(title, body)
    return "\n".join(lines)


def to_json(explanation: Explanation) -> dict[str, object]:
    """Return an explanation as a program reads it; numbers that are fields are hexadecimal."""
    dump, outcome = explanation.dump, explanation.reported
    return {
        "line": dump.line,
        "times": dump.times,
        "source": dump.source,
        "reported": None if outcome is None else outcome.to_json(),
        "broken": [_judged_json(one, explanation) for one in explanation.broken],
        "depends": [
            {
                **_judged_json(one, explanation),
                "broken_if": list(one.broken_if),
                "held_if": list(one.held_if),
            }
            for one in explanation.depends
        ],
        "unknown": [
            {"rule": one.rule.name, "missing": list(one.missing)} for one in explanation.unknown
        ],
        "causes": [
            {
                "name": cause.name,
                "sentence": cause.sentence,
                "evidence": cause.evidence,
                "advice": cause.advice,
            }
            for cause in explanation.causes
        ],
        "assumptions": list(explanation.assumptions),
    }


def _judged_json(one: Judged, explanation: Explanation) -> dict[str, object]:
    found: dict[str, object] = {
        "rule": one.rule.name,
        "sentence": one.rule.sentence,
        "section": one.rule.section,
        "fields": _hexadecimal(_printed(one.values, explanation)),
        "applies_by": _hexadecimal(_printed(one.applies, explanation)),
    }
    return {**found, "entry": one.position} if one.position else found


def _hexadecimal(values: Mapping[str, int]) -> dict[str, str]:
    return {name: f"{value:#x}" for name, value in values.items()}


# ---------------------------------------------------------------------- parts of the text


def _heading(explanation: Explanation) -> str:
    dump = explanation.dump
    again = f", {dump.times} times" if dump.times > 1 else ""
    said = _reported_text(explanation.reported)
    suberror = dump.facts.get("suberror")
    if suberror is not None:
        said = f"KVM internal error, suberror {suberror}"
    return f"line {dump.line}{again}: {_SOURCES[dump.source]}: {said}"


def _reported_text(outcome: Outcome | None) -> str:
    if outcome is None:
        return "it does not say how VM entry failed"
    if outcome.kind == "fail-valid":
        name = _name(InstructionError, outcome.number)
        return f"VMfailValid, VM-instruction error {outcome.number:#x} ({name})"
    text = f"exit reason {outcome.number} ({_name(ExitReason, outcome.number)})"
    if outcome.number == ExitReason.INVALID_STATE and outcome.qualification:
        return f"{text}, for {_name(EntryFailure, outcome.qualification)}"
    return f"{text}, entry {outcome.qualification}" if outcome.qualification else text


def _name(table: type, number: int) -> str:
    known = {int(value): value for value in named_numbers(table).values()}
    found: Named | None = known.get(number)
    return "not a number of Intel's" if found is None else found.sdm_name


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH - 2, subsequent_indent="    ")


def _section(title: str, body: Iterable[str]) -> Iterator[str]:
    found = list(body)
    if found:
        yield ""
        yield f"{title}:"
        for text in found:
            yield textwrap.indent(text, "  ")


def _rules(explanation: Explanation) -> Iterator[str]:
    if not explanation.broken:
        yield _wrapped(_NOTHING if explanation.judged else _NO_STATE)
    for one in explanation.broken:
        lines = [_title(one), f"    {one.rule.sentence}", f"    SDM: {one.rule.section}"]
        lines += _values(one, explanation)
        other = _another_stage(one, explanation.reported)
        yield "\n".join([*lines, *([f"    {other}"] if other else [])])


def _title(one: Judged) -> str:
    return f"{one.rule.name} (entry {one.position} of the list)" if one.position else one.rule.name


def _values(one: Judged, explanation: Explanation) -> Iterator[str]:
    for name, value in _printed(one.values, explanation).items():
        yield f"    {name} = {value:#x} ({FIELD_BY_NAME[name].sdm_name})"
    for name, value in _printed(one.applies, explanation).items():
        yield f"    {name} = {value:#x} ({FIELD_BY_NAME[name].sdm_name}), by which it applies"


def _another_stage(one: Judged, reported: Outcome | None) -> str:
    """Return a remark on a rule that cannot be why VM entry failed as it is reported to have."""
    outcome = one.rule.failure.outcome
    if may_be_why(outcome, reported):
        return ""
    return f"this would be {outcome}, which is not what was reported"


def _printed(values: Mapping[str, int], explanation: Explanation) -> dict[str, int]:
    """Return the fields that a rule looked at, without those that are made up."""
    return {name: value for name, value in values.items() if name in explanation.dump.fields}


def _conditional(explanation: Explanation, everything: bool) -> Iterator[str]:
    ranked = sorted(explanation.depends, key=lambda one: not one.likely)
    shown = ranked if everything else ranked[:_MOST_LISTED]
    for one in shown:
        lines = [_wrapped(f"{_title(one)}: {_condition(one)}"), f"    {one.rule.sentence}"]
        yield "\n".join([*lines, *_values(one, explanation)])
    if len(shown) < len(ranked):
        yield f"and {len(ranked) - len(shown)} more: see --all"


def _condition(one: Judged) -> str:
    """Return where a rule is broken: as the guest is, or on which processors."""
    if all(name.startswith(GUEST) for name in one.broken_if):
        return " or ".join(one.broken_if)
    broken, held = _published(one.broken_if), _published(one.held_if)
    if broken and held:
        return f"on processors like {_few(broken)}, but not on {_few(held)}"
    if broken:
        return f"on {_few(broken)}, but not on a processor that allows more"
    return "on a processor that demands more than the published ones"


def _published(names: Sequence[str]) -> list[str]:
    return [name for name in names if name not in (STRICTEST, MOST_LENIENT)]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _causes(explanation: Explanation) -> Iterator[str]:
    for cause in explanation.causes:
        text = f"{cause.sentence} Evidence: {cause.evidence}. What to do: {cause.advice}."
        yield f"{cause.name}:\n" + textwrap.indent(textwrap.fill(text, _WIDTH - 6), "    ")
    if not explanation.causes:
        yield _wrapped(_NO_CAUSE)


def _undecided(unknown: Sequence[Judged], everything: bool) -> Iterator[str]:
    """Yield the rules that lack something, by what they lack, the most frequent first."""
    by_missing: dict[tuple[str, ...], list[str]] = {}
    for one in unknown:
        by_missing.setdefault(one.missing, []).append(one.rule.name)
    ranked = sorted(by_missing.items(), key=lambda item: (-len(item[1]), item[0]))
    shown = ranked if everything else ranked[:_MOST_LISTED]
    for missing, names in shown:
        what = ", ".join(missing) + " not printed" if missing else "left to the processor"
        if everything or len(names) <= _MOST_NAMED:
            yield f"{what}: {', '.join(names)}"
        else:
            yield f"{what}: {len(names)} checks, such as {', '.join(names[:2])}"
    rest = sum(len(names) for _, names in ranked[len(shown) :])
    if rest:
        yield f"and {rest} checks more: see --all"

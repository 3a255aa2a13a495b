# SPDX-License-Identifier: GPL-2.0-only
"""A finding for somebody who does not know this project."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.inputs.case import Case, EntryCase
from nvmxfuzz.machine.outside import printable
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.reports.case_text import Row

_WIDTH: Final = 98
_GUESTS: Final = {
    "guest-64": "of a 64-bit guest",
    "guest-32": "of a 32-bit guest with paging",
    "guest-pae": "of a guest with PAE paging",
    "guest-real": "of an unrestricted guest in real mode",
    "guest-v86": "of a guest in virtual-8086 mode",
}
_BELOW: Final = {
    "rules": "on a processor that keeps to the SDM",
    "bochs": "on the Bochs CPU",
}
"""What a target that is KVM on a processor has behind its plus sign."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one target did. `kernel` is that of a KVM, such as "6.12", or "".

    `said` is what the target itself says of its reasons: of a KVM the condition of the check that
    failed and its function. `end` is what L1 sees in the end where KVM's software enters L2,
    `relation` how it relates to the SDM, as a sentence. `permitted` is told where it is another
    than on the processor of the case: KVM offers L1 a processor of its own.
    """

    name: str
    kernel: str
    outcome: str
    said: tuple[str, ...]
    end: str
    relation: str
    permitted: str = ""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """All that is told of a finding. `finding` is what the case is known to show, if anything.

    `state` says what became of that: "still there", "gone" or "different", or "". `seen` are the
    findings of this run; `judgement` and `sides` are of VM entries only.
    """

    name: str
    case: Case
    rows: tuple[Row, ...]
    finding: Finding | None
    promise: str
    state: str
    seen: tuple[Finding, ...]
    judgement: Judgement | None
    sides: tuple[Side, ...]
    commands: tuple[str, ...]


def to_text(told: Reproduction) -> str:
    """Return the page."""
    lines = [told.name]
    if told.finding is not None:
        lines += ["", *_wrapped(f"What was to hold: {told.promise}", "")]
        lines += _wrapped(f"What was seen: {told.finding.message}", "")
    for title, body in (
        (_title(told.case), _rows(told.rows, told.case)),
        ("What the SDM says", _sdm(told.judgement)),
        ("What KVM does", _sides(side for side in told.sides if side.kernel)),
        ("What other processors do", _sides(side for side in told.sides if not side.kernel)),
        ("What the oracles say", _seen(told)),
        ("Again", iter(told.commands)),
    ):
        found = list(body)
        if found:
            lines += ["", f"{title}:", *(textwrap.indent(text, "  ") for text in found)]
    return "\n".join(lines)


def to_json(told: Reproduction) -> dict[str, object]:
    """Return the page as a program reads it."""
    judged = told.judgement
    return {
        "name": told.name,
        "harness": told.case.harness,
        "state": told.state or None,
        "promise": told.promise or None,
        "message": told.finding.message if told.finding else None,
        "fields": [
            {"area": row.area, "name": row.name, "value": row.value, "base": row.base}
            for row in told.rows
        ],
        "broken": [] if judged is None else list(judged.broken_names),
        "permitted": [] if judged is None else [each.to_json() for each in judged.permitted],
        "targets": {
            side.name: {
                "outcome": side.outcome,
                "said": list(side.said),
                "end": side.end or None,
                "relation": side.relation,
            }
            for side in told.sides
        },
        "seen": [{"identity": each.identity, "message": each.message} for each in told.seen],
    }


def _wrapped(text: str, indent: str = "    ") -> list[str]:
    return textwrap.wrap(printable(text), _WIDTH, subsequent_indent=indent) or [""]


def _title(case: Case) -> str:
    if not isinstance(case, EntryCase):
        return "What is done"
    attempt = case.attempt
    return (
        f"What L1 does: {attempt.instruction.upper()}, launch state {attempt.launch_state}, on a "
        f"processor like {printable(case.profile.name)}.\nIt has {vmcs_of(case.base)}, but for"
    )


def vmcs_of(base: str) -> str:
    """Return which VMCS L1 begins with, in words, by the name of the base of a case."""
    guest = _GUESTS.get(base)
    return f"a valid VMCS {guest}" if guest else "an empty VMCS"


def _rows(rows: Sequence[Row], case: Case) -> Iterator[str]:
    if not rows:
        yield "nothing: it is that very state"
    for row in rows:
        field = FIELD_BY_NAME.get(row.name) if row.area == "vmcs" else None
        name = f"{row.name} ({field.macro})" if field and field.macro else row.name
        value = f" = {row.value}" if row.value else ""
        valid = f", valid: {row.base}" if row.base and isinstance(case, EntryCase) else ""
        area = "" if row.area == "vmcs" else f"{row.area} "
        yield "\n".join(_wrapped(f"{area}{name}{value}{valid}; {row.meaning}".rstrip("; ")))


def _sdm(judged: Judgement | None) -> Iterator[str]:
    if judged is None:
        return
    for index in sorted(set(judged.broken)):
        rule = judged.rules[index]
        yield "\n".join(_wrapped(f'broken: "{rule.section}": {rule.sentence} ({rule.name})'))
    if not judged.broken:
        yield "no check fails"
    if judged.unknown_names:
        yield "left to the processor: " + ", ".join(judged.unknown_names)
    yield "permitted: " + ", ".join(map(str, judged.permitted))


def _sides(sides: Iterable[Side]) -> Iterator[str]:
    for side in sides:
        lines = _wrapped(f"{who(side)}: {side.outcome}")
        for text in side.said:
            lines += _wrapped(f"  {text}")
        if side.end:
            lines += _wrapped(f"  its software lets it pass; in the end L1 sees: {side.end}")
        if side.permitted:
            lines += _wrapped(f"  permitted on the processor that it offers L1: {side.permitted}")
        yield "\n".join([*lines, *_wrapped(f"  {side.relation}")])


def who(side: Side) -> str:
    """Return whose doing a side tells, in words."""
    if not side.kernel:
        return side.name
    below = _BELOW.get(side.name.partition("+")[2], "")
    return f"Linux {side.kernel}{' ' if below else ''}{below} ({side.name})"


def _seen(told: Reproduction) -> Iterator[str]:
    if told.state:
        yield f"the finding is {told.state}"
    for finding in told.seen:
        yield "\n".join(_wrapped(f"{finding.identity}: {finding.message}"))
    if not told.seen and not told.state:
        yield "nothing is wrong"

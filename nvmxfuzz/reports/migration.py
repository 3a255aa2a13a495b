# SPDX-License-Identifier: GPL-2.0-only
"""What a migration comes to, for a terminal and for a program; `migration_html` has a page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.kvm.describe import restore_text
from nvmxfuzz.machine.outside import printable
from nvmxfuzz.oracles.migration.policies import Consequence, FailingEntry
from nvmxfuzz.oracles.migration.table import FATES, Fate, MigrationTable, MsrFate
from nvmxfuzz.oracles.restore.bit_names import Capability

WIDTH: Final = 100

FATE_TEXT: Final[dict[Fate, str]] = {
    "kept": "the VM is offered it on both sides",
    "gained": "only a VM that is started on the destination is offered it",
    "lost": "the VM is offered it no more, though nothing was refused",
    "refused": "the destination refuses the value that offers it",
}
POLICY_TEXT: Final = {
    "refuse": "what KVM does: a value with more than it offers is not taken",
    "keep": "the value is taken as it is",
    "clear": "the value is taken without what is not there",
}


@dataclass(frozen=True, slots=True)
class End:
    """One end of a migration: the kernel's version, who spoke for it, and on which processor."""

    kernel: str
    witness: str
    processor: str

    def __str__(self) -> str:
        return f"{self.kernel} ({self.witness}) on {printable(self.processor)}"


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """Everything that is told of a migration.

    `notes` are sentences about what was asked, `differences` those in which the model differs from
    the kernels that were asked; None where none was.
    """

    source: End
    destination: End
    table: MigrationTable
    policies: tuple[Consequence, ...]
    notes: tuple[str, ...] = ()
    differences: tuple[str, ...] | None = None

    @property
    def verdict(self) -> str:
        """What happens, in a sentence."""
        refused = len(self.table.refused)
        if not refused:
            return "the VM arrives"
        return f"the VM does not arrive: {refused} MSR{'s are' if refused > 1 else ' is'} refused"


def fate_names(row: MsrFate, fate: Fate) -> list[str]:
    """Return the names of what has this fate in an MSR."""
    return [each.capability.text for each in row.bits if each.fate == fate]


def number(value: int | None) -> str:
    """Return a value of an MSR, or a dash where there is none."""
    return "-" if value is None else f"{value:#018x}"


def written(row: MsrFate) -> str:
    """Return what became of writing an MSR, with the reason."""
    if row.write != "refused":
        return row.write
    reason = restore_text(row.check)
    return f"refused by {row.check}: {reason}" if reason else "refused"


def entry_text(entry: FailingEntry) -> str:
    """Return how a VM entry ends that entered before."""
    what = f"{entry.base} with {entry.uses.label}" if entry.uses else entry.base
    check = f" ({entry.after.check})" if entry.after.check else ""
    return f"{what}: {entry.after.ended}{check}"


# ---------------------------------------------------------------------- a terminal


def to_text(report: MigrationReport) -> str:
    """Return the report for a person."""
    return "\n".join(_lines(report))


def _lines(report: MigrationReport) -> Iterator[str]:
    yield f"from {report.source}"
    yield f"to   {report.destination}"
    yield from (f"note: {printable(note)}" for note in report.notes)
    yield f"{report.verdict}; {totals_text(report.table)}"
    for row in report.table.msrs:
        yield ""
        yield from _row(row)
    yield ""
    yield from _policies(report.policies)
    if report.differences is not None:
        yield ""
        yield from [f"DIFFERENT: {each}" for each in report.differences] or [
            "the model says the same"
        ]


def totals_text(table: MigrationTable) -> str:
    """Return the totals in one line."""
    return ", ".join(f"{fate} {count}" for fate, count in table.totals.items())


def _row(row: MsrFate) -> Iterator[str]:
    yield f"{row.index:#x} {row.name}: {row.write}"
    if row.write == "refused":
        yield f"  {written(row)}"
    yield f"  had {number(row.source)}  has {number(row.carried)}  new VM {number(row.fresh)}"
    for fate in reversed(FATES):
        names = fate_names(row, fate)
        if names:
            yield from _wrapped(f"  {fate:8}", names)


def _wrapped(label: str, names: list[str]) -> list[str]:
    indent = " " * len(label)
    text = "; ".join(names)
    return textwrap.wrap(text, WIDTH, initial_indent=label, subsequent_indent=indent)


def _policies(consequences: tuple[Consequence, ...]) -> Iterator[str]:
    yield f"{'policy':8}{'arrives':9}{'vanished':10}{'unbacked':10}entries that fail"
    for each in consequences:
        if not each.arrives:
            yield f"{each.policy:8}no"
            continue
        counts = f"{len(each.vanished):<10}{len(each.unbacked):<10}"
        yield f"{each.policy:8}{'yes':9}{counts}{len(each.failing)} of {each.tried}"
    for each in consequences:
        yield from _consequence(each)


def _consequence(consequence: Consequence) -> Iterator[str]:
    parts = [
        ("L1 is offered no more", labels(consequence.vanished)),
        ("L1 is offered, and this KVM does not have", labels(consequence.unbacked)),
        ("enters no more", [entry_text(each) for each in consequence.failing]),
        ("no VM entry used it before", labels(consequence.unused)),
    ]
    if any(found for _, found in parts):
        yield f"{consequence.policy}: {POLICY_TEXT[consequence.policy]}"
    for title, found in parts:
        if found:
            yield f"  {title}:"
            yield from (f"    {each}" for each in found)


def labels(capabilities: tuple[Capability, ...]) -> list[str]:
    """Return what tells each of the capabilities from every other."""
    return [each.label for each in capabilities]


# ---------------------------------------------------------------------- a program


def to_json(report: MigrationReport) -> dict[str, object]:
    """Return the report for a program; values of MSRs are texts in hexadecimal, or null."""
    reply: dict[str, object] = {
        "source": _end(report.source),
        "destination": _end(report.destination),
        "arrives": not report.table.refused,
        "totals": report.table.totals,
        "msrs": [_msr(row) for row in report.table.msrs],
        "policies": [_policy(each) for each in report.policies],
        "notes": list(report.notes),
    }
    if report.differences is not None:
        reply["differences"] = list(report.differences)
    return reply


def _end(end: End) -> dict[str, str]:
    return {"kernel": end.kernel, "witness": end.witness, "processor": end.processor}


def _msr(row: MsrFate) -> dict[str, object]:
    values = {"source": row.source, "carried": row.carried, "fresh": row.fresh}
    return {
        "msr": f"{row.index:#x}",
        "name": row.name,
        **{name: None if value is None else f"{value:#x}" for name, value in values.items()},
        "write": row.write,
        "check": row.check or None,
        **{fate: fate_names(row, fate) for fate in FATES},
    }


def _policy(consequence: Consequence) -> dict[str, object]:
    reply: dict[str, object] = {"policy": consequence.policy, "arrives": consequence.arrives}
    if not consequence.arrives:
        return reply
    return reply | {
        "vanished": labels(consequence.vanished),
        "unbacked": labels(consequence.unbacked),
        "entries": consequence.tried,
        "failing": [_failing(each) for each in consequence.failing],
        "unused": labels(consequence.unused),
    }


def _failing(entry: FailingEntry) -> dict[str, object]:
    return {
        "base": entry.base,
        "uses": None if entry.uses is None else entry.uses.label,
        "ended": entry.after.ended,
        "check": entry.after.check or None,
    }

# SPDX-License-Identifier: GPL-2.0-only
"""How soon planted faults are found, as text, as JSON, and as the page docs/power.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

from nvmxfuzz.power.fault import Fault
from nvmxfuzz.power.summary import Summary, summary_of
from nvmxfuzz.power.trials import Result
from nvmxfuzz.power.variant import Variant

_NEVER = "never"


def as_json(results: Sequence[Result], faults: Sequence[Fault]) -> dict[str, object]:
    """Return every group of trials; what is infinite is null."""
    return {
        "faults": [
            {
                "fault": fault.name,
                "kind": fault.kind,
                "sentence": fault.sentence,
                "harness": fault.harness,
                "target": fault.target,
                "variants": {
                    name: _finite(summary_of(group))
                    for name, group in _by(results, lambda each: each.variant, fault.name).items()
                },
            }
            for fault in faults
        ],
        "variants": {
            name: _finite(summary_of(group))
            for name, group in _by(results, lambda each: each.variant).items()
        },
    }


def not_found(results: Iterable[Result]) -> Iterator[str]:
    """Yield a line for each trial that did not find its fault."""
    for each in results:
        if not each.trial.found:
            end = f", the worker died ({each.trial.died})" if each.trial.died else ""
            yield (
                f"{each.fault}, {each.variant}, seed {each.seed}: not found in "
                f"{each.trial.executions:,} executions, {each.trial.seconds:.1f} s{end}"
            )


def table_of_variants(results: Sequence[Result], variants: Sequence[Variant]) -> str:
    """Return a table in Markdown: a row for each variant."""
    rows = [
        (variant.name, variant.sentence, *_cells(summary_of(group)))
        for variant in variants
        if (group := _by(results, lambda each: each.variant).get(variant.name))
    ]
    heads = ("engine", "what it is", *_HEADS)
    return _table(heads, rows, left=2)


def table_of_faults(results: Sequence[Result], faults: Sequence[Fault], variant: str) -> str:
    """Return a table in Markdown: a row for each fault, as one variant finds it."""
    rows = []
    for fault in faults:
        group = _by(results, lambda each: each.variant, fault.name).get(variant)
        if group:
            place = fault.target or "rules"
            cells = (fault.name, fault.kind, fault.harness, place, *_cells(summary_of(group)))
            rows.append(cells)
    return _table(("fault", "kind", "harness", "target", *_HEADS), rows, left=4)


_HEADS = ("found", "median", "90 %", "executions", "90 %")


def _cells(summary: Summary) -> tuple[str, ...]:
    return (
        f"{summary.found} of {summary.trials}",
        _seconds(summary.seconds),
        _seconds(summary.seconds_90),
        _number(summary.executions),
        _number(summary.executions_90),
    )


def _by(
    results: Iterable[Result], key: Callable[[Result], str], fault: str | None = None
) -> Mapping[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for each in results:
        if fault in (None, each.fault):
            groups.setdefault(key(each), []).append(each)
    return groups


def _finite(summary: Summary) -> dict[str, object]:
    return {name: _or_none(value) for name, value in asdict(summary).items()}


def _or_none(value: float) -> float | None:
    return None if math.isinf(value) else value


def _seconds(value: float) -> str:
    return _NEVER if math.isinf(value) else f"{value:.1f} s"


def _number(value: float) -> str:
    return _NEVER if math.isinf(value) else f"{value:,.0f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Return a table whose first columns stand on the left, the others on the right."""
    lines = ["---" if number < left else "---:" for number in range(len(heads))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, lines, *rows))

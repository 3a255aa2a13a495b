# SPDX-License-Identifier: GPL-2.0-only
"""docs/power.md says what the trials came to, and compares engines on the same trials alone."""

from __future__ import annotations

from nvmxfuzz.power.fault import all_faults
from nvmxfuzz.power.hunt import Trial
from nvmxfuzz.power.trials import Result
from nvmxfuzz.power.variant import all_variants
from nvmxfuzz.reports.power_page import page

FAULTS = list(all_faults().values())
FIRST, SECOND = FAULTS[0].name, FAULTS[1].name


def result(fault: str, variant: str, seconds: float, *, limit: float = 60.0) -> Result:
    identity = "entry.no-missed-check-1" if seconds else ""
    return Result(fault, variant, 1, limit, "c0ffee", Trial(identity, 10, seconds or limit))


def text(*results: Result) -> str:
    return page(results, FAULTS, list(all_variants().values()), "nothing else")


def test_what_was_found_and_what_not() -> None:
    said = text(result(FIRST, "atheris", 2.0), result(SECOND, "atheris", 0.0))
    assert f"2 of {len(FAULTS)} faults were looked for, 1 trial(s) each: 1 were found" in said
    assert f"| {FIRST} |" in said
    assert f"- {SECOND}, atheris, seed 1: not found" in said
    assert (
        "nothing else; a trial had 60 seconds. Revisions, and trials of each: c0ffee (2)." in said
    )


def test_engines_are_compared_on_what_each_has_tried() -> None:
    said = text(
        result(FIRST, "atheris", 2.0),
        result(FIRST, "atheris", 1.0, limit=20.0),
        result(FIRST, "bytes", 0.0, limit=20.0),
        result(SECOND, "atheris", 3.0, limit=20.0),
    )
    assert "The same 1 trials of 1 faults with each, of 20 seconds." in said
    assert "| 1 of 1 | 1.0 s |" in said
    assert "| 0 of 1 | never |" in said


def test_one_engine_is_compared_to_nothing() -> None:
    assert "Only one engine" in text(result(FIRST, "atheris", 2.0))


def test_the_longer_trials_are_the_measurement() -> None:
    said = text(result(FIRST, "atheris", 0.0), result(FIRST, "atheris", 1.0, limit=20.0))
    assert "0 were found in 95 % of their trials" in said

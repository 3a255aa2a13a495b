# SPDX-License-Identifier: GPL-2.0-only
"""Holding a vector against its expectation."""

from __future__ import annotations

from collections.abc import Iterator

from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.case import ConfigCase, EntryCase, MigrationCase, RestoreCase, SessionCase
from nvmxfuzz.inputs.expectation import (
    ACCEPTED,
    REFUSED,
    BreachExpectation,
    ConfigExpectation,
    Expectation,
    Vector,
)
from nvmxfuzz.kvm.hardware_setup import hardware_setup
from nvmxfuzz.oracles.config.capability_config import loading_of
from nvmxfuzz.oracles.migration import cases as migration_cases
from nvmxfuzz.oracles.restore.case import breaches
from nvmxfuzz.oracles.session.oracles import BREACHES as SESSION_ORACLES
from nvmxfuzz.oracles.session.oracles import breaches as session_breaches
from nvmxfuzz.oracles.session.play import Run


def mismatches(vector: Vector, played: Run | None = None) -> tuple[str, ...]:
    """Return a sentence for each thing that a vector expects otherwise; none if it holds.

    What is expected of a session is looked at where it can be `played`, on its own kernel.
    """
    case, expected = vector.case, vector.expectation
    if isinstance(case, SessionCase) and isinstance(expected, BreachExpectation):
        return tuple(_of_session(case, expected, played))
    if isinstance(case, EntryCase) and isinstance(expected, Expectation):
        return tuple(_of_judgement(vm_entry(case.attempt), expected))
    if isinstance(case, ConfigCase) and isinstance(expected, ConfigExpectation):
        return tuple(_of_config(case, expected))
    if isinstance(case, RestoreCase) and isinstance(expected, BreachExpectation):
        return tuple(_same("a breach", expected.breaches, breaches(case)))
    if isinstance(case, MigrationCase) and isinstance(expected, BreachExpectation):
        return tuple(_same("a breach", expected.breaches, migration_cases.breaches(case)))
    return ()


def _of_session(
    case: SessionCase, expected: BreachExpectation, played: Run | None
) -> Iterator[str]:
    for breach in expected.breaches:
        oracle = breach.partition(":")[0]
        if oracle not in SESSION_ORACLES:
            yield f"there is no oracle {oracle}"
    found = played(case) if played else None
    if found is not None and found.kernel == case.world.kernel:
        yield from _same("a breach", expected.breaches, session_breaches(found))


def _of_judgement(judgement: Judgement, expected: Expectation) -> Iterator[str]:
    yield from _same("broken", expected.broken, judgement.broken_names)
    yield from _same("unknown", expected.unknown, judgement.unknown_names)
    for verdict, names in (("held", expected.held), ("n/a", expected.na)):
        for name in names:
            if name not in CHAPTER.index:
                yield f"there is no rule {name}"
            elif (found := judgement.verdict(CHAPTER.index[name])) != verdict:
                yield f"{name} is {found}, not {verdict}"
    if expected.outcome is not None and expected.outcome != judgement.permitted:
        permitted = ", ".join(map(str, judgement.permitted))
        wanted = ", ".join(map(str, expected.outcome))
        yield f"permitted are {permitted}, not {wanted}"


def _same(what: str, expected: tuple[str, ...], found: tuple[str, ...]) -> Iterator[str]:
    for name in sorted(set(expected) - set(found)):
        yield f"{name} is not {what}"
    for name in sorted(set(found) - set(expected)):
        yield f"{name} is {what}"


def _of_config(case: ConfigCase, expected: ConfigExpectation) -> Iterator[str]:
    loading = loading_of(case)
    outcome = hardware_setup(loading.host, loading.kernel, loading.params)
    result = REFUSED if outcome.config is None else ACCEPTED
    if result != expected.outcome:
        yield f"the config is {result}, not {expected.outcome}"
    sites = tuple(warning.site for warning in outcome.warnings)
    if expected.warnings is not None and sites != expected.warnings:
        yield f"the warnings are {list(sites)}, not {list(expected.warnings)}"
    for word, value in expected.config.items():
        found = getattr(outcome.config, word, None)
        if found != value:
            shown = "missing" if found is None else f"{found:#x}"
            yield f"{word} is {shown}, not {value:#x}"

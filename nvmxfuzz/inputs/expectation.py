# SPDX-License-Identifier: GPL-2.0-only
"""What a vector expects of its case, beside the case."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import values
from nvmxfuzz.inputs.case import Case, CaseKind
from nvmxfuzz.inputs.shown import Shown
from nvmxfuzz.machine.outcome import (
    ENTERED,
    FAIL_INVALID,
    Outcome,
    exit_on_entry,
    fail_valid,
    fault,
)
from nvmxfuzz.machine.outside import show

ACCEPTED: Final = "accepted"
REFUSED: Final = "-EIO"

_NUMBERED = re.compile(
    r"(fail-valid|fault) ([0-9]{1,6})|exit ([0-9]{1,6}) qualification ([0-9]{1,20})"
)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What judging an entry must say.

    `broken` and `unknown` are all rules with that verdict, `held` and `na` some of them. `outcome`
    is every permitted outcome, ascending, or None where the vector does not say.
    """

    broken: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    na: tuple[str, ...] = ()
    outcome: tuple[Outcome, ...] | None = None


@dataclass(frozen=True, slots=True)
class ConfigExpectation:
    """What `setup_vmcs_config` must come to: "accepted" or "-EIO", and its warnings by site.

    `warnings` is None where the vector does not say; `config` holds the words of the accepted
    config that the vector states, by name.
    """

    outcome: str = ACCEPTED
    warnings: tuple[str, ...] | None = None
    config: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BreachExpectation:
    """What oracles say of a case in worlds: "ORACLE: SITE" for each breach, known or not."""

    breaches: tuple[str, ...] = ()


AnyExpectation: TypeAlias = Expectation | ConfigExpectation | BreachExpectation


@dataclass(frozen=True, slots=True)
class Vector:
    """A case with what is expected of it; None where nothing is (a seed, a case to look at).

    `shown` is the finding that the case shows, where the file is about one.
    """

    case: Case
    expectation: AnyExpectation | None = None
    shown: Shown | None = None

    @property
    def note(self) -> str:
        """What the vector is there for, in words."""
        return self.case.note


def parse_expectation(table: Mapping[str, Any], harness: CaseKind) -> AnyExpectation:
    """Return the expectation that the table `expect` states."""
    if harness == "capability_config":
        return _parse_config(table)
    if harness in ("capability_restore", "migration", "session"):
        values.only_keys(table, ("breaches",), "expect")
        return BreachExpectation(values.names(table, "breaches"))
    values.only_keys(table, ("broken", "unknown", "held", "na", "outcome"), "expect")
    return Expectation(
        broken=values.names(table, "broken"),
        unknown=values.names(table, "unknown"),
        held=values.names(table, "held"),
        na=values.names(table, "na"),
        outcome=_outcomes(table["outcome"]) if "outcome" in table else None,
    )


def parse_outcome(text: str) -> Outcome:
    """Return the outcome that `str()` of it writes as `text`."""
    for plain in (ENTERED, FAIL_INVALID):
        if text == str(plain):
            return plain
    match = _NUMBERED.fullmatch(text)
    if match is None:
        raise InputError(
            f"{show(text)} is no outcome; they are 'entered', 'fail-invalid', "
            "'fail-valid N', 'fault N' and 'exit N qualification N'"
        )
    kind, first, reason, qualification = match.groups()
    if kind is None:
        return exit_on_entry(int(reason), int(qualification))
    return fault(int(first)) if kind == "fault" else fail_valid(int(first))


def expectation_table(expectation: AnyExpectation) -> dict[str, Any]:
    """Return the table `expect`, without what it need not say."""
    if isinstance(expectation, ConfigExpectation):
        table: dict[str, Any] = {"outcome": expectation.outcome}
        if expectation.warnings is not None:
            table["warnings"] = list(expectation.warnings)
        return table
    if isinstance(expectation, BreachExpectation):
        return {"breaches": list(expectation.breaches)}
    table = {"broken": list(expectation.broken)}
    for key in ("unknown", "held", "na"):
        if getattr(expectation, key):
            table[key] = list(getattr(expectation, key))
    if expectation.outcome is not None:
        texts = [str(outcome) for outcome in expectation.outcome]
        table["outcome"] = texts[0] if len(texts) == 1 else texts
    return table


def _parse_config(table: Mapping[str, Any]) -> ConfigExpectation:
    values.only_keys(table, ("outcome", "warnings", "config"), "expect")
    outcome = values.text(table, "outcome", ACCEPTED)
    if outcome not in (ACCEPTED, REFUSED):
        raise InputError(f"outcome is {show(outcome)}; give {ACCEPTED!r} or {REFUSED!r}")
    return ConfigExpectation(
        outcome=outcome,
        warnings=values.names(table, "warnings") if "warnings" in table else None,
        config={
            name: values.fitting(values.number(word, name), 64, name)
            for name, word in values.table(table, "config").items()
        },
    )


def _outcomes(value: object) -> tuple[Outcome, ...]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"outcome is {show(value)}; give texts such as 'entered'")
    return tuple(sorted({parse_outcome(str(text)) for text in texts}))

# SPDX-License-Identifier: GPL-2.0-only
"""Hypothesis as an engine: its strategies, in rounds, for as long as the session goes on.

Findings are reported and do not fail the test, so that Hypothesis neither shrinks nor stops.
Nothing is kept in an example database: its bytes die with a version or an edit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.strategies import SearchStrategy

from nvmxfuzz.campaign.session import Session
from nvmxfuzz.inputs.case import Case, CaseKind
from nvmxfuzz.inputs.strategies import (
    config_cases,
    entry_cases,
    migration_cases,
    restore_cases,
    session_cases,
)

ROUND = 500
"""Examples a round: Hypothesis remembers all of a round, so that an endless one would grow."""

_CASES: Mapping[CaseKind, Callable[[Sequence[str]], SearchStrategy[Any]]] = {
    "vm_entry": entry_cases,
    "capability_config": config_cases,
    "capability_restore": restore_cases,
    "migration": migration_cases,
    "session": session_cases,
}


def run(session: Session) -> None:
    """Feed the session from the harness' strategy."""
    # What Hypothesis writes for itself goes where the worker is, not where the user is.
    set_hypothesis_home_dir(session.settings.folder)

    def execute(case: Case) -> None:
        # The rest of the last round is drawn, and dropped.
        if not session.finished:
            session.execute_case(session.harness.at_home(case), session.harness.encode(case))

    property_test: Callable[[], None] = settings(
        max_examples=ROUND,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(given(_CASES[session.harness.kind](session.harness.profiles))(execute))
    for number in count():
        if session.finished:
            return
        seeded: Callable[[], None] = seed(session.settings.seed << 32 | number)(property_test)
        seeded()

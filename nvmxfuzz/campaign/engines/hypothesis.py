# SPDX-License-Identifier: GPL-2.0-only
"""Hypothesis as an engine: its strategies, in rounds, for as long as the session goes on.

Cases of steps come of a state machine, which makes them on the witness one by one.
Findings are reported and do not fail the test, so that Hypothesis neither shrinks nor stops.
Nothing is kept in an example database: its bytes die with a version or an edit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings, strategies
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.strategies import SearchStrategy

from nvmxfuzz.campaign.engines.session_machine import STEP_COUNT, SessionMachine, machine_test
from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.session import Session
from nvmxfuzz.inputs.case import Case, CaseKind, SessionCase
from nvmxfuzz.inputs.mutate import mutator
from nvmxfuzz.inputs.strategies import (
    config_cases,
    entry_cases,
    migration_cases,
    restore_cases,
    session_cases,
    session_worlds,
)
from nvmxfuzz.inputs.world import World
from nvmxfuzz.oracles.session.play import Played

ROUND = 500
"""Examples a round: Hypothesis remembers all of a round, so that an endless one would grow."""
MUTATED = 100
"""Mutations of kept inputs between two rounds: Hypothesis itself has no corpus."""
MAX_SIZE = 1024

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

    _warm_up()
    test = _machine_test(session) if session.harness.stage else _case_test(session)
    mutate = _mutation(session)
    session.execute_all()
    with contextlib.suppress(_Over):
        for number in count():
            session.execute_arrivals()
            for _ in range(MUTATED if session.parents else 0):
                if not session.finished:
                    mutate()
            if session.finished:
                return
            session.parent = b""
            seeded: Callable[[], None] = seed(session.settings.seed << 32 | number)(test)
            seeded()


class _Over(KeyboardInterrupt):
    """The session is finished: what Hypothesis ends a round for."""


_HOW = settings(
    max_examples=ROUND,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    stateful_step_count=STEP_COUNT,
)


def _warm_up() -> None:
    """Have Hypothesis read the constants of all modules, as it does once when it draws numbers.

    That may take seconds, in which an input that is being executed would seem to hang.
    """
    many = strategies.lists(strategies.integers(), min_size=_MANY, max_size=_MANY)
    settings(_HOW, max_examples=1)(given(many)(lambda _: None))()


_MANY = 300
"""Of so many numbers one is made of such a constant."""


def _case_test(session: Session) -> Callable[[], None]:
    def execute(case: Case) -> None:
        session.execute_case(session.harness.at_home(case), session.harness.encode(case))
        if session.finished:
            raise _Over

    test: Callable[[], None] = _HOW(
        given(_CASES[session.harness.kind](session.harness.profiles))(execute)
    )
    return test


def _machine_test(session: Session) -> Callable[[], None]:
    harness = session.harness
    worlds = session_worlds(harness.profiles).map(partial(_home, harness))
    stage = harness.stage
    assert stage is not None
    return machine_test(lambda: SessionMachine(stage, worlds, _Reports(session)), _HOW)


def _home(harness: Harness, world: World) -> World:
    case = harness.at_home(SessionCase(world))
    assert isinstance(case, SessionCase)
    return case.world


class _Reports:
    """Reports what the oracles find of a session that has been made, and fails no example."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def before_step(self, case: SessionCase) -> None:
        """Keep the session, which may be the last of this process."""
        self._session.begin(self._session.harness.encode(case))

    def after_step(self, played: Played) -> None:
        """Let it go on: the oracles are asked at the end, as about all inputs."""

    def at_end(self, played: Played) -> None:
        """Ask the oracles."""
        self._session.execute_seen(played.case, self._session.harness.encode(played.case), played)
        if self._session.finished:
            raise _Over

    def failed(self, case: SessionCase, error: Exception) -> None:
        """Tell of a defect of the witness."""
        self._session.fail(self._session.harness.encode(case), error)
        if self._session.finished:
            raise _Over


def _mutation(session: Session) -> Callable[[], None]:
    """Return a function that feeds the session a mutation of an input that was kept."""
    rng = Random(session.settings.seed)

    def random_bytes(_: bytes, size: int) -> bytes:
        return rng.randbytes(rng.randrange(size))

    mutate = mutator(session.harness.kind, random_bytes, session.harness.profiles)

    def feed() -> None:
        session.parent = rng.choice(session.parents)
        session.execute(mutate(session.parent, MAX_SIZE, rng.getrandbits(32)))

    return feed

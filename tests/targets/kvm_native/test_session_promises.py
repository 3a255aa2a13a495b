# SPDX-License-Identifier: GPL-2.0-only
"""The promises of sessions on the real KVM: seeds and random sessions, and what is known broken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

import pytest

from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.inputs.expectation import BreachExpectation
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.inputs.random_session import random_session
from nvmxfuzz.inputs.world import world_on
from nvmxfuzz.oracles.session.known import KNOWN, known
from nvmxfuzz.oracles.session.oracles import BREACHES
from nvmxfuzz.oracles.session.play import Stage, play
from nvmxfuzz.targets.kvm_native.session import KvmSessions
from nvmxfuzz.triage.vectors import mismatches

CORPUS: Final = Path(__file__).parents[3] / "corpus"
SEEDS: Final = sorted((CORPUS / "seeds" / "session").glob("*.toml"))
VECTORS: Final = sorted((CORPUS / "vectors" / "session").rglob("*.toml"))
SESSIONS: Final = 150


@pytest.fixture
def stage(sessions: KvmSessions) -> Stage:
    """Return a stage of each kernel in turn."""
    return Stage(sessions)


def unknown(stage: Stage, case: SessionCase) -> Iterator[str]:
    """Yield the breaches that nothing explains."""
    kernel = stage.witness.kernel
    case = replace(case, world=replace(case.world, kernel=kernel))
    played = play(stage, case)
    assert played.moments or not case.steps
    for name, (_, each) in BREACHES.items():
        for site, message in each(played):
            if known(name, site, kernel) is None:
                yield f"{name}: {site}: {message}"


def case_of(file: Path) -> SessionCase:
    case = load_vector(file.read_bytes(), file.name).case
    assert isinstance(case, SessionCase)
    return case


def test_seeds_keep_the_promises(stage: Stage) -> None:
    found = {file.stem: tuple(unknown(stage, case_of(file))) for file in SEEDS}
    assert not {name: breaches for name, breaches in found.items() if breaches}
    assert len(found) > 30


def test_random_sessions_keep_the_promises(stage: Stage) -> None:
    rng, world = Random(20), world_on("skylake-x", stage.witness.kernel)
    for _ in range(SESSIONS):
        case = SessionCase(world, random_session(rng))
        assert tuple(unknown(stage, case)) == ()


def test_vectors_show_what_is_known(stage: Stage) -> None:
    for file in VECTORS:
        vector = load_vector(file.read_bytes(), file.name)
        assert mismatches(vector, lambda case: play(stage, case)) == (), file


def test_every_known_breach_has_a_vector_of_each_kernel() -> None:
    shown: set[tuple[str, str]] = set()
    for file in VECTORS:
        vector = load_vector(file.read_bytes(), file.name)
        assert isinstance(vector.expectation, BreachExpectation)
        assert isinstance(vector.case, SessionCase)
        for breach in vector.expectation.breaches:
            oracle, _, site = breach.partition(": ")
            entry = known(oracle, site, vector.case.world.kernel)
            assert entry is not None, f"{file}: {breach} is not known"
            shown.add((entry.name, vector.case.world.kernel))
    assert shown == {(entry.name, kernel) for entry in KNOWN for kernel in entry.kernels}

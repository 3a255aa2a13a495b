# SPDX-License-Identifier: GPL-2.0-only
"""Cases that have worlds are brought to those that a campaign keeps to, in every engine."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from nvmxfuzz.campaign.engines.hypothesis import run
from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.campaign.second_witness import on_kernel
from nvmxfuzz.campaign.session import Session
from nvmxfuzz.inputs.case import MigrationCase
from nvmxfuzz.inputs.world import world_on

HARNESS = replace(load_harness(harness_file("migration")), home=partial(on_kernel, "6.12"))
ENOUGH = 60


class Recorder:
    """A session that notes what it is given."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        self.harness = harness
        self.settings = SimpleNamespace(folder=str(folder), seed=1)
        self.cases: list[tuple[Any, bytes]] = []

    @property
    def finished(self) -> bool:
        """Whether there are enough."""
        return len(self.cases) >= ENOUGH

    @property
    def parents(self) -> list[bytes]:
        """None: all of it comes from the strategy."""
        return []

    def execute_all(self) -> None:
        """There is nothing to begin with."""

    def execute_arrivals(self) -> None:
        """Nobody else is there."""

    def execute_case(self, case: Any, data: bytes) -> None:  # noqa: ANN401 # as Session's
        """Note a case and its bytes."""
        self.cases.append((case, data))


def test_a_migration_has_the_kernel_of_the_target() -> None:
    old = HARNESS.decode(b"")
    assert isinstance(old, MigrationCase)
    for source, destination, after in (
        ("5.18", "6.1", ("5.18", "6.12")),
        ("6.12", "6.1", ("6.12", "6.1")),
        ("6.1", "6.12", ("6.1", "6.12")),
    ):
        case = replace(
            old, source=world_on("penryn", source), destination=world_on("penryn", destination)
        )
        found = HARNESS.at_home(case)
        assert isinstance(found, MigrationCase)
        assert (found.source.kernel, found.destination.kernel) == after


def test_hypothesis_runs_the_cases_that_it_stores(tmp_path: Path) -> None:
    session = Recorder(HARNESS, tmp_path)
    run(cast("Session", session))
    assert all(HARNESS.decode(data) == case for case, data in session.cases)
    kernels = {(case.source.kernel, case.destination.kernel) for case, _ in session.cases}
    assert all("6.12" in pair for pair in kernels)
    assert len(kernels) > 1

# SPDX-License-Identifier: GPL-2.0-only
"""What goes into a store and comes out of it, as frozen values; `schema.sql` explains the parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nvmxfuzz.oracles.finding import Finding

CampaignState = Literal["running", "time", "runs", "idle", "seen", "interrupted", "error"]
WorkerState = Literal["running", "ended", "died"]
Origin = Literal["seed", "engine", "import"]
Verdict = Literal["n/a", "held", "broken", "unknown", "sole", "fired"]
Status = Literal["still there", "gone", "different"]

WORKER_LIVES = "worker-lives"
"""The oracle of those findings that ended a worker, or hung it."""


@dataclass(frozen=True, slots=True)
class StoredCampaign:
    """A campaign as the store has it."""

    number: int
    plan: str
    seed: int
    started: int
    updated: int
    seconds: float
    executions: int
    state: CampaignState
    resumptions: int


@dataclass(frozen=True, slots=True)
class StoredWorker:
    """What a place for workers has done for a job of a campaign; nothing yet, if not told more."""

    number: int
    job: int
    harness: str
    target: str
    engine: str
    seed: int
    executions: int = 0
    seconds: float = 0.0
    state: WorkerState = "running"
    starts: int = 0
    deaths: int = 0
    rechecked: int = 0
    stable: int = 0


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One thing that a harness was seen to do: a verdict on a point, or a condition that fired."""

    point: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class SeenBehaviour:
    """A behaviour, and who has seen it first."""

    harness: str
    target: str
    behaviour: Behaviour
    input: int | None
    campaign: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an input comes from; `parent` is the SHA-256 of one, in hexadecimal, or empty."""

    origin: Origin
    name: str = ""
    parent: str = ""
    campaign: int | None = None
    worker: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class StoredInput:
    """An input of the corpus."""

    number: int
    harness: str
    target: str
    data: bytes
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Sample:
    """Where a campaign, or one worker of it, stood at a time."""

    seconds: float
    executions: int
    corpus: int
    behaviours: int
    findings: int
    edges: int | None = None
    rss: int | None = None
    stability: float | None = None


@dataclass(frozen=True, slots=True)
class StoredFinding:
    """A finding with the input that shows it.

    `harness` is what `plan.referenced_harness` finds, `target` what it ran on beside its own
    witness ("" also where that is not known), `count` how often all campaigns together saw it.
    """

    harness: str
    finding: Finding
    data: bytes
    case_text: str
    minimised_text: str | None
    reproduced: bool | None
    count: int
    reruns: int | None = None
    same: int | None = None
    first_bad: str | None = None
    status: Status | None = None
    campaign: int = 0
    seconds: float | None = None
    target: str = ""

    @property
    def identity(self) -> str:
        """The identity of the finding."""
        return self.finding.identity

    @property
    def flaky(self) -> bool | None:
        """Whether some run did not show it; None if there was no second run."""
        if self.reruns:
            return self.same != self.reruns
        return None if self.reproduced is None else not self.reproduced

    @property
    def text(self) -> str:
        """The smallest case that shows it, as TOML.

        Empty if its input is no case at all, or if it would end the process that runs it.
        """
        if self.finding.oracle == WORKER_LIVES:
            return ""
        return self.minimised_text or self.case_text

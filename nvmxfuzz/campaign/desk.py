# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of a finding while its campaign goes on: stored, seen again, made small, shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Final

from nvmxfuzz.campaign.events import Died, Found
from nvmxfuzz.campaign.harness import WITNESS_ERRORS, Harness
from nvmxfuzz.campaign.listener import Listener
from nvmxfuzz.campaign.plan import Plan
from nvmxfuzz.campaign.second_look import Looked, SecondLook
from nvmxfuzz.campaign.store import Store
from nvmxfuzz.campaign.store.recorder import Recorder
from nvmxfuzz.campaign.tally import MOST_IDENTITIES, Tally
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.inputs.text import dump_text
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.triage.deaths import death_finding
from nvmxfuzz.triage.job import Job, Limits, TriageResult

LOOK_SECONDS: Final = 180.0
"""How long one finding may be looked into, however many of its runs hang."""

HURRY_SECONDS: Final = 2.0
"""How long to wait for what there is by then of a finding that is being looked into."""

MOST_TAKEN_UP: Final = 100
"""Findings of earlier campaigns that one looks into: it has its own to see to."""

_NOT_RUN: Final = "not run again"


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A finding that was stored and is to be looked into."""

    job: int
    finding: Finding
    data: bytes
    is_new: bool


@dataclass(slots=True)
class Desk:
    """Where findings go in.

    `found` lists the identities of this campaign, `without_input` those of them that nobody can run
    again, `new` counts those the store did not have. A finding is stored first and looked into
    then, in a process beside this one, so that nothing is lost when the campaign is ended in
    between.
    """

    plan: Plan
    harnesses: Sequence[Harness]
    recorder: Recorder
    listener: Listener
    tally: Tally
    found: list[str] = field(default_factory=list)
    without_input: list[str] = field(default_factory=list)
    new: int = 0
    _keys: set[tuple[str, str]] = field(default_factory=set)
    """Harness and identity of what this campaign has had."""
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _current: _Waiting | None = None
    _begun: float = 0.0
    look: SecondLook = field(default_factory=SecondLook)

    def take_found(self, job: int, event: Found) -> None:
        """Take a finding that a worker reports."""
        self._take(job, event.finding, event.data)

    def take_death(self, job: int, event: Died) -> None:
        """Take a death: its input is run again alone."""
        planned = self.plan.jobs[job]
        # As `triage.fresh` names it, so that both see the same finding.
        name = Path(planned.reference).stem
        finding = death_finding(name, planned.target, event.reason, event.detail)
        if self._take(job, finding, event.data) and not event.data:
            self.without_input.append(finding.identity)

    def take_up(self, store: Store) -> None:
        """Have those findings of the store looked into that nobody has run again yet."""
        jobs = {(job.reference, job.target or ""): n for n, job in enumerate(self.plan.jobs)}
        for stored in store.findings():
            key = stored.harness, stored.identity
            job = jobs.get((stored.harness, stored.target))
            was_run = stored.reruns is not None or stored.reproduced is not None
            if job is None or was_run or key in self._keys or len(self._keys) == MOST_TAKEN_UP:
                continue
            self._keys.add(key)
            self.found.append(stored.identity)
            self._waiting.append(_Waiting(job, stored.finding, stored.data, is_new=False))

    @property
    def pending(self) -> int:
        """How many findings are still to be looked into."""
        return len(self._waiting) + (self._current is not None)

    def attend(self, seconds: float = 0.0) -> None:
        """See whether triage has come to something, and hand it the next finding."""
        looked = self.look.poll(seconds)
        if self._current is not None and looked is None and monotonic() - self._begun > self._most:
            self.look.close()
            looked = Looked(None, "triage took too long")
        if self._current is not None and looked is not None:
            waiting, self._current = self._current, None
            self._conclude(waiting, looked)
        if self._current is None and self._waiting:
            self._current = self._waiting.popleft()
            self._begun = monotonic()
            self.look.begin(self._job_of(self._current), self._limits)

    def finish(self, stop: Callable[[], bool]) -> None:
        """Look into what is left; from when `stop()` is true on, only say what there is."""
        while self.pending and not stop():
            self.attend(0.1)
        if self._current is not None:
            self.look.hurry()
            if (looked := self.look.poll(HURRY_SECONDS)) is not None:
                waiting, self._current = self._current, None
                self._conclude(waiting, looked)
        self.look.close()
        left = [*filter(None, [self._current]), *self._waiting]
        self._current = None
        self._waiting.clear()
        for waiting in left:
            self.listener.finding(waiting.finding, is_new=waiting.is_new, note=_NOT_RUN)

    def close(self) -> None:
        """End what is looked into."""
        self.look.close()

    @property
    def _limits(self) -> Limits:
        plan = self.plan
        return Limits(plan.reruns, case_seconds=plan.case_seconds, memory=plan.memory)

    @property
    def _most(self) -> float:
        return max(LOOK_SECONDS, 8 * self.plan.case_seconds)

    def _take(self, job: int, finding: Finding, data: bytes) -> bool:
        """Store a finding and have it looked into; tell whether this campaign sees it first."""
        key = self.plan.jobs[job].reference, finding.identity
        if key in self._keys or len(self._keys) >= MOST_IDENTITIES:
            return False
        self._keys.add(key)
        case = self._decoded(job, data)
        text = "" if case is None else dump_text(replace(case, note=finding.message))
        try:
            is_new = self.recorder.keep(job, finding, data, text, seconds=self.tally.elapsed)
        except InputError as error:
            raise InputError(
                f"{error}; not stored is {finding.identity}: {finding.message}"
            ) from error
        self.tally.note_finding(job, finding.identity)
        self.found.append(finding.identity)
        self.new += is_new
        self._waiting.append(_Waiting(job, finding, data, is_new))
        return True

    def _decoded(self, job: int, data: bytes) -> Case | None:
        try:
            return self.harnesses[job].decode(data)
        except WITNESS_ERRORS:
            return None

    def _job_of(self, waiting: _Waiting) -> Job:
        job = self.plan.jobs[waiting.job]
        return Job(job.reference, job.target, waiting.data, waiting.finding)

    def _conclude(self, waiting: _Waiting, looked: Looked) -> None:
        """Store what came of a finding, and show it."""
        result = looked.result
        if result is not None and result.runs:
            self._keep(waiting, result)
        note = looked.reason if result is None else result.note
        self.listener.finding(waiting.finding, is_new=waiting.is_new, note=note)
        for finding in looked.besides:
            self._take(waiting.job, finding, waiting.data)

    def _keep(self, waiting: _Waiting, result: TriageResult) -> None:
        self.recorder.keep_triage(
            waiting.job,
            waiting.finding.identity,
            reproduced=result.same > 0,
            minimised_text=result.case_text or None,
        )
        self.recorder.keep_reruns(
            waiting.job, waiting.finding.identity, runs=result.runs, same=result.same
        )

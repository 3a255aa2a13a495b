# SPDX-License-Identifier: GPL-2.0-only
"""The running totals of a campaign, added up over all workers from their events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from nvmxfuzz.campaign.events import (
    Died,
    Ended,
    Event,
    Finished,
    Found,
    Kept,
    Placed,
    Progress,
    Seen,
)
from nvmxfuzz.campaign.worker_totals import Share, WorkerTotals

MOST_IDENTITIES: Final = 10_000
"""So many findings of a job are counted: a campaign may last for weeks."""


@dataclass(slots=True)
class JobTotals:
    """What the workers of one job have seen; the counters are of those that are over."""

    seen: Seen = field(default_factory=Seen)
    conditions: set[str] = field(default_factory=set)
    edges: int = 0
    all_edges: int = 0
    sightings: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Tally:
    """Totals since the campaign began; `take` each event in turn.

    Seconds count from the beginning of the campaign, over all resumptions: `before` were over when
    this tally was made, and `earlier` executions done. `last_new` and `last_finding` say when
    something new was seen last, `kept` how many inputs are in the corpus.
    """

    earlier: int = 0
    before: float = 0.0
    kept: int = 0
    deaths: int = 0
    executions: int = 0
    seconds: float | None = None
    last_new: float | None = None
    last_finding: float | None = None
    clock: Callable[[], float] = monotonic
    jobs: dict[int, JobTotals] = field(default_factory=dict)
    workers: dict[int, WorkerTotals] = field(default_factory=dict)
    identities: set[tuple[int, str]] = field(default_factory=set)
    _begin: float = 0.0

    def __post_init__(self) -> None:
        self._begin = self.clock()
        self.executions = self.earlier

    def take(self, event: Event) -> None:
        """Add one event."""
        match event:
            case Placed(worker=number):
                self._worker(number).place(event, self.clock())
            case Progress(worker=number):
                self._progress(self._worker(number), event)
            case Kept(is_fresh=is_fresh):
                self.kept += is_fresh
            case Found(worker=number):
                self.note_finding(self._worker(number).job, event.finding.identity)
            case Ended(worker=number):
                self._retire(self._worker(number), None)
            case Died(worker=number, executions=executions):
                self.deaths += 1
                self._retire(self._worker(number), executions)
            case Finished(executions=executions, seconds=seconds):
                self.executions = self.earlier + executions
                self.seconds = self.before + seconds
            case _:
                pass

    @property
    def elapsed(self) -> float:
        """Seconds since the campaign began."""
        return self.before + self.clock() - self._begin

    def job(self, number: int) -> JobTotals:
        """Return the totals of a job."""
        return self.jobs.setdefault(number, JobTotals())

    def seen(self, job: int = 0) -> Seen:
        """Return which points of a job were seen with which verdict."""
        return self.job(job).seen

    def sightings(self, job: int = 0) -> Counter[str]:
        """Return how often each finding was seen in a job, by identity."""
        total = Counter(self.job(job).sightings)
        for progress in self._current(job):
            total.update(dict(progress.sightings))
        return total

    def known(self, job: int = 0) -> Counter[str]:
        """Return how often each known difference was seen, among the inputs that were looked at."""
        total = Counter(self.job(job).known)
        for progress in self._current(job):
            total.update(dict(progress.known))
        return total

    @property
    def shares(self) -> Iterator[Share]:
        """What each worker has done for each job."""
        for worker in self.workers.values():
            yield from worker.shares.values()

    @property
    def entries(self) -> int:
        """VM entries of L1's since this tally was made, where they are more than executions."""
        return sum(share.entries for share in self.shares)

    @property
    def stability(self) -> float | None:
        """The share of inputs that came to the same behaviour again; None if none was run again."""
        shares = list(self.shares)
        rerun = sum(each.rerun for each in shares)
        return sum(each.same for each in shares) / rerun if rerun else None

    @property
    def rate(self) -> float:
        """Executions a second of all workers together, lately."""
        return sum(worker.rate for worker in self.workers.values() if worker.alive)

    def note_finding(self, job: int, identity: str) -> bool:
        """Note a finding; return whether it is the first one of that identity in a job."""
        key = job, identity
        if key in self.identities or len(self.identities) >= MOST_IDENTITIES:
            return False
        self.identities.add(key)
        self.last_finding = self.elapsed
        return True

    def _worker(self, number: int) -> WorkerTotals:
        return self.workers.setdefault(number, WorkerTotals(number))

    def _current(self, job: int) -> Iterator[Progress]:
        for share in self.shares:
            if share.progress is not None and share.job == job:
                yield share.progress

    def _progress(self, worker: WorkerTotals, progress: Progress) -> None:
        worker.report(progress, self.clock())
        totals = self.job(worker.job)
        seen = totals.seen | progress.seen
        fired = totals.conditions.union(progress.conditions)
        if (seen, fired) != (totals.seen, totals.conditions) or progress.edges > totals.edges:
            self.last_new = self.elapsed
        totals.seen, totals.conditions = seen, fired
        totals.edges = max(totals.edges, progress.edges)
        totals.all_edges = max(totals.all_edges, progress.all_edges)
        self._add_up()

    def _retire(self, worker: WorkerTotals, executions: int | None) -> None:
        """Keep what a worker did: another one follows in its place, and counts from 0."""
        last = worker.share.progress
        worker.retire(executions, self.clock(), has_died=executions is not None)
        if last is not None:
            totals = self.job(worker.job)
            _add(totals.sightings, last.sightings)
            _add(totals.known, last.known)
        self._add_up()

    def _add_up(self) -> None:
        done = sum(worker.executions for worker in self.workers.values())
        self.executions = self.earlier + done


def _add(total: Counter[str], counts: tuple[tuple[str, int], ...]) -> None:
    for name, count in counts:
        if name in total or len(total) < MOST_IDENTITIES:
            total[name] += count

# SPDX-License-Identifier: GPL-2.0-only
"""The listener that writes a campaign into the store as it goes.

Findings and inputs are written when they come, the totals every few seconds. A call that is
repeated, as after a kill, changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from time import monotonic, time

from nvmxfuzz.campaign.events import Died, Event, Finished, Kept, Seen
from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.plan import Plan
from nvmxfuzz.campaign.store.beside import write_beside
from nvmxfuzz.campaign.store.standing import standing
from nvmxfuzz.campaign.store.store import Store
from nvmxfuzz.campaign.store.values import (
    Behaviour,
    CampaignState,
    Provenance,
    Sample,
    StoredCampaign,
    StoredWorker,
    Verdict,
)
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.campaign.worker_totals import Share, WorkerTotals
from nvmxfuzz.errors import InputError
from nvmxfuzz.oracles.finding import Finding

WRITE_EVERY = 2.0
"""Seconds between two updates of the totals."""

KEEP_EVERY = 0.5
"""Seconds between two writings of kept inputs: each waits for the disk. Until then it is the
journal of the worker that has them (`campaign.recovery`)."""

SAMPLE_EVERY = 10.0
"""Seconds between two points of the time series, and two updates of the files beside the store."""


class Recorder:
    """Keeps one campaign in a store."""

    def __init__(
        self,
        store: Store,
        plan: Plan,
        harnesses: Sequence[Harness],
        started: int,
        *,
        plan_text: str = "",
        resumed: StoredCampaign | None = None,
    ) -> None:
        """Note that a campaign begins, or goes on, at `started` seconds since 1970.

        `harnesses` are those of the jobs of the plan, in their order.
        """
        store.claim()
        self._store = store
        self._jobs = [(job.reference, job.target or "", job.engine) for job in plan.jobs]
        self._points = [harness.points for harness in harnesses]
        if resumed is None:
            self._campaign = store.begin_campaign(plan_text, plan.seed, started)
        else:
            self._campaign = resumed.number
            store.resume_campaign(resumed.number, started)
        self._before = {
            (worker.number, worker.job): worker for worker in store.workers(self._campaign)
        }
        self._written = self._sampled = self._kept_at = monotonic()
        self._waiting: list[tuple[int, Kept, float]] = []
        self._noted: dict[int, tuple[Seen, frozenset[str]]] = {}
        self._kept: Counter[int] = Counter()

    def take(self, event: Event, tally: Tally) -> None:
        """Write an input that is worth keeping; write the totals if they are due, or at the end."""
        now = monotonic()
        if isinstance(event, Kept):
            self._waiting.append((tally.workers[event.worker].job, event, tally.elapsed))
        elif isinstance(event, Died) and event.data:
            self._keep_inputs()
            harness, target, _ = self._jobs[tally.workers[event.worker].job]
            self._store.forget_input(harness, target, event.data)
        if isinstance(event, Finished):
            self._write(tally, tally.elapsed, event.reason)
            self._sample(tally, tally.elapsed, running=False)
            return
        if now - self._kept_at >= KEEP_EVERY:
            self._kept_at = now
            self._keep_inputs()
        if now - self._written >= WRITE_EVERY:
            self._written = now
            self._write(tally, tally.elapsed, "running")
        if now - self._sampled >= SAMPLE_EVERY:
            self._sampled = now
            self._sample(tally, tally.elapsed, running=True)

    def give_up(self, tally: Tally, seconds: float) -> None:
        """Write the totals of a campaign that cannot go on, if the store still takes them."""
        with suppress(InputError):
            self._write(tally, seconds, "error")
            self._sample(tally, seconds, running=False)

    def keep_seed(self, job: int, data: bytes, name: str) -> None:
        """Write an input that the campaign begins with, and the name of its file."""
        harness, target, _ = self._jobs[job]
        self._store.keep_input(harness, target, data, Provenance("seed", name))

    def keep(
        self,
        job: int,
        finding: Finding,
        data: bytes,
        case_text: str,
        *,
        seconds: float | None = None,
    ) -> bool:
        """Write a finding; return True if the store did not have it yet."""
        harness, target, _ = self._jobs[job]
        return self._store.add_finding(
            *(self._campaign, harness, finding, data, case_text), seconds=seconds, target=target
        )

    def keep_triage(
        self, job: int, identity: str, *, reproduced: bool, minimised_text: str | None
    ) -> None:
        """Write what a second run and the minimiser made of a finding."""
        self._store.add_triage(
            self._jobs[job][0], identity, reproduced=reproduced, minimised_text=minimised_text
        )

    def keep_reruns(self, job: int, identity: str, *, runs: int, same: int) -> None:
        """Write how many runs in fresh processes there were, and how many showed the finding."""
        self._store.add_reruns(self._jobs[job][0], identity, runs, same)

    def _keep_inputs(self) -> None:
        """Write the inputs that have come since this was done last, in one transaction."""
        if not self._waiting:
            return
        with self._store.together():
            for job, event, seconds in self._waiting:
                self._keep_input(job, event, seconds)
        self._waiting.clear()

    def _keep_input(self, job: int, event: Kept, seconds: float) -> None:
        harness, target, _ = self._jobs[job]
        provenance = Provenance(
            "engine",
            parent=event.parent,
            campaign=self._campaign,
            worker=event.worker,
            seconds=seconds,
        )
        new = behaviours(event.new, self._points[job])
        self._kept[event.worker] += self._store.keep_input(
            harness, target, event.data, provenance, new
        )

    def _write(self, tally: Tally, seconds: float, state: CampaignState) -> None:
        """Write the totals, in one transaction."""
        self._keep_inputs()
        store, campaign = self._store, self._campaign
        known: Counter[str] = Counter()
        with store.together():
            store.update_campaign(campaign, tally.executions, seconds, state, now=int(time()))
            for share in tally.shares:
                store.keep_worker(campaign, self._worker(share, tally.clock()))
            for job, (harness, _, _) in enumerate(self._jobs):
                store.count_sightings(campaign, harness, tally.sightings(job))
                known.update(tally.known(job))
                self._note(job, tally, seconds)
            store.count_known(campaign, known)

    def _note(self, job: int, tally: Tally, seconds: float) -> None:
        """Write what a job has seen since it was written last."""
        seen, conditions = tally.seen(job), frozenset(tally.job(job).conditions)
        before, fired = self._noted.get(job, (Seen(), frozenset()))
        if (seen, conditions) == (before, fired):
            return
        harness, target, _ = self._jobs[job]
        new = [
            *behaviours(seen - before, self._points[job]),
            *(Behaviour(condition, "fired") for condition in sorted(conditions - fired)),
        ]
        self._store.note_behaviours(harness, target, new, campaign=self._campaign, seconds=seconds)
        self._noted[job] = seen, conditions

    def _worker(self, share: Share, now: float) -> StoredWorker:
        """Return a worker with what it had done before the campaign was resumed."""
        harness, target, engine = self._jobs[share.job]
        place = (share.worker, share.job)
        before = self._before.get(place, StoredWorker(*place, harness, target, engine, 0))
        return StoredWorker(
            *(*place, harness, target, engine, share.seed),
            executions=before.executions + share.executions,
            seconds=before.seconds + share.seconds(now),
            state=share.state,
            starts=before.starts + share.starts,
            deaths=before.deaths + share.deaths,
            rechecked=before.rechecked + share.rerun,
            stable=before.stable + share.same,
        )

    def _sample(self, tally: Tally, seconds: float, *, running: bool) -> None:
        """Add a point to each time series, and bring the files beside the store up to date."""
        store, campaign = self._store, self._campaign
        with store.together():
            store.add_sample(campaign, None, self._whole(tally, seconds))
            for worker in tally.workers.values():
                if worker.alive:
                    store.add_sample(campaign, worker.number, self._part(worker, seconds))
        write_beside(
            *(store.path, standing(store, campaign, running=running), store.samples(campaign))
        )

    def _whole(self, tally: Tally, seconds: float) -> Sample:
        jobs = tally.jobs.values()
        edges: dict[str, int] = {}
        for number, totals in tally.jobs.items():
            if totals.all_edges:
                target = self._jobs[number][1]
                edges[target] = max(edges.get(target, 0), totals.edges)
        return Sample(
            seconds=seconds,
            executions=tally.executions,
            corpus=tally.kept,
            behaviours=sum(_count(each.seen) + len(each.conditions) for each in jobs),
            findings=len(tally.identities),
            edges=sum(edges.values()) if edges else None,
            rss=sum(each.resident for each in tally.workers.values()) or None,
            stability=tally.stability,
        )

    def _part(self, worker: WorkerTotals, seconds: float) -> Sample:
        share, progress = worker.share, worker.share.progress
        return Sample(
            seconds=seconds,
            executions=worker.executions,
            corpus=self._kept[worker.number],
            behaviours=_count(progress.seen) if progress else 0,
            findings=len(progress.sightings) if progress else 0,
            edges=progress.edges if progress and progress.all_edges else None,
            rss=worker.resident or None,
            stability=share.same / share.rerun if share.rerun else None,
        )


def _count(seen: Seen) -> int:
    return sum(mask.bit_count() for mask in (seen.na, seen.held, seen.broken, seen.unknown))


def behaviours(seen: Seen, points: Sequence[str]) -> Iterator[Behaviour]:
    """Yield the behaviour for each bit of what was seen."""
    masks: tuple[tuple[Verdict, int], ...] = (
        ("n/a", seen.na),
        ("held", seen.held),
        ("broken", seen.broken),
        ("unknown", seen.unknown),
    )
    for verdict, mask in masks:
        for index, point in enumerate(points):
            if mask >> index & 1:
                yield Behaviour(point, verdict)

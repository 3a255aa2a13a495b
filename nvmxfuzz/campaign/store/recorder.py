# SPDX-License-Identifier: GPL-2.0-only
"""The listener that writes a campaign into the store as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from time import monotonic, time

from nvmxfuzz.campaign.events import Event, Finished, Seen
from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.plan import Plan, harness_reference
from nvmxfuzz.campaign.store.beside import write_beside
from nvmxfuzz.campaign.store.standing import standing
from nvmxfuzz.campaign.store.store import Store
from nvmxfuzz.campaign.store.values import (
    Behaviour,
    CampaignState,
    Sample,
    StoredWorker,
    Verdict,
    WorkerState,
)
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.errors import InputError
from nvmxfuzz.oracles.finding import Finding

WRITE_EVERY = 2.0
"""Seconds between two updates of the totals; findings are written when they come."""

SAMPLE_EVERY = 10.0
"""Seconds between two points of the time series, and two updates of the files beside the store."""


class Recorder:
    """Keeps one campaign in a store."""

    def __init__(self, store: Store, plan: Plan, harness: Harness, started: int) -> None:
        """Note that a campaign begins, at `started` seconds since 1970."""
        self._store = store
        self._points = harness.points
        self._reference = harness_reference(plan.file)
        self._target = plan.target or ""
        self._worker = StoredWorker(
            *(0, 0, self._reference, self._target, plan.engine, plan.seed), starts=1
        )
        store.claim()
        self._campaign = store.begin_campaign("", plan.seed, started)
        self._begin = self._written = self._sampled = monotonic()
        self._seen = Seen()

    def take(self, event: Event, tally: Tally) -> None:
        """Write the totals if they are due, or if the campaign is over."""
        now = monotonic()
        if isinstance(event, Finished):
            self._write(tally, event.seconds, event.reason)
            self._sample(tally, event.seconds, running=False)
        elif now - self._written >= WRITE_EVERY:
            self._written = now
            self._write(tally, now - self._begin, "running")
            if now - self._sampled >= SAMPLE_EVERY:
                self._sampled = now
                self._sample(tally, now - self._begin, running=True)

    def give_up(self, tally: Tally, seconds: float) -> None:
        """Write the totals of a campaign that cannot go on, if the store still takes them."""
        with suppress(InputError):
            self._write(tally, seconds, "error")
            self._sample(tally, seconds, running=False)

    def keep(self, finding: Finding, data: bytes, case_text: str) -> bool:
        """Write a finding; return True if the store did not have it yet."""
        return self._store.add_finding(
            *(self._campaign, self._reference, finding, data, case_text), target=self._target
        )

    def keep_triage(self, identity: str, *, reproduced: bool, minimised_text: str | None) -> None:
        """Write what a second run and the minimiser made of a finding."""
        self._store.add_triage(
            self._reference, identity, reproduced=reproduced, minimised_text=minimised_text
        )

    def _write(self, tally: Tally, seconds: float, state: CampaignState) -> None:
        store, campaign = self._store, self._campaign
        worker: WorkerState = "running" if state == "running" else "ended"
        with store.together():
            store.update_campaign(campaign, tally.executions, seconds, state, now=int(time()))
            store.keep_worker(
                campaign,
                replace(self._worker, executions=tally.executions, seconds=seconds, state=worker),
            )
            store.count_sightings(campaign, self._reference, tally.sightings)
            if tally.seen != self._seen:
                store.note_behaviours(
                    *(self._reference, self._target, behaviours(tally.seen, self._points)),
                    campaign=campaign,
                    seconds=seconds,
                )
        self._seen = tally.seen

    def _sample(self, tally: Tally, seconds: float, *, running: bool) -> None:
        """Add a point to the time series, and bring the files beside the store up to date."""
        store, campaign, seen = self._store, self._campaign, tally.seen
        masks = (seen.na, seen.held, seen.broken, seen.unknown)
        sample = Sample(
            seconds=seconds,
            executions=tally.executions,
            corpus=sum(store.count_inputs().values()),
            behaviours=sum(mask.bit_count() for mask in masks),
            findings=len(tally.sightings),
        )
        store.add_sample(campaign, None, sample)
        found = standing(store, campaign, running=running)
        write_beside(store.path, found, store.samples(campaign))


def behaviours(seen: Seen, points: tuple[str, ...]) -> Iterator[Behaviour]:
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

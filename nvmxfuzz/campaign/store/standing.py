# SPDX-License-Identifier: GPL-2.0-only
"""Where a campaign stands, in numbers: what `nvmxfuzz status` shows and `stats.json` has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.campaign.store.lock import is_locked
from nvmxfuzz.campaign.store.store import Store
from nvmxfuzz.campaign.store.values import Sample, StoredCampaign, StoredWorker

RECENT_SECONDS: Final = 60.0
"""Over how long the speed of now is taken."""

FORMAT: Final = 1
"""Of the JSON object: it is raised when a key goes away or means something else."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A campaign, and the store it is in, at one moment.

    Corpus, behaviours and findings are those of the store, by whatever campaign. `last` is the
    last sample.
    """

    campaign: StoredCampaign
    running: bool
    workers: tuple[StoredWorker, ...]
    rate: float
    last: Sample | None
    corpus: Mapping[tuple[str, str], int]
    behaviours: Mapping[tuple[str, str], Mapping[str, int]]
    findings: Mapping[str, int]
    flaky: int
    known: Mapping[str, int]
    last_new: float | None
    last_finding: float | None

    @property
    def state(self) -> str:
        """The state of the campaign; 'killed' if it says that it is running, and is not."""
        if self.campaign.state == "running" and not self.running:
            return "killed"
        return self.campaign.state

    @property
    def stability(self) -> float | None:
        """The share of inputs that did the same when they were run again at once."""
        rechecked = sum(worker.rechecked for worker in self.workers)
        return sum(worker.stable for worker in self.workers) / rechecked if rechecked else None

    @property
    def deaths(self) -> int:
        """How many worker processes died or hung."""
        return sum(worker.deaths for worker in self.workers)

    @property
    def edges(self) -> int | None:
        """How many counters in KVM's own code were seen above 0; None without coverage."""
        return self.last.edges if self.last else None

    @property
    def resident(self) -> int | None:
        """The memory of all workers together, in bytes."""
        return self.last.rss if self.last else None

    def to_json(self) -> dict[str, object]:
        """Return the form that programs read; see docs/store.md."""
        campaign = self.campaign
        return {
            "format": FORMAT,
            "campaign": campaign.number,
            "state": self.state,
            "started": campaign.started,
            "updated": campaign.updated,
            "seconds": round(campaign.seconds, 3),
            "resumptions": campaign.resumptions,
            "executions": campaign.executions,
            "executions_per_second": round(self.rate, 1),
            "last_new_behaviour": self.last_new,
            "last_finding": self.last_finding,
            "edges": self.edges,
            "resident_bytes": self.resident,
            "stability": self.stability,
            "deaths": self.deaths,
            "workers": [_worker(each) for each in self.workers],
            "corpus": [
                {"harness": harness, "target": target, "inputs": count}
                for (harness, target), count in self.corpus.items()
            ],
            "behaviours": [
                {"harness": harness, "target": target, **counts}
                for (harness, target), counts in self.behaviours.items()
            ],
            "findings": dict(self.findings),
            "flaky_findings": self.flaky,
            "known_differences": dict(self.known),
        }


def standing(store: Store, number: int | None = None, *, running: bool | None = None) -> Standing:
    """Return where a campaign stands, the last one if no number is given.

    `running` is for the process that runs it: it may not look at the lock, which it would lose.
    """
    with store.at_once():
        campaign = store.campaign(number)
        if running is None:
            is_last = store.campaign().number == campaign.number
            running = campaign.state == "running" and is_last and is_locked(store.path)
        return _standing(store, campaign, running)


def _standing(store: Store, campaign: StoredCampaign, running: bool) -> Standing:
    samples = store.samples(campaign.number)
    return Standing(
        campaign=campaign,
        running=running,
        workers=store.workers(campaign.number),
        rate=_rate(samples, campaign),
        last=samples[-1] if samples else None,
        corpus=store.count_inputs(),
        behaviours=store.count_behaviours(),
        findings=store.count_findings(),
        flaky=store.count_flaky(),
        known=store.known_seen(campaign.number),
        last_new=store.last_new(campaign.number),
        last_finding=store.last_finding(campaign.number),
    )


def _rate(samples: tuple[Sample, ...], campaign: StoredCampaign) -> float:
    """Return the executions a second of the last minute, or of all of it if it was shorter."""
    executions, end = campaign.executions, campaign.seconds
    before = [each for each in samples if end - each.seconds >= RECENT_SECONDS]
    if before:
        last = before[-1]
        return (executions - last.executions) / (end - last.seconds)
    return executions / end if end > 0 else 0.0


def _worker(worker: StoredWorker) -> dict[str, object]:
    return {
        "worker": worker.number,
        "job": worker.job,
        "harness": worker.harness,
        "target": worker.target,
        "engine": worker.engine,
        "seed": worker.seed,
        "state": worker.state,
        "executions": worker.executions,
        "seconds": round(worker.seconds, 3),
        "starts": worker.starts,
        "deaths": worker.deaths,
        "stability": worker.stable / worker.rechecked if worker.rechecked else None,
    }

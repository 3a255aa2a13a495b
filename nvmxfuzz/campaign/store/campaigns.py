# SPDX-License-Identifier: GPL-2.0-only
"""The part of a store that is about campaigns: how they began, where they stand, how it went."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final, get_args

from nvmxfuzz.campaign.store import rows
from nvmxfuzz.campaign.store.database import Database
from nvmxfuzz.campaign.store.values import (
    CampaignState,
    Sample,
    StoredCampaign,
    StoredWorker,
    WorkerState,
)
from nvmxfuzz.errors import InputError

MOST_SAMPLES: Final = 2000
"""Of one series; then it is thinned out to half of them, evenly over the time."""

_MOST_ROWS: Final = 100_000
"""Campaigns, workers, and the like, that are read of a store; no use of it makes so many."""

_CAMPAIGN_STATES: Final[tuple[CampaignState, ...]] = get_args(CampaignState)
_WORKER_STATES: Final[tuple[WorkerState, ...]] = get_args(WorkerState)


class Campaigns(Database):
    """Campaigns, their workers, what they count, and their time series."""

    def begin_campaign(self, plan: str, seed: int, started: int) -> int:
        """Note that a campaign begins, at `started` seconds since 1970; return its number."""
        with self._writing() as connection:
            cursor = connection.execute(
                "INSERT INTO campaign (plan, seed, started, updated) VALUES (?, ?, ?, ?)",
                (plan, seed, started, started),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def resume_campaign(self, campaign: int, now: int) -> None:
        """Note that a campaign goes on; its workers count on from what the store has of them."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE campaign SET state = 'running', resumptions = resumptions + 1, updated = ?"
                " WHERE id = ?",
                (now, campaign),
            )

    def update_campaign(
        self, campaign: int, executions: int, seconds: float, state: CampaignState, *, now: int
    ) -> None:
        """Note how far a campaign is, `now` in seconds since 1970."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE campaign SET executions = ?, seconds = ?, state = ?, updated = ?"
                " WHERE id = ?",
                (executions, seconds, state, now, campaign),
            )

    def keep_worker(self, campaign: int, worker: StoredWorker) -> None:
        """Note a worker, or how far it is by now."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO worker VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET seed = excluded.seed,"
                " executions = excluded.executions, seconds = excluded.seconds,"
                " state = excluded.state, starts = excluded.starts, deaths = excluded.deaths,"
                " rechecked = excluded.rechecked, stable = excluded.stable",
                (
                    *(campaign, worker.number, worker.job),
                    *(worker.harness, worker.target, worker.engine, worker.seed),
                    *(worker.executions, worker.seconds, worker.state),
                    *(worker.starts, worker.deaths, worker.rechecked, worker.stable),
                ),
            )

    def add_sample(self, campaign: int, worker: int | None, sample: Sample) -> None:
        """Keep a point of the series of a worker, or (None) of the campaign; thin it out if due."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO sample (campaign, worker, seconds, executions, corpus, behaviours,"
                " findings, edges, rss, stability) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(campaign, worker, sample.seconds, sample.executions, sample.corpus),
                    *(sample.behaviours, sample.findings, sample.edges, sample.rss),
                    sample.stability,
                ),
            )
            (count,) = connection.execute(
                "SELECT count(*) FROM sample WHERE campaign = ? AND worker IS ?", (campaign, worker)
            ).fetchone()
            if count > MOST_SAMPLES:
                _thin(connection, campaign, worker)

    def count_known(self, campaign: int, counts: Mapping[str, int]) -> None:
        """Set how often a campaign saw each known difference, by name."""
        with self._writing() as connection:
            connection.executemany(
                "INSERT INTO known_difference VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
                " SET count = max(count, excluded.count)",
                [(campaign, name, count) for name, count in counts.items()],
            )

    def campaigns(self) -> tuple[StoredCampaign, ...]:
        """Return the campaigns in the order in which they began; if there are very many, the last.

        How long a plan may be is bounded by what SQLite is told when the store is opened.
        """
        with self._reading() as connection:
            found = connection.execute(
                "SELECT id, plan, seed, started, updated, seconds, executions, state, resumptions"
                " FROM campaign ORDER BY id DESC LIMIT ?",
                (_MOST_ROWS,),
            )
            return tuple(_campaign(row) for row in found)[::-1]

    def campaign(self, number: int | None = None) -> StoredCampaign:
        """Return the campaign of that number, or the last one; InputError if there is none."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT id, plan, seed, started, updated, seconds, executions, state, resumptions"
                " FROM campaign WHERE ?1 IS NULL OR id = ?1 ORDER BY id DESC LIMIT 1",
                (number,),
            ).fetchone()
            if row is not None:
                return _campaign(row)
        if number is None:
            raise InputError(f"the store {self.path} has no campaign: nvmxfuzz fuzz begins one")
        raise InputError(f"the store {self.path} has no campaign {number}: see nvmxfuzz status")

    def workers(self, campaign: int) -> tuple[StoredWorker, ...]:
        """Return the workers of a campaign by number and job."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT number, job, harness, target, engine, seed, executions, seconds, state,"
                " starts, deaths, rechecked, stable FROM worker WHERE campaign = ?"
                " ORDER BY number, job LIMIT ?",
                (campaign, _MOST_ROWS),
            )
            return tuple(_worker(row) for row in found)

    def samples(self, campaign: int, worker: int | None = None) -> tuple[Sample, ...]:
        """Return the series of a worker, or (None) of a campaign as a whole, the newest last."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT seconds, executions, corpus, behaviours, findings, edges, rss, stability"
                " FROM sample WHERE campaign = ? AND worker IS ? ORDER BY seconds DESC, id DESC"
                " LIMIT ?",
                (campaign, worker, MOST_SAMPLES),
            )
            return tuple(_sample(row) for row in found)[::-1]

    def known_seen(self, campaign: int) -> Mapping[str, int]:
        """Return how often a campaign has seen known differences, by name."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT name, count FROM known_difference WHERE campaign = ? ORDER BY name LIMIT ?",
                (campaign, _MOST_ROWS),
            )
            return {rows.text(name): rows.whole(count) for name, count in found}


def _thin(connection: sqlite3.Connection, campaign: int, worker: int | None) -> None:
    """Keep the last sample of each of `MOST_SAMPLES` / 2 spans of the time that a series covers."""
    connection.execute(
        "DELETE FROM sample WHERE campaign = ?1 AND worker IS ?2 AND id NOT IN (SELECT max(id)"
        " FROM sample WHERE campaign = ?1 AND worker IS ?2 GROUP BY CAST(seconds * ?3 /"
        " (SELECT max(seconds) FROM sample WHERE campaign = ?1 AND worker IS ?2) AS INTEGER))",
        (campaign, worker, MOST_SAMPLES // 2 - 1),
    )


def _campaign(row: tuple[object, ...]) -> StoredCampaign:
    number, plan, seed, started, updated, seconds, executions, state, resumptions = row
    return StoredCampaign(
        number=rows.whole(number),
        plan=rows.text(plan),
        seed=rows.whole(seed),
        started=rows.whole(started),
        updated=rows.whole(updated),
        seconds=rows.real(seconds),
        executions=rows.whole(executions),
        state=rows.choice(state, _CAMPAIGN_STATES),
        resumptions=rows.whole(resumptions),
    )


def _worker(row: tuple[object, ...]) -> StoredWorker:
    number, job, harness, target, engine, seed, executions, seconds, state, *counts = row
    starts, deaths, rechecked, stable = map(rows.whole, counts)
    return StoredWorker(
        number=rows.whole(number),
        job=rows.whole(job),
        harness=rows.text(harness),
        target=rows.text(target),
        engine=rows.text(engine),
        seed=rows.whole(seed),
        executions=rows.whole(executions),
        seconds=rows.real(seconds),
        state=rows.choice(state, _WORKER_STATES),
        starts=starts,
        deaths=deaths,
        rechecked=rechecked,
        stable=stable,
    )


def _sample(row: tuple[object, ...]) -> Sample:
    seconds, executions, corpus, behaviours, findings, edges, rss, stability = row
    return Sample(
        seconds=rows.real(seconds),
        executions=rows.whole(executions),
        corpus=rows.whole(corpus),
        behaviours=rows.whole(behaviours),
        findings=rows.whole(findings),
        edges=rows.optional_whole(edges),
        rss=rows.optional_whole(rss),
        stability=rows.optional_real(stability),
    )

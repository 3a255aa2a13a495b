# SPDX-License-Identifier: GPL-2.0-only
"""A campaign with everybody listening who has to: store, terminal, the desk for findings."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nvmxfuzz.campaign.beginning import Team, resumed_tally, take_over, team_of
from nvmxfuzz.campaign.corpus import Corpus
from nvmxfuzz.campaign.desk import Desk
from nvmxfuzz.campaign.events import Died, EndReason, Event, Finished, Found, Notice
from nvmxfuzz.campaign.listener import Listener
from nvmxfuzz.campaign.plan import Plan
from nvmxfuzz.campaign.plan_text import write_plan
from nvmxfuzz.campaign.run_folder import remove, run_folder
from nvmxfuzz.campaign.runner import run_campaign
from nvmxfuzz.campaign.second_witness import unsteered
from nvmxfuzz.campaign.stopping import seen_enough
from nvmxfuzz.campaign.store import Store, open_store
from nvmxfuzz.campaign.store.recorder import Recorder
from nvmxfuzz.campaign.store.values import StoredCampaign
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.cli import INTERRUPTED, end_at_once
from nvmxfuzz.cli.invocation import command, typed_path
from nvmxfuzz.cli.streams import silence
from nvmxfuzz.errors import InputError
from nvmxfuzz.reports.console import Console, Terminal
from nvmxfuzz.reports.ndjson import Ndjson
from nvmxfuzz.reports.summary import JobSummary, Summary

_GRACE_SECONDS = 20.0
"""How long after its time a campaign may go on looking into what it has found."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for; `resumed` is the campaign that goes on."""

    plan: Plan
    store: Path
    resumed: StoredCampaign | None
    begins_with_store: bool
    as_json: bool


@dataclass(slots=True)
class _Stage:
    """All that a campaign consists of."""

    asked: Asked
    team: Team
    store: Store
    recorder: Recorder
    listener: Listener
    tally: Tally
    desk: Desk
    interrupted: Callable[[], bool]

    def over(self) -> EndReason | None:
        """Return why the campaign is to end now, if it is."""
        if self.interrupted():
            return "interrupted"
        points = [len(harness.points) for harness in self.team.harnesses]
        return seen_enough(self.asked.plan, self.tally, points)

    def begin(self, folder: Path) -> Corpus:
        """Make the corpus."""
        corpus = self.team.begin(
            *(folder, self.store, self.recorder, self.interrupted),
            stored=self.asked.begins_with_store,
        )
        self.tally.kept = corpus.size
        return corpus

    def take(self, event: Event) -> None:
        """Let everybody have an event."""
        tally = self.tally
        tally.take(event)
        if isinstance(event, Found):
            self.desk.take_found(tally.workers[event.worker].job, event)
        elif isinstance(event, Died):
            self.desk.take_death(tally.workers[event.worker].job, event)
        self.desk.attend()
        self.recorder.take(event, tally)
        self.listener.take(event, tally)


def campaign(asked: Asked) -> int:
    """Run a campaign; return 1 if it had findings, 130 if it was interrupted, else 0."""
    team = team_of(asked.plan)
    with open_store(asked.store) as store, _interruptible() as interrupted:
        store.claim()
        summary, error = _conduct(asked, team, store, interrupted)
        if isinstance(error, BrokenPipeError):
            # The reader has seen enough; what there is to say is in the store.
            silence(sys.stdout)
        elif error is not None and not summary.executions:
            raise error
        print(json.dumps(summary.to_json()) if asked.as_json else summary.to_text(), flush=True)
        if error is not None and not isinstance(error, BrokenPipeError):
            raise error
    if summary.reason == "interrupted":
        return INTERRUPTED
    return 1 if summary.findings else 0


def _conduct(
    asked: Asked, team: Team, store: Store, interrupted: Callable[[], bool]
) -> tuple[Summary, Exception | None]:
    """Run the campaign to its end; return what there is to say, and what ended it early."""
    folder = run_folder(store.path)
    notices = [*_notices(team), *_taken_over(asked, folder, store)]
    tally = resumed_tally(store, asked.resumed, team) if asked.resumed else Tally()
    recorder = Recorder(
        store,
        asked.plan,
        team.harnesses,
        int(time.time()),
        plan_text=write_plan(asked.plan),
        resumed=asked.resumed,
    )
    listener: Listener = Ndjson(sys.stdout) if asked.as_json else _console(team)
    desk = Desk(asked.plan, team.harnesses, recorder, listener, tally)
    stage = _Stage(asked, team, store, recorder, listener, tally, desk, interrupted)
    last: Event | None = None
    ended_by: Exception | None = None
    try:
        with contextlib.closing(listener), contextlib.closing(desk):
            for text in notices:
                stage.take(Notice(0, text))
            desk.take_up(store)
            last = _run(stage, folder)
            desk.finish(_patience(asked.plan, interrupted))
    except (InputError, OSError, MemoryError) as error:
        ended_by = error
    if isinstance(last, Finished) and ended_by is None:
        remove(folder)
    else:
        last = Finished("error", tally.executions, tally.elapsed - tally.before)
        recorder.give_up(tally, tally.elapsed)
    return _summary(stage, last), ended_by


def _run(stage: _Stage, folder: Path) -> Event | None:
    """Run the campaign; return its last event."""
    plan, resumed = stage.asked.plan, stage.asked.resumed
    if resumed is not None:
        # What the plan says holds for all of it together.
        plan = replace(
            plan,
            seconds=None if plan.seconds is None else plan.seconds - resumed.seconds,
            runs=None if plan.runs is None else plan.runs - resumed.executions,
        )
    last: Event | None = None
    with contextlib.closing(run_campaign(plan, stage.over, stage.begin, folder)) as events:
        for event in events:
            stage.take(event)
            last = event
    return last


def _patience(plan: Plan, interrupted: Callable[[], bool]) -> Callable[[], bool]:
    """Return what says when there is no more time to look into findings."""
    until = time.monotonic() + (math.inf if plan.seconds is None else _GRACE_SECONDS)
    return lambda: interrupted() or time.monotonic() > until


def _notices(team: Team) -> Iterator[str]:
    """Yield what a person should know before it begins, each sentence once."""
    told = dict.fromkeys(
        unsteered(harness, job.target)
        for job, harness in zip(team.plan.jobs, team.harnesses, strict=True)
        if job.engine == "atheris"
    )
    yield from filter(None, told)


def _taken_over(asked: Asked, folder: Path, store: Store) -> Iterator[str]:
    """Put what a killed campaign has left into the store, and say so."""
    campaigns = store.campaigns()
    if campaigns:
        findings, inputs = take_over(folder, store, campaigns[-1].number)
        if findings or inputs:
            yield (
                f"a campaign that was killed has left {findings} findings and {inputs} inputs "
                "that the store did not have: they are in it now"
            )
    remove(folder)
    run_folder(asked.store)


def _console(team: Team) -> Console:
    jobs = [
        JobSummary(job.label, harness.noun, len(harness.points))
        for job, harness in zip(team.plan.jobs, team.harnesses, strict=True)
    ]
    return Console(Terminal(file=sys.stdout), jobs)


def _summary(stage: _Stage, last: Finished) -> Summary:
    tally, shown = stage.tally, typed_path(stage.store.path)
    shares = list(tally.shares)
    jobs = tuple(
        JobSummary(
            job.label,
            harness.noun,
            len(harness.points),
            seen=tally.seen(number),
            executions=sum(share.executions for share in shares if share.job == number),
            conditions=len(tally.job(number).conditions),
            edges=tally.job(number).edges,
            all_edges=tally.job(number).all_edges,
        )
        for number, (job, harness) in enumerate(
            zip(stage.asked.plan.jobs, stage.team.harnesses, strict=True)
        )
    )
    return Summary(
        jobs=jobs,
        harness=stage.asked.plan.jobs[0].reference,
        engine=stage.asked.plan.jobs[0].engine,
        workers=stage.asked.plan.workers,
        seed=stage.asked.plan.seed,
        reason=last.reason,
        seconds=tally.before + last.seconds,
        executions=tally.executions,
        entries=tally.entries,
        entered_seconds=last.seconds,
        deaths=tally.deaths,
        findings=tuple(stage.desk.found),
        new=stage.desk.new,
        without_input=tuple(stage.desk.without_input),
        corpus=tally.kept,
        stability=tally.stability,
        known=tuple(sorted(_known(tally).items())),
        store=shown,
        replay=(*command(), "replay", shown),
        repro=(*command(), "repro", "--store", shown),
    )


def _known(tally: Tally) -> dict[str, int]:
    total: dict[str, int] = {}
    for job in tally.jobs:
        for name, count in tally.known(job).items():
            total[name] = total.get(name, 0) + count
    return total


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Make the first Ctrl-C (or SIGTERM, SIGHUP) a wish that the campaign fulfils.

    A second one insists. What is ignored stays so, as for nohup.
    """
    wishes: list[int] = []

    def wish(number: int, frame: object) -> None:
        if wishes:
            end_at_once(number, frame)
        wishes.append(number)

    previous = {
        number: signal.signal(number, wish)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield lambda: bool(wishes)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

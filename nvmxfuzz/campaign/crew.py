# SPDX-License-Identifier: GPL-2.0-only
"""The workers of a campaign: who does which job, who follows whom, and who gets which inputs."""

from __future__ import annotations

import select
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Final

from nvmxfuzz.campaign import journal
from nvmxfuzz.campaign.corpus import Corpus, dialect_of, link
from nvmxfuzz.campaign.events import Died, Event, Found, Kept, Notice, Placed, WorkerEvent
from nvmxfuzz.campaign.inputs_folder import NAME
from nvmxfuzz.campaign.last_input import LAST_INPUT
from nvmxfuzz.campaign.plan import Plan
from nvmxfuzz.campaign.recovery import note_job
from nvmxfuzz.campaign.seeding import worker_seed
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.campaign.workers import Death, WorkerProcess
from nvmxfuzz.errors import InputError

STOP_SECONDS: Final = 5.0
"""How long a worker may take to end after it was asked to."""

MOST_STARTS: Final = 3
"""How often in a row a worker is started that does not get to its first input."""

MOST_KILLED: Final = 20
"""The same where somebody kills it before: a system that is short of memory may have more soon."""

_LONGEST_PAUSE: Final = 10.0
"""Seconds."""


@dataclass(slots=True)
class Slot:
    """A place for one worker process at a time; `runs` are left for it, None is no limit."""

    number: int
    folder: Path
    runs: int | None
    own_job: int | None
    """The job that it is there for, None if it takes turns."""
    job: int = -1
    process: WorkerProcess | None = None
    lives: int = 0
    told: int = 0
    """How many lines of its journal the process has sent as well."""
    false_starts: int = 0
    not_before: float = 0.0
    """When the next process may be started."""
    turn_ends: float = 0.0
    abandon_at: float | None = None
    is_retired: bool = False
    """Whether nothing that it could do starts."""

    @property
    def is_done(self) -> bool:
        """Whether no process is to be started in it."""
        return self.is_retired or (self.runs is not None and self.runs <= 0)


@dataclass(slots=True)
class Crew:
    """All workers. The caller `close`s it."""

    plan: Plan
    folder: Path
    corpus: Corpus
    executions: int = 0
    """What the processes that have ended executed."""
    slots: list[Slot] = field(default_factory=list)
    _granted: Counter[int] = field(default_factory=Counter)
    """Turns of each job that takes turns."""
    _executed: Counter[int] = field(default_factory=Counter)
    _given_up: set[int] = field(default_factory=set)
    _asked: bool = False

    def __post_init__(self) -> None:
        plan = self.plan
        own = [n for n, job in enumerate(plan.jobs) for _ in range(job.workers or 0)]
        for number in range(plan.workers):
            runs = None
            if plan.runs is not None:
                runs = plan.runs // plan.workers + (number < plan.runs % plan.workers)
            folder = self.folder / f"worker-{number}"
            folder.mkdir(exist_ok=True)
            self.slots.append(
                Slot(number, folder, runs, own[number] if number < len(own) else None)
            )

    @property
    def is_done(self) -> bool:
        """Whether there are no more runs to make."""
        return all(slot.is_done and slot.process is None for slot in self.slots)

    @property
    def is_idle(self) -> bool:
        """Whether no process is left."""
        return all(slot.process is None for slot in self.slots)

    def start(self, seconds: float | None) -> Iterator[Event]:
        """Start a process wherever there is none; `seconds` are left."""
        for slot in self.slots:
            if slot.process is not None or slot.is_done or self._asked:
                continue
            if monotonic() >= slot.not_before:
                yield self._start(slot, seconds)

    def listen(self, seconds: float) -> Iterator[Event]:
        """Yield what the workers say within `seconds`, and who has died."""
        running = [slot for slot in self.slots if slot.process is not None]
        pipes = [slot.process for slot in running if slot.process is not None]
        ready, _, _ = select.select(pipes, [], [], seconds)
        for slot in running:
            process = slot.process
            assert process is not None
            events, is_open = process.look(is_ready=process in ready)
            for event in events:
                slot.told += isinstance(event, Found | Kept)
                yield from self._spread(slot, event) if isinstance(event, Kept) else (event,)
            if not is_open:
                yield from self._end(slot, process)
            elif slot.abandon_at is not None:
                self._abandon_late(slot, process, has_spoken=bool(events))

    def stop(self) -> None:
        """Ask all workers to finish after their current inputs; no further ones are started."""
        if self._asked:
            return
        self._asked = True
        for slot in self.slots:
            if slot.process is not None:
                slot.process.stop()
                slot.abandon_at = monotonic() + STOP_SECONDS

    def close(self) -> None:
        """End all workers at once."""
        for slot in self.slots:
            if slot.process is not None:
                slot.process.close()
                slot.process = None

    def _start(self, slot: Slot, seconds: float | None) -> Event:
        self._assign(slot)
        job = self.plan.jobs[slot.job]
        self.corpus.hand_out(job, slot.folder / NAME)
        now = monotonic()
        limits = [each for each in (seconds, slot.turn_ends - now) if each is not None]
        seed = worker_seed(self.plan.seed, self.plan.resumptions, slot.number, slot.lives)
        settings = Settings(
            worker=slot.number,
            engine=job.engine,
            seed=seed,
            runs=slot.runs,
            seconds=_shortest(limits),
            folder=str(slot.folder),
            last_input=str(slot.folder / LAST_INPUT),
            events=-1,
            memory=self.plan.memory,
            target=job.target,
            journal=str(slot.folder / journal.NAME),
            shared=self.plan.workers > 1,
            growth=self.plan.memory // 2,
        )
        note_job(slot.folder, job.reference, job.target, job.engine)
        slot.process = WorkerProcess(job.file, settings, self.plan.case_seconds)
        slot.abandon_at, slot.told = None, 0
        slot.lives += 1
        return Placed(slot.number, slot.job, seed, slot.process.pid)

    def _assign(self, slot: Slot) -> None:
        """Choose what a worker does next: the job that has had the least for its weight."""
        if slot.own_job is not None:
            slot.job, slot.turn_ends = slot.own_job, float("inf")
            return
        if slot.job >= 0 and slot.job not in self._given_up and monotonic() < slot.turn_ends:
            return
        jobs = self.plan.jobs
        free = [
            number
            for number, job in enumerate(jobs)
            if job.workers is None and number not in self._given_up
        ]
        slot.job = min(free, key=lambda number: self._granted[number] / jobs[number].weight)
        self._granted[slot.job] += 1
        places = sum(each.own_job is None for each in self.slots)
        is_even = places % len(free) == 0 and len({jobs[number].weight for number in free}) == 1
        slot.turn_ends = float("inf") if is_even else monotonic() + self.plan.turn_seconds

    def _spread(self, slot: Slot, event: Kept) -> Iterator[Kept]:
        """Give an input that a worker keeps to all others of its harness; yield it if it is news.

        The corpus has it already if others were as fast, or if it is a seed.
        """
        is_fresh = False
        for dialect, file in self.corpus.spread(self.plan.jobs[slot.job], event.data):
            is_fresh = True
            for other in self.slots:
                is_other = other is not slot and other.process is not None
                if is_other and dialect_of(self.plan.jobs[other.job]) == dialect:
                    link(file, other.folder / NAME)
        if is_fresh or event.new:
            yield replace(event, is_fresh=is_fresh)

    def _end(self, slot: Slot, process: WorkerProcess) -> Iterator[Event]:
        """See to a process that talks no more."""
        job = self.plan.jobs[slot.job]
        death = process.death()
        executions = process.executions
        process.close()
        slot.process = None
        self.executions += executions
        self._executed[slot.job] += executions
        if slot.runs is not None:
            slot.runs -= executions
        yield from self._untold(slot)
        # What libFuzzer has kept and the worker has not told of.
        for data in list(self.corpus.missing(job, slot.folder / NAME)):
            if death is None or data != death.data:
                yield from self._spread(slot, Kept(slot.number, data))
        if death is None:
            slot.false_starts = 0
        elif executions:
            slot.false_starts = 0
            self.corpus.forget(job, death.data)
            yield Died(slot.number, executions, death.reason, death.detail, death.data)
        elif not self._asked:
            # Ctrl-C may have met the worker before it was in a session of its own.
            yield from self._note_false_start(slot, death)

    def _untold(self, slot: Slot) -> Iterator[Event]:
        """Yield what a process wrote into its journal, and was killed before it was sent."""
        for event in list(journal.read_journal(slot.folder / journal.NAME))[slot.told :]:
            yield from self._spread(slot, event) if isinstance(event, Kept) else (event,)

    def _note_false_start(self, slot: Slot, death: Death) -> Iterator[WorkerEvent]:
        """Count a worker that did not get to an input.

        The first of a job would not start a second time either, unless somebody killed it: that is
        an InputError. Later something else may be wrong: the other jobs go on.
        """
        slot.false_starts += 1
        was_killed = death.reason == "SIGKILL"
        most = MOST_KILLED if was_killed else MOST_STARTS
        if (self._executed[slot.job] or was_killed) and slot.false_starts < most:
            pause = slot.false_starts - 1 if was_killed else 0
            slot.not_before = monotonic() + min(pause, _LONGEST_PAUSE)
            return
        job = self.plan.jobs[slot.job]
        said = f"a worker did not start: {death.detail or death.reason}"
        if death.reason == "exit 0":
            said = "a worker did not start: its file must end with main(HARNESS), see "
            said += "fuzz/vm_entry.py"
        self._given_up.add(slot.job)
        slot.is_retired = not self._others(slot)
        if not self._executed[slot.job] or all(each.is_retired for each in self.slots):
            raise InputError(said)
        slot.false_starts = 0
        yield Notice(slot.number, f"{job.label} is given up: {said}")

    def _others(self, slot: Slot) -> bool:
        """Whether a worker has another job to turn to."""
        return slot.own_job is None and any(
            job.workers is None and number not in self._given_up
            for number, job in enumerate(self.plan.jobs)
        )

    def _abandon_late(self, slot: Slot, process: WorkerProcess, *, has_spoken: bool) -> None:
        """End a worker that does not end although it was asked to."""
        assert slot.abandon_at is not None
        if has_spoken:
            # It may have waited on a full pipe until somebody read what it found.
            slot.abandon_at = monotonic() + STOP_SECONDS
        elif monotonic() > slot.abandon_at:
            process.abandon()


def _shortest(limits: Sequence[float]) -> float | None:
    shortest = min(limits, default=float("inf"))
    return None if shortest == float("inf") else max(0.0, shortest)

# SPDX-License-Identifier: GPL-2.0-only
"""The runner: one campaign from start to end, as a stream of events.

It starts the worker, reads what it reports, restarts it when it dies or hangs, and knows when to
end. It knows no store and no console: whoever iterates over it decides what becomes of an event.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic

from nvmxfuzz.campaign.events import Died, EndReason, Event, Finished
from nvmxfuzz.campaign.plan import Plan
from nvmxfuzz.campaign.scratch import remove_abandoned, scratch_folder
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.campaign.workers import Death, WorkerProcess
from nvmxfuzz.errors import InputError

POLL_SECONDS = 0.1
STOP_SECONDS = 5.0
"""How long a worker may take to end after it was asked to."""

MOST_STARTS = 3
"""How often in a row a worker is started that does not get to its first input."""

Stop = Callable[[], bool]


@dataclass(slots=True)
class _Count:
    """How far the campaign is: what all workers have executed, and how many of them died."""

    executions: int = 0
    deaths: int = 0
    starts: int = 0
    """How many workers in a row did not get to their first input."""


def run_campaign(plan: Plan, stop: Stop) -> Generator[Event, None, None]:
    """Yield what happens until the plan is done or `stop()` is true; `Finished` comes last.

    InputError if the worker does not even start, or if the system refuses what it needs. Closing
    the generator ends the worker.
    """
    try:
        yield from _run(plan, stop)
    except OSError as error:
        raise InputError(
            f"the campaign needs what the system refuses ({error.strerror}): make room in the "
            "temporary folder (or name another one in TMPDIR), or raise the limits of the process"
        ) from error


def _run(plan: Plan, stop: Stop) -> Iterator[Event]:
    started = monotonic()
    count = _Count()
    with scratch_folder() as folder:
        remove_abandoned()
        _write_seeds(plan, folder / "inputs")
        reason = None
        while reason is None:
            worker = _start(plan, folder, count, monotonic() - started)
            try:
                yield from _listen(worker, stop, _deadline(plan, started))
                death = worker.death()
                executions = worker.executions
            finally:
                worker.close()
            count.executions += executions
            if death is not None and not executions:
                # Ctrl-C may have met the worker before it was in a session of its own.
                if not stop():
                    _note_false_start(count, death)
            elif death is not None:
                count.starts = 0
                count.deaths += 1
                _forget(folder / "inputs", death.data)
                yield Died(0, executions, death.reason, death.detail, death.data)
            reason = _end_reason(plan, stop, count, monotonic() - started)
    yield Finished(reason, count.executions, monotonic() - started)


def _note_false_start(count: _Count, death: Death) -> None:
    """Count a worker that did not get to an input; InputError if there is no use in another one.

    The first of a campaign would not start a second time either; later something else may have
    killed it.
    """
    count.starts += 1
    if count.executions and count.starts < MOST_STARTS:
        return
    if death.reason == "exit 0":
        raise InputError(
            "a worker did not start: its file must end with main(HARNESS), see fuzz/vm_entry.py"
        )
    raise InputError(f"a worker did not start: {death.detail or death.reason}")


def _write_seeds(plan: Plan, folder: Path) -> None:
    try:
        folder.mkdir()
        for seed in plan.seeds:
            (folder / sha256(seed).hexdigest()[:32]).write_bytes(seed)
    except OSError as error:
        raise InputError(
            f"the temporary folder {folder} cannot be filled ({error.strerror}): make room there, "
            "or name another place in TMPDIR"
        ) from error


def _start(plan: Plan, folder: Path, count: _Count, seconds: float) -> WorkerProcess:
    settings = Settings(
        worker=0,
        engine=plan.engine,
        # A worker that died would die again of the same inputs.
        seed=plan.seed + count.deaths,
        runs=None if plan.runs is None else plan.runs - count.executions,
        seconds=None if plan.seconds is None else max(0.0, plan.seconds - seconds),
        folder=str(folder),
        last_input=str(folder / "last-input"),
        events=-1,
        memory=plan.memory,
        target=plan.target,
    )
    return WorkerProcess(plan.file, settings, plan.case_seconds)


def _deadline(plan: Plan, started: float) -> float:
    """Return when a worker that does not keep to its time is asked to stop."""
    return float("inf") if plan.seconds is None else started + plan.seconds + 1


def _listen(worker: WorkerProcess, stop: Stop, deadline: float) -> Iterator[Event]:
    """Yield the events of one worker until it talks no more."""
    is_open = True
    abandon_at: float | None = None
    while is_open:
        events, is_open = worker.poll(POLL_SECONDS)
        yield from events
        now = monotonic()
        if abandon_at is None:
            if stop() or now > deadline:
                worker.stop()
                abandon_at = now + STOP_SECONDS
        elif events:
            # It may have waited on a full pipe until somebody read what it found.
            abandon_at = now + STOP_SECONDS
        elif now > abandon_at:
            worker.abandon()


def _forget(folder: Path, data: bytes) -> None:
    """Take a deadly input out of those that the next worker begins with."""
    for path in folder.iterdir():
        if path.read_bytes() == data:
            path.unlink()


def _end_reason(plan: Plan, stop: Stop, count: _Count, seconds: float) -> EndReason | None:
    if stop():
        return "interrupted"
    if plan.runs is not None and count.executions >= plan.runs:
        return "runs"
    if plan.seconds is not None and seconds >= plan.seconds:
        return "time"
    return None

# SPDX-License-Identifier: GPL-2.0-only
"""One trial: a campaign's worker with a fault in it, until the first correct finding.

Time is what the worker has had of a processor, so that a busy machine makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from nvmxfuzz.campaign.events import Found, Started
from nvmxfuzz.campaign.plan import DEFAULT_CASE_SECONDS, DEFAULT_MEMORY
from nvmxfuzz.campaign.scratch import scratch_folder
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.campaign.workers import WorkerProcess
from nvmxfuzz.errors import InputError
from nvmxfuzz.power.fault import Fault
from nvmxfuzz.power.processor_time import ProcessorTime
from nvmxfuzz.power.variant import Variant
from nvmxfuzz.power.worker import harness_file_with

POLL_SECONDS = 0.05
MOST_WRONG = 20
WAITING = 20
"""So many times as long as it may work a worker may take by the clock: then something hangs."""


@dataclass(frozen=True, slots=True)
class Search:
    """How a fault is looked for, and for how many seconds of a processor at most.

    `seeds` are the encoded inputs that the engine begins with, if it takes any.
    """

    variant: Variant
    seed: int
    seconds: float
    seeds: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a search: the identity of the first correct finding, or "".

    `executions` and `seconds` of a processor are those up to it, from the first input on; else all
    there were.
    `others` are findings that came before it and were not correct, `died` how the worker ended if
    it did not end as it should.
    """

    identity: str
    executions: int
    seconds: float
    others: tuple[str, ...] = ()
    died: str = ""

    @property
    def found(self) -> bool:
        """Whether the fault was found."""
        return self.identity != ""


def _never() -> bool:
    return False


def hunt(fault: Fault, search: Search, is_stopped: Callable[[], bool] = _never) -> Trial:
    """Look for a fault; InputError if the worker does not even start.

    Once `is_stopped` says so the search ends, and what it comes to is of no use.
    """
    with scratch_folder() as folder:
        inputs = folder / "inputs"
        inputs.mkdir()
        for seed in search.seeds:
            (inputs / sha256(seed).hexdigest()[:32]).write_bytes(seed)
        worker = WorkerProcess(
            harness_file_with(fault, search.variant, folder),
            _settings(fault, search, folder),
            DEFAULT_CASE_SECONDS,
        )
        try:
            return _watch(worker, fault, search.seconds, is_stopped)
        finally:
            worker.close()


def _settings(fault: Fault, search: Search, folder: Path) -> Settings:
    return Settings(
        worker=0,
        engine=search.variant.engine,
        seed=search.seed,
        runs=None,
        seconds=search.seconds * WAITING,
        folder=str(folder),
        last_input=str(folder / "last-input"),
        events=-1,
        memory=DEFAULT_MEMORY,
        target=fault.target,
    )


def _watch(
    worker: WorkerProcess, fault: Fault, limit: float, is_stopped: Callable[[], bool]
) -> Trial:
    used = ProcessorTime(worker.pid)
    started: float | None = None
    others: list[str] = []
    is_open = True
    while is_open:
        events, is_open = worker.poll(POLL_SECONDS)
        now = used.seconds()
        for event in events:
            if isinstance(event, Started):
                started = now
            elif isinstance(event, Found) and fault.is_shown_by(event.finding):
                seconds = round(now - (started or now), 2)
                return Trial(event.finding.identity, worker.executions, seconds, tuple(others))
            elif isinstance(event, Found) and len(others) < MOST_WRONG:
                others.append(f"{event.finding.identity}: {event.finding.message[:200]}")
        if is_stopped() or (started is not None and now > started + limit):
            worker.abandon()
    # The process is not waited for yet: what it has used can still be read.
    seconds = round(used.seconds() - (started or 0.0), 2)
    death = worker.death()
    if started is None and not is_stopped():
        detail = "" if death is None else death.detail or death.reason
        raise InputError(f"a worker with the fault {fault.name} did not start: {detail}")
    reason = "" if death is None else f"{death.reason} {death.detail}".strip()
    return Trial("", worker.executions, seconds, tuple(others), reason)

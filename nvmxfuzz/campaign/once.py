# SPDX-License-Identifier: GPL-2.0-only
"""One input alone in a fresh worker process: for inputs that end a worker, or hang it."""

from __future__ import annotations

from collections.abc import Callable

from nvmxfuzz.campaign.plan import Plan
from nvmxfuzz.campaign.scratch import scratch_folder
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.campaign.workers import Death, WorkerProcess

_POLL_SECONDS = 0.1


def death_of(plan: Plan, data: bytes, stop: Callable[[], bool]) -> Death | None:
    """Return how a worker dies of one input; None if it survives, or if `stop()` comes first."""
    with scratch_folder() as folder:
        inputs = folder / "inputs"
        inputs.mkdir()
        (inputs / "input").write_bytes(data)
        settings = Settings(
            worker=0,
            engine="random",
            seed=0,
            runs=None,
            seconds=None,
            folder=str(folder),
            last_input=str(folder / "last-input"),
            events=-1,
            memory=plan.memory,
            replay=True,
            target=plan.target,
        )
        worker = WorkerProcess(plan.file, settings, plan.case_seconds)
        try:
            is_open = True
            while is_open:
                _, is_open = worker.poll(_POLL_SECONDS)
                if stop():
                    return None
            return worker.death()
        finally:
            worker.close()

# SPDX-License-Identifier: GPL-2.0-only
"""The runner: one campaign from start to end, as a stream of events.

It starts the workers, reads what they report, replaces one that dies or hangs, and knows when to
end. It knows no store and no console: whoever iterates over it decides what becomes of an event.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from time import monotonic

from nvmxfuzz.campaign.corpus import Corpus
from nvmxfuzz.campaign.crew import Crew
from nvmxfuzz.campaign.events import EndReason, Event, Finished, Tick
from nvmxfuzz.campaign.plan import Plan
from nvmxfuzz.campaign.scratch import remove_abandoned, scratch_folder
from nvmxfuzz.errors import InputError

POLL_SECONDS = 0.1

Over = Callable[[], EndReason | None]
"""Why the campaign is to end now, None if it is not."""

Begin = Callable[[Path], Corpus]
"""Makes the corpus of a campaign in a folder."""


def run_campaign(
    plan: Plan, over: Over, begin: Begin | None = None, folder: Path | None = None
) -> Generator[Event, None, None]:
    """Yield what happens until the plan is done or `over()` says so; `Finished` comes last.

    `begin` makes the corpus that the workers share, `folder` is where they work: without, a
    temporary one. InputError if a worker does not even start, or if the system refuses what it
    needs. Closing the generator ends the workers.
    """
    try:
        with contextlib.ExitStack() as stack:
            remove_abandoned()
            place = folder or stack.enter_context(scratch_folder())
            yield from _run(plan, over, begin or (lambda at: Corpus(at, plan.jobs)), place)
    except OSError as error:
        where = "the folder of the store" if folder else "the temporary folder"
        raise InputError(
            f"the campaign needs what the system refuses ({error.strerror}): make room in {where}, "
            "or raise the limits of the process"
        ) from error


def _run(plan: Plan, over: Over, begin: Begin, folder: Path) -> Iterator[Event]:
    crew = Crew(plan, folder, begin(folder / "corpus"))
    started = monotonic()
    reason: EndReason | None = None
    with contextlib.closing(crew):
        while not (reason and crew.is_idle):
            passed = monotonic() - started
            reason = reason or _end_reason(plan, over, crew, passed)
            if reason is None:
                left = None if plan.seconds is None else plan.seconds - passed
                yield from crew.start(left)
            elif reason != "time" or passed > (plan.seconds or 0) + 1:
                # At the end of its time a worker ends by itself, if it can.
                crew.stop()
            yield from crew.listen(POLL_SECONDS)
            yield Tick()
    yield Finished(reason, crew.executions, monotonic() - started)


def _end_reason(plan: Plan, over: Over, crew: Crew, seconds: float) -> EndReason | None:
    reason = over()
    if reason is not None:
        return reason
    if plan.runs is not None and crew.is_done:
        return "runs"
    if plan.seconds is not None and seconds >= plan.seconds:
        return "time"
    return None

# SPDX-License-Identifier: GPL-2.0-only
"""When a campaign is over, but for its time and its runs: by what it has seen."""

from __future__ import annotations

from collections.abc import Sequence

from nvmxfuzz.campaign.events import EndReason
from nvmxfuzz.campaign.plan import Plan
from nvmxfuzz.campaign.tally import Tally


def seen_enough(plan: Plan, tally: Tally, points: Sequence[int]) -> EndReason | None:
    """Return why there is no use in going on, None if there is; `points` is how many each job has.

    "seen": every rule, or other point, of every job was seen held and broken. "idle": nothing new
    for as long as the plan says, since the beginning or the last resumption.
    """
    if plan.until_seen and all(_all_seen(tally, job, count) for job, count in enumerate(points)):
        return "seen"
    if plan.idle_seconds is not None:
        last = max(tally.before, tally.last_new or 0.0)
        if tally.elapsed - last >= plan.idle_seconds:
            return "idle"
    return None


def _all_seen(tally: Tally, job: int, points: int) -> bool:
    seen = tally.seen(job)
    return (seen.held & seen.broken).bit_count() == points

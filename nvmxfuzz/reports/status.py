# SPDX-License-Identifier: GPL-2.0-only
"""Where a campaign stands, for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from nvmxfuzz.campaign.store.standing import Standing
from nvmxfuzz.campaign.store.values import StoredWorker
from nvmxfuzz.machine.outside import printable

_LISTED: Final = 12
"""So many lines of a kind are shown; --json has all."""

_MIB: Final = 1 << 20
STATES: Final[Mapping[str, str]] = {
    "running": "is running",
    "killed": "was killed",
    "time": "ended, its time was up",
    "runs": "ended after its number of runs",
    "idle": "ended, as there was nothing new for long enough",
    "seen": "ended, as all was seen that was to be",
    "interrupted": "was interrupted",
    "error": "was ended by an error",
}
"""The states of a campaign as they end a sentence about it."""


def status_text(store: str, standing: Standing) -> str:
    """Return what `nvmxfuzz status` prints, without a newline at the end."""
    return "\n".join(printable(line) for line in _lines(store, standing))


def duration(seconds: float) -> str:
    """Return hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _lines(store: str, standing: Standing) -> Iterator[str]:
    campaign = standing.campaign
    times = f", resumed {campaign.resumptions} times" if campaign.resumptions else ""
    yield f"{store}: campaign {campaign.number} {STATES[standing.state]}{times}"
    yield _line("time", duration(campaign.seconds))
    yield _line("executions", f"{campaign.executions:,} ({standing.rate:,.0f} a second)")
    yield _line("new behaviour", _when(standing.last_new, campaign.seconds))
    yield _line("new finding", _when(standing.last_finding, campaign.seconds))
    flaky = f", {standing.flaky} of them flaky" if standing.flaky else ""
    yield _line("findings", f"{sum(standing.findings.values())}{flaky}")
    yield from _counted(standing.findings)
    if standing.known:
        yield _line("known", f"{len(standing.known)} known differences seen")
        yield from _counted(standing.known)
    for where, verdicts in standing.behaviours.items():
        counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
        yield _line("seen", f"{_place(*where)}: {counts}")
    for where, count in standing.corpus.items():
        yield _line("corpus", f"{_place(*where)}: {count:,} inputs")
    yield from _machine(standing)
    yield from map(_worker, standing.workers[:_LISTED])


def _machine(standing: Standing) -> Iterator[str]:
    if standing.edges is not None:
        yield _line("coverage", f"{standing.edges:,} edges of nested.c")
    if standing.resident is not None:
        yield _line("memory", f"{standing.resident / _MIB:,.0f} MiB")
    if standing.stability is not None:
        yield _line("stability", f"{standing.stability:.2%}")
    if standing.deaths:
        yield _line("deaths", f"a worker was replaced {standing.deaths} times")


def _counted(counts: Mapping[str, int]) -> Iterator[str]:
    listed = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for name, count in listed[:_LISTED]:
        yield f"    {count:>9,}  {name}"
    if len(listed) > _LISTED:
        yield f"    and {len(listed) - _LISTED} more"


def _worker(worker: StoredWorker) -> str:
    rate = worker.executions / worker.seconds if worker.seconds else 0.0
    return _line(
        f"worker {worker.number}",
        f"{_place(worker.harness, worker.target)} by {worker.engine}, {worker.state}: "
        f"{worker.executions:,} executions ({rate:,.0f} a second)",
    )


def _when(at: float | None, now: float) -> str:
    return "none" if at is None else f"{duration(max(0.0, now - at))} ago, at {duration(at)}"


def _place(harness: str, target: str) -> str:
    return f"{harness} on {target}" if target else harness


def _line(what: str, text: str) -> str:
    return f"  {what:<13} {text}"

# SPDX-License-Identifier: GPL-2.0-only
"""Where a campaign stands, as it is shown on a terminal while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.campaign.worker_totals import WorkerTotals
from nvmxfuzz.reports.summary import JobSummary, edges_text, known_text, seen_text

_MOST_WORKERS = 16
_MIB = 1 << 20


def standing(
    tally: Tally, jobs: Sequence[JobSummary], findings: Mapping[str, int], pending: int
) -> RenderableType:
    """Return the live status: totals, jobs, workers. `findings` counts them by oracle."""
    return Group(_totals(tally, findings, pending), _jobs(tally, jobs), _workers(tally, jobs))


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def ago(tally: Tally, when: float | None) -> str:
    """Return how long ago something was."""
    return "not yet" if when is None else f"{duration(tally.elapsed - when)} ago"


def _totals(tally: Tally, findings: Mapping[str, int], pending: int) -> Table:
    table = Table.grid(padding=(0, 2))
    stable = "nothing run twice yet" if tally.stability is None else f"{tally.stability:.2%}"
    by_oracle = ", ".join(f"{oracle} {count}" for oracle, count in sorted(findings.items()))
    found = by_oracle or "none"
    if pending:
        found += f" ({pending} being looked into)"
    rows = [
        ("time", duration(tally.elapsed), "executions", _speed(tally)),
        ("last new", ago(tally, tally.last_new), "corpus", f"{tally.kept:,} inputs"),
        ("last finding", ago(tally, tally.last_finding), "stability", stable),
    ]
    for row in rows:
        table.add_row(*(Text(cell, style="bold" if n % 2 else "") for n, cell in enumerate(row)))
    known: dict[str, int] = {}
    for job in tally.jobs:
        for name, count in tally.known(job).items():
            known[name] = known.get(name, 0) + count
    lines = Table.grid(padding=(0, 2))
    if tally.entries:
        lines.add_row(Text("VM entries"), Text(f"{tally.entries:,}"))
    lines.add_row(Text("findings"), Text(found, style="bold red" if findings else "bold"))
    if known:
        lines.add_row(Text("known"), Text(known_text(known)))
    if tally.deaths:
        lines.add_row(Text("deaths"), Text(f"{tally.deaths} workers were replaced"))
    whole = Table.grid()
    whole.add_row(table)
    whole.add_row(lines)
    return whole


def _speed(tally: Tally) -> str:
    return f"{tally.executions:,} ({tally.rate:,.0f}/s)"


def _jobs(tally: Tally, jobs: Sequence[JobSummary]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("job", "seen", "KVM conditions", "nested.c"):
        table.add_column(heading, overflow="fold")
    for number, job in enumerate(jobs):
        totals = tally.job(number)
        table.add_row(
            Text(job.label),
            Text(f"{job.noun}: {seen_text(totals.seen)}, of {job.points}"),
            Text(f"{len(totals.conditions)}" if totals.conditions else "-"),
            Text(edges_text(totals.edges, totals.all_edges) if totals.all_edges else "-"),
        )
    return table


def _workers(tally: Tally, jobs: Sequence[JobSummary]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("worker", "executions", "speed", "memory", "job"):
        table.add_column(heading, justify="right" if heading != "job" else "left", no_wrap=True)
    workers = sorted(tally.workers.values(), key=lambda worker: worker.number)
    for worker in workers[:_MOST_WORKERS]:
        table.add_row(*_worker(worker, jobs))
    if len(workers) > _MOST_WORKERS:
        table.add_row("", "", "", "", Text(f"and {len(workers) - _MOST_WORKERS} more"))
    return table


def _worker(worker: WorkerTotals, jobs: Sequence[JobSummary]) -> tuple[Text, ...]:
    label = jobs[worker.job].label if worker.job < len(jobs) else ""
    state = label if worker.alive else f"{label} ({worker.share.state})"
    return (
        Text(f"{worker.number}"),
        Text(f"{worker.executions:,}"),
        Text(f"{worker.rate:,.0f}/s"),
        Text(f"{worker.resident // _MIB} MiB"),
        Text(state),
    )

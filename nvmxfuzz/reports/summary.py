# SPDX-License-Identifier: GPL-2.0-only
"""A campaign in numbers, at its end: for a person and for a program."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from nvmxfuzz.campaign.events import Seen

_LISTED = 10
_ENDINGS = {
    "time": "done",
    "runs": "done",
    "idle": "done, with nothing new for long enough,",
    "seen": "done, with all rules seen,",
    "interrupted": "interrupted",
    "error": "ended by an error",
}


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job, and what it has seen; `points` is how many rules there are, called `noun`."""

    label: str
    noun: str
    points: int
    seen: Seen = Seen()  # noqa: RUF009 - a frozen value
    executions: int = 0
    conditions: int = 0
    edges: int = 0
    all_edges: int = 0

    def to_json(self) -> dict[str, object]:
        """Return what `--json` has of a job."""
        said: dict[str, object] = {
            "job": self.label,
            "executions": self.executions,
            self.noun: {"all": self.points, **seen_counts(self.seen)},
        }
        if self.conditions:
            said["kvm_conditions"] = self.conditions
        if self.all_edges:
            said["nested_edges"] = {"all": self.all_edges, "seen": self.edges}
        return said

    def line(self) -> str:
        """Return what it has seen, in one line."""
        kvm = f"; KVM: {self._kvm_text()}" if self._kvm_text() else ""
        return (
            f"  {self.label}: {self.executions:,} executions; "
            f"{seen_text(self.seen)}, of {self.points} {self.noun}{kvm}"
        )

    def lines(self) -> Iterator[str]:
        """Yield the same in lines of their own."""
        yield f"  {self.noun + ' seen':<13} {seen_text(self.seen)}, of {self.points}"
        if self._kvm_text():
            yield f"  KVM           {self._kvm_text()}"

    def _kvm_text(self) -> str:
        fired = f"{self.conditions} conditions fired" if self.conditions else ""
        edges = edges_text(self.edges, self.all_edges) if self.all_edges else ""
        return ", ".join(filter(None, (fired, edges)))


@dataclass(frozen=True, slots=True)
class Summary:
    """A campaign in numbers, and where what it found is.

    `harness` and `engine` are those of the first job. `new` are those of the findings that the
    store did not have before. `replay` is the command that runs the findings in the store again,
    in words that can be typed where the campaign was started; those `without_input` it cannot.
    `repro` is the one that tells of a finding, whose identity is to follow.
    `known` counts known differences, among the inputs that were looked at closely. `entries` are
    the VM entries of L1's in the last `entered_seconds`, where an input can bring about many.
    """

    jobs: tuple[JobSummary, ...]
    harness: str
    engine: str
    seed: int
    reason: str
    seconds: float
    executions: int
    deaths: int
    findings: tuple[str, ...]
    new: int
    store: str
    replay: tuple[str, ...]
    repro: tuple[str, ...]
    workers: int = 1
    corpus: int = 0
    stability: float | None = None
    known: tuple[tuple[str, int], ...] = ()
    without_input: tuple[str, ...] = ()
    entries: int = 0
    entered_seconds: float = 0.0

    @property
    def rate(self) -> int:
        """Executions a second."""
        return round(self.executions / self.seconds) if self.seconds else 0

    @property
    def entry_rate(self) -> int:
        """VM entries a second."""
        return round(self.entries / self.entered_seconds) if self.entered_seconds else 0

    def to_json(self) -> dict[str, object]:
        """Return what `--json` prints as its last line."""
        said: dict[str, object] = {"event": "summary"}
        if len(self.jobs) == 1:
            said |= {"harness": self.harness, "engine": self.engine}
        said |= {
            "seed": self.seed,
            "workers": self.workers,
            "ended_by": self.reason,
            "seconds": round(self.seconds, 3),
            "executions": self.executions,
            "executions_per_second": self.rate,
        }
        if self.entries:
            said |= {"vm_entries": self.entries, "vm_entries_per_second": self.entry_rate}
        if len(self.jobs) == 1:
            (job,) = self.jobs
            said[job.noun] = {"all": job.points, **seen_counts(job.seen)}
        return said | {
            "jobs": [job.to_json() for job in self.jobs],
            "corpus": self.corpus,
            "stability": None if self.stability is None else round(self.stability, 4),
            "known_differences": dict(self.known),
            "deaths": self.deaths,
            "findings": list(self.findings),
            "new_findings": self.new,
            "store": self.store,
        }

    def to_text(self) -> str:
        """Return the summary for a person."""
        lines = [
            f"{self._what()}, seed {self.seed}: {_ENDINGS[self.reason]} after {self.seconds:.1f} s",
            f"  executions    {self.executions:,} ({self.rate:,} a second)",
            *self._entry_lines(),
            *self._job_lines(),
            f"  corpus        {self.corpus:,} inputs{self._stable_text()}",
        ]
        if self.known:
            lines.append(f"  known         {known_text(dict(self.known))}")
        lines.append(f"  findings      {len(self.findings)} ({self.new} new)")
        lines += self._idle_lines()
        if self.deaths:
            lines.append(f"  deaths        a worker was restarted {self.deaths} times")
        return "\n".join([*lines, f"  stored in     {self.store}", *self._replay_lines()])

    def _entry_lines(self) -> Iterator[str]:
        if self.entries:
            yield f"  VM entries    {self.entries:,} ({self.entry_rate:,} a second)"

    def _what(self) -> str:
        if len(self.jobs) == 1:
            crew = f" with {self.workers} workers" if self.workers > 1 else ""
            return f"{self.jobs[0].label}{crew}"
        return f"{len(self.jobs)} jobs with {self.workers} workers"

    def _job_lines(self) -> Iterator[str]:
        if len(self.jobs) == 1:
            yield from self.jobs[0].lines()
        else:
            yield from (job.line() for job in self.jobs)

    def _idle_lines(self) -> Iterator[str]:
        """Name the jobs that have not come to a single input."""
        idle = [job.label for job in self.jobs if not job.executions]
        if idle and self.reason == "time":
            yield f"  no time for   {', '.join(idle)}: give the campaign more of it with --time"

    def _stable_text(self) -> str:
        return "" if self.stability is None else f", {self.stability:.1%} stable"

    def _replay_lines(self) -> Iterator[str]:
        """Yield a complete command for each finding, to be copied."""
        one = shlex.join([*self.replay, "--finding"])
        if not self.findings:
            yield f"  replay        a finding would be run again by: {one} ID"
            return
        for identity in self.without_input[:_LISTED]:
            yield f"  no replay     {identity}: no input was saved"
        again = [each for each in self.findings if each not in self.without_input]
        if not again:
            return
        yield "  replay        each finding is run again by its command:"
        for identity in again[:_LISTED]:
            yield f"    {one} {identity}"
        if len(again) > _LISTED:
            yield f"  and {len(again) - _LISTED} more, all of them by:"
            yield f"    {shlex.join(self.replay)}"
        yield "  repro         one is told so that others understand it by:"
        yield f"    {shlex.join([*self.repro, again[0]])}"


def seen_counts(seen: Seen) -> dict[str, int]:
    """Return how many points were seen with each verdict."""
    return {
        "n/a": seen.na.bit_count(),
        "held": seen.held.bit_count(),
        "broken": seen.broken.bit_count(),
        "unknown": seen.unknown.bit_count(),
    }


def seen_text(seen: Seen) -> str:
    """Return the same for a person."""
    return ", ".join(
        f"{count} {verdict}"
        for verdict, count in seen_counts(seen).items()
        if count or verdict != "unknown"
    )


def edges_text(edges: int, all_edges: int) -> str:
    """Return how much of KVM's code was executed."""
    return f"{edges:,} of {all_edges:,} edges ({edges / all_edges:.1%})"


def known_text(known: dict[str, int]) -> str:
    """Return the known differences that were seen most, and how many others there are."""
    most = sorted(known.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"{name} {count}" for name, count in most[:_SHOWN])
    return f"{text} and {len(most) - _SHOWN} others" if len(most) > _SHOWN else text


_SHOWN = 4

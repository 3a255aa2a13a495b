# SPDX-License-Identifier: GPL-2.0-only
"""A campaign on the terminal: a live status line, findings as they come, a summary at the end.

Where the output is no terminal, a plain line every few seconds takes the place of the live one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic

import rich.console
from rich.live import Live
from rich.text import Text

from nvmxfuzz.campaign.events import Event, Finished, Notice, Seen
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.oracles.finding import Finding

PLAIN_EVERY = 5.0
"""Seconds between two status lines where the output is no terminal."""

_REFRESH_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Summary:
    """A campaign in numbers, and where what it found is.

    `points` is how many rules there are, called `noun`; `new` are those of the findings that the
    store did not have before. `replay` is the command that runs the findings in the store again,
    in words that can be typed where the campaign was started; those `without_input` it cannot.
    """

    harness: str
    engine: str
    seed: int
    reason: str
    seconds: float
    executions: int
    noun: str
    points: int
    seen: Seen
    deaths: int
    findings: tuple[str, ...]
    new: int
    store: str
    replay: tuple[str, ...]
    without_input: tuple[str, ...] = ()

    @property
    def rate(self) -> int:
        """Executions a second."""
        return round(self.executions / self.seconds) if self.seconds else 0

    def to_json(self) -> dict[str, object]:
        """Return what `--json` prints as its last line."""
        return {
            "event": "summary",
            "harness": self.harness,
            "engine": self.engine,
            "seed": self.seed,
            "ended_by": self.reason,
            "seconds": round(self.seconds, 3),
            "executions": self.executions,
            "executions_per_second": self.rate,
            self.noun: {"all": self.points, **seen_counts(self.seen)},
            "deaths": self.deaths,
            "findings": list(self.findings),
            "new_findings": self.new,
            "store": self.store,
        }

    def to_text(self) -> str:
        """Return the summary for a person."""
        seen = _seen_text(self.seen)
        lines = [
            f"{self.harness} by {self.engine}, seed {self.seed}: {_ENDINGS[self.reason]} "
            f"after {self.seconds:.1f} s",
            f"  executions    {self.executions:,} ({self.rate:,} a second)",
            f"  {self.noun + ' seen':<13} {seen}, of {self.points}",
            f"  findings      {len(self.findings)} ({self.new} new)",
        ]
        if self.deaths:
            lines.append(f"  deaths        a worker was restarted {self.deaths} times")
        return "\n".join([*lines, f"  stored in     {self.store}", *self._replay_lines()])

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


_LISTED = 10
_ENDINGS = {
    "time": "done",
    "runs": "done",
    "interrupted": "interrupted",
    "error": "ended by an error",
}


class Terminal(rich.console.Console):
    """Where a campaign is printed."""

    def on_broken_pipe(self) -> None:
        """Leave it to the caller what becomes of a campaign whose reader is gone."""
        self.quiet = True
        raise BrokenPipeError


class Console:
    """Shows a campaign to a person."""

    def __init__(self, terminal: Terminal, noun: str) -> None:
        self._terminal = terminal
        self._noun = noun
        self._begin = monotonic()
        self._shown = self._begin
        self._findings = 0
        self._live: Live | None = None
        if terminal.is_terminal:
            self._live = Live(console=terminal, auto_refresh=False, transient=True)
            self._live.start()

    def take(self, event: Event, tally: Tally) -> None:
        """Refresh the status line if it is due."""
        if isinstance(event, Notice):
            self._print(Text(event.text))
        now = monotonic()
        every = PLAIN_EVERY if self._live is None else _REFRESH_SECONDS
        if isinstance(event, Finished) or now - self._shown < every:
            return
        self._shown = now
        status = Text(self._status(tally, now - self._begin))
        if self._live is None:
            self._print(status)
        else:
            self._live.update(status, refresh=True)

    def finding(self, finding: Finding, *, is_new: bool, note: str) -> None:
        """Print a finding above the status line."""
        self._findings += 1
        kind = "finding" if is_new else "known finding"
        self._print(Text(f"{kind} {finding.identity}: {finding.message} ({note})"))

    def close(self) -> None:
        """Take the status line away."""
        if self._live is not None:
            self._live.stop()

    def _print(self, text: Text) -> None:
        self._terminal.print(text, soft_wrap=True)

    def _status(self, tally: Tally, seconds: float) -> str:
        rate = tally.executions / seconds if seconds else 0
        minutes, rest = divmod(int(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return (
            f"{hours}:{minutes:02}:{rest:02}  {tally.executions:,} runs  {rate:,.0f}/s  "
            f"findings: {self._findings}  {self._noun}: {_seen_text(tally.seen)}"
        )


def seen_counts(seen: Seen) -> dict[str, int]:
    """Return how many points were seen with each verdict."""
    return {
        "n/a": seen.na.bit_count(),
        "held": seen.held.bit_count(),
        "broken": seen.broken.bit_count(),
        "unknown": seen.unknown.bit_count(),
    }


def _seen_text(seen: Seen) -> str:
    return ", ".join(
        f"{count} {verdict}"
        for verdict, count in seen_counts(seen).items()
        if count or verdict != "unknown"
    )

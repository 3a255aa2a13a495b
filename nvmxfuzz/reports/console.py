# SPDX-License-Identifier: GPL-2.0-only
"""A campaign on the terminal: a live status, findings as they come.

Where the output is no terminal, a plain line every few seconds takes the place of the live one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from time import monotonic

import rich.console
from rich.live import Live
from rich.text import Text

from nvmxfuzz.campaign.events import Event, Finished, Notice
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.reports.live import ago, duration, standing
from nvmxfuzz.reports.summary import JobSummary, seen_counts, seen_text

PLAIN_EVERY = 5.0
"""Seconds between two status lines where the output is no terminal."""

_REFRESH_SECONDS = 0.25


class Terminal(rich.console.Console):
    """Where a campaign is printed."""

    def on_broken_pipe(self) -> None:
        """Leave it to the caller what becomes of a campaign whose reader is gone."""
        self.quiet = True
        raise BrokenPipeError


class Console:
    """Shows a campaign to a person."""

    def __init__(self, terminal: Terminal, jobs: Sequence[JobSummary]) -> None:
        self._terminal = terminal
        self._jobs = jobs
        self._shown = monotonic()
        self._by_oracle: Counter[str] = Counter()
        self._live: Live | None = None
        if terminal.is_terminal:
            self._live = Live(console=terminal, auto_refresh=False, transient=True)
            self._live.start()

    def take(self, event: Event, tally: Tally) -> None:
        """Refresh the status if it is due."""
        if isinstance(event, Notice):
            self._print(Text(event.text))
        now = monotonic()
        every = PLAIN_EVERY if self._live is None else _REFRESH_SECONDS
        if isinstance(event, Finished) or now - self._shown < every:
            return
        self._shown = now
        if self._live is None:
            self._print(Text(self._status(tally)))
        else:
            pending = max(0, len(tally.identities) - self._by_oracle.total())
            status = standing(tally, self._jobs, self._by_oracle, pending)
            self._live.update(status, refresh=True)

    def finding(self, finding: Finding, *, is_new: bool, note: str) -> None:
        """Print a finding above the status."""
        self._by_oracle[finding.oracle] += 1
        kind = "finding" if is_new else "known finding"
        self._print(Text(f"{kind} {finding.identity}: {finding.message} ({note})"))

    def close(self) -> None:
        """Take the status away."""
        if self._live is not None:
            self._live.stop()

    def _print(self, text: Text) -> None:
        self._terminal.print(text, soft_wrap=True)

    def _status(self, tally: Tally) -> str:
        return (
            f"{duration(tally.elapsed)}  {tally.executions:,} runs  {tally.rate:,.0f}/s  "
            f"{_entries(tally)}"
            f"findings: {self._by_oracle.total()}  corpus: {tally.kept:,}  "
            f"last new: {ago(tally, tally.last_new)}  {self._seen(tally)}"
        )

    def _seen(self, tally: Tally) -> str:
        if len(self._jobs) == 1:
            return f"{self._jobs[0].noun}: {seen_text(tally.seen())}"
        counts = (seen_counts(tally.seen(job)) for job in range(len(self._jobs)))
        return f"verdicts seen: {sum(sum(each.values()) for each in counts):,}"


def _entries(tally: Tally) -> str:
    return f"VM entries: {tally.entries:,}  " if tally.entries else ""

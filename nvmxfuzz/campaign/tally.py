# SPDX-License-Identifier: GPL-2.0-only
"""The running totals of a campaign, added up over all workers from their events."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from nvmxfuzz.campaign.events import Died, Ended, Event, Finished, Progress, Seen


@dataclass(slots=True)
class Tally:
    """Totals since the campaign began; `take` each event in turn.

    `sightings` counts by identity how often a finding was seen, `deaths` the workers that died.
    """

    executions: int = 0
    seen: Seen = field(default_factory=Seen)
    deaths: int = 0
    seconds: float | None = None
    _earlier: int = 0
    _current: dict[int, Progress] = field(default_factory=dict)
    _sightings: Counter[str] = field(default_factory=Counter)

    def take(self, event: Event) -> None:
        """Add one event."""
        match event:
            case Progress(worker=worker):
                self._current[worker] = event
                self.seen |= event.seen
                self._add_up()
            case Ended(worker=worker):
                self._retire(worker, None)
            case Died(worker=worker, executions=executions):
                self.deaths += 1
                self._retire(worker, executions)
            case Finished(executions=executions, seconds=seconds):
                self.executions = executions
                self.seconds = seconds
            case _:
                pass

    @property
    def sightings(self) -> Counter[str]:
        """How often each finding was seen, by identity."""
        total = Counter(self._sightings)
        for progress in self._current.values():
            total.update(dict(progress.sightings))
        return total

    def _retire(self, worker: int, executions: int | None) -> None:
        """Keep what a worker did: another one follows under its number, and counts from 0."""
        last = self._current.pop(worker, None)
        if last is not None:
            self._sightings.update(dict(last.sightings))
            self._earlier += last.executions if executions is None else executions
        elif executions is not None:
            self._earlier += executions
        self._add_up()

    def _add_up(self) -> None:
        self.executions = self._earlier + sum(
            progress.executions for progress in self._current.values()
        )

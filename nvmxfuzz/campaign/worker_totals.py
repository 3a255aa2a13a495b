# SPDX-License-Identifier: GPL-2.0-only
"""The totals of one worker: a place in which one process follows another, job by job."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

from nvmxfuzz.campaign.events import Placed, Progress

RATE_SECONDS: Final = 10.0
"""Over how long the speed of a worker is taken."""

_MARK_SECONDS: Final = 0.5

State = Literal["running", "ended", "died"]


@dataclass(slots=True)
class Share:
    """What a worker has done for one job, in all its processes; `progress` is of the last one."""

    worker: int
    job: int
    seed: int = 0
    starts: int = 0
    deaths: int = 0
    state: State = "running"
    progress: Progress | None = None
    begun: float = 0.0
    earlier: int = 0
    earlier_seconds: float = 0.0
    earlier_rerun: int = 0
    earlier_same: int = 0
    earlier_entries: int = 0

    @property
    def executions(self) -> int:
        """How many inputs were executed."""
        return self.earlier + (self.progress.executions if self.progress else 0)

    @property
    def entries(self) -> int:
        """How many VM entries of L1's that were, where an input can bring about many; else 0."""
        return self.earlier_entries + (self.progress.entries if self.progress else 0)

    @property
    def rerun(self) -> int:
        """How many inputs were run again."""
        return self.earlier_rerun + (self.progress.rerun if self.progress else 0)

    @property
    def same(self) -> int:
        """How many of those came to the same behaviour."""
        return self.earlier_same + (self.progress.same if self.progress else 0)

    def seconds(self, now: float) -> float:
        """Return how long its processes have been at work."""
        return self.earlier_seconds + (now - self.begun if self.state == "running" else 0.0)


@dataclass(slots=True)
class WorkerTotals:
    """A worker: what it has done for which job, and the process that is there now."""

    number: int
    job: int = 0
    pid: int = 0
    shares: dict[int, Share] = field(default_factory=dict)
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def share(self) -> Share:
        """What it has done for the job it is at."""
        return self.shares.setdefault(self.job, Share(self.number, self.job))

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self.share.state == "running"

    @property
    def lives(self) -> int:
        """How many processes there were."""
        return sum(share.starts for share in self.shares.values())

    @property
    def executions(self) -> int:
        """What all its processes have executed."""
        return sum(share.executions for share in self.shares.values())

    @property
    def resident(self) -> int:
        """The memory of the process, in bytes."""
        progress = self.share.progress
        return progress.resident if progress else 0

    @property
    def rate(self) -> float:
        """Executions a second, lately."""
        if len(self._marks) < 2:
            return 0.0
        (begin, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - begin) if end > begin else 0.0

    def place(self, event: Placed, now: float) -> None:
        """Take a process that begins."""
        self.job, self.pid = event.job, event.pid
        share = self.share
        share.seed, share.state, share.begun = event.seed, "running", now
        share.starts += 1

    def report(self, progress: Progress, now: float) -> None:
        """Take a report of the process."""
        self.share.progress = progress
        if not self._marks or now - self._marks[-1][0] >= _MARK_SECONDS:
            self._marks.append((now, self.executions))
        while now - self._marks[0][0] > RATE_SECONDS:
            self._marks.popleft()

    def retire(self, executions: int | None, now: float, *, has_died: bool) -> None:
        """Take the end of the process; `executions` are known better than from its last report."""
        share = self.share
        share.earlier_seconds = share.seconds(now)
        share.state = "died" if has_died else "ended"
        share.deaths += has_died
        last, share.progress = share.progress, None
        share.earlier += executions if executions is not None else last.executions if last else 0
        if last is not None:
            share.earlier_rerun += last.rerun
            share.earlier_same += last.same
            share.earlier_entries += last.entries

# SPDX-License-Identifier: GPL-2.0-only
"""Triage of findings in a process beside the campaign, which goes on listening to its workers.

That process (`campaign.second_look_child`) runs no case itself: it has fresh processes for that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe

from nvmxfuzz.campaign.plan import ROOT
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.triage.job import Job, Limits, TriageResult


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of a finding, or why it could not be run; and what its input shows besides.

    That is asked only of an input that a worker died of, and that fresh processes survive: the
    worker may have been killed before it could tell.
    """

    result: TriageResult | None
    reason: str = ""
    besides: tuple[Finding, ...] = ()


class SecondLook:
    """The process, from outside: one finding at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self.is_busy = False

    def begin(self, job: Job, limits: Limits) -> None:
        """Hand a finding over; nothing else may be there."""
        connection = self._connection or self._start()
        self.is_busy = True
        try:
            connection.send((job, limits))
        except OSError:
            return  # `poll` will see it

    def hurry(self) -> None:
        """Ask it to come to an end between two runs, with what there is by then."""
        if self._connection is not None and self.is_busy:
            try:
                self._connection.send(None)
            except OSError:
                return

    def poll(self, seconds: float = 0.0) -> Looked | None:
        """Return what came of the finding, None if it is not there within `seconds`."""
        connection = self._connection
        if connection is None or not self.is_busy:
            return None
        try:
            if not connection.poll(seconds):
                return None
            looked: Looked = connection.recv()
        except (EOFError, OSError):
            self.close()
            return Looked(None, "not run again: the process for that has ended")
        self.is_busy = False
        return looked

    def close(self) -> None:
        """End the process, whatever it is at; its own processes go with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None
        self.is_busy = False

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nvmxfuzz.campaign.second_look_child", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
                # Ctrl-C reaches the whole group of the terminal; this side alone decides on it.
                start_new_session=True,
            )
        self._connection = ours
        return ours

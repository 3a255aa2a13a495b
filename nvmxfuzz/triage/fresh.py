# SPDX-License-Identifier: GPL-2.0-only
"""Cases in a process that has run nothing before: what kills or hangs it is an answer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from nvmxfuzz.campaign.plan import ROOT
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.triage.deaths import HANG, death_finding, reason_of
from nvmxfuzz.triage.examiner import Answer
from nvmxfuzz.triage.job import Limits, Setting

START_SECONDS: Final = 60.0
"""How long a process may take to load a harness and its target."""


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection


class Fresh:
    """One process after the other for the cases of one harness: a new one where the last ended.

    Use it in a `with` statement, or `close` it. `starts` counts the processes, `environment` is
    what they have beside that of this one.
    """

    def __init__(
        self,
        setting: Setting,
        limits: Limits,
        *,
        known_too: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._setting = setting
        self._environment = dict(environment or {})
        self._limits = limits
        self._known_too = known_too
        self._child: _Child | None = None
        self.starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def examine(self, asked: Case | bytes, seconds: float | None = None) -> Answer:
        """Return what is seen of a case, or of an input, within the limit on a case or `seconds`.

        That the process ends or hangs is a finding too. InputError if it cannot be set up.
        """
        answer = self._ask(asked, seconds, runs=True)
        assert isinstance(answer, Answer)
        return answer

    def decode(self, data: bytes) -> Case | None:
        """Return the case that an input is, without running it; None if it is none."""
        answer = self._ask(data, None, runs=False)
        return None if isinstance(answer, Answer) else answer

    def _ask(self, asked: Case | bytes, seconds: float | None, *, runs: bool) -> Answer | Case:
        child = self._child = self._child or self._started()
        try:
            child.connection.send((runs, asked))
            if not child.connection.poll(self._limits.case_seconds if seconds is None else seconds):
                self.close()
                return self._death(HANG)
            answer: Answer | Case | InputError = child.connection.recv()
        except (EOFError, OSError):
            child.connection.close()
            self._child = None
            return self._death(reason_of(child.process.wait()))
        if isinstance(answer, InputError):
            self.close()
            raise answer
        return answer

    def close(self) -> None:
        """End the process, whatever it is at."""
        child, self._child = self._child, None
        if child is not None:
            child.connection.close()
            child.process.kill()
            child.process.wait()

    def _death(self, reason: str) -> Answer:
        name = Path(self._setting.harness).stem
        return Answer((death_finding(name, self._setting.target, reason),))

    def _started(self) -> _Child:
        self.starts += 1
        ours, theirs = Pipe()
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "nvmxfuzz.triage.child", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=os.environ | self._environment | {"PYTHONPATH": os.pathsep.join(path)},
                # Ctrl-C reaches the whole group of the terminal; this side alone decides on it.
                start_new_session=True,
            )
        child = self._child = _Child(process, ours)
        try:
            ours.send((self._setting, self._limits.memory, self._known_too))
            said = ours.recv() if ours.poll(START_SECONDS) else InputError(self._unready())
        except (EOFError, OSError):
            said = InputError(self._unready())
        if said is not None:
            self.close()
            raise said
        return child

    def _unready(self) -> str:
        target = f" on {self._setting.target}" if self._setting.target else ""
        return (
            f"the harness {self._setting.harness}{target} does not get ready in a process of its "
            "own: run it by itself to see why"
        )

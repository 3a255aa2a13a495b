# SPDX-License-Identifier: GPL-2.0-only
"""The outside of a worker process: start it, read its events, see it die or hang, end it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from nvmxfuzz.campaign.events import Ended, WorkerEvent, from_line
from nvmxfuzz.campaign.last_input import LastInput
from nvmxfuzz.campaign.plan import ROOT
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.triage.deaths import reason_of

_CHUNK = 1 << 16
_TAIL = 8000
_UNCAUGHT = "=== Uncaught Python exception: ==="
"""What Atheris prints above the error that ends it."""
START_SECONDS = 60.0
"""How long a worker may take to set itself up: imports, and reading the seeds."""


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended without saying so; see `events.Died`."""

    reason: str
    detail: str
    data: bytes


class WorkerProcess:
    """One worker, as long as its process lives. The caller must `close` it."""

    def __init__(self, file: Path, settings: Settings, case_seconds: float) -> None:
        self._case_seconds = case_seconds
        self._last_input_file = Path(settings.last_input)
        self._last_input_file.unlink(missing_ok=True)
        self._last_input = LastInput(self._last_input_file)
        self._log = Path(settings.folder, "log")
        self._ended = self._hung = self._asked = self._abandoned = False
        self._buffer = b""
        self._position = (0, 0)
        self._moved = self._polled = monotonic()
        self._events, write_end = os.pipe()
        try:
            self._process = _spawn(file, replace(settings, events=write_end), self._log)
        finally:
            os.close(write_end)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def fileno(self) -> int:
        """The pipe that its events come from, for select()."""
        return self._events

    def poll(self, seconds: float) -> tuple[list[WorkerEvent], bool]:
        """Wait up to `seconds` for events; return them, and whether the process still talks."""
        ready, _, _ = select.select([self], [], [], seconds)
        return self.look(is_ready=bool(ready))

    def look(self, *, is_ready: bool) -> tuple[list[WorkerEvent], bool]:
        """Do the same without waiting: `is_ready` says whether there is something to read."""
        open_ = True
        if is_ready:
            data = os.read(self._events, _CHUNK)
            open_ = bool(data)
            self._buffer += data
        elif self._is_hung():
            self._hung = True
            self._process.kill()
        *lines, self._buffer = self._buffer.split(b"\n")
        events = [from_line(line) for line in lines]
        for event in events:
            self._ended |= isinstance(event, Ended)
        return events, open_

    def death(self) -> Death | None:
        """Once it no longer talks: how it died, or None if it came to its end as it should."""
        status = self._process.wait()
        was_told = self._abandoned or (self._asked and status == -signal.SIGTERM)
        if self._ended or (was_told and not self._hung):
            return None
        reason = "hang" if self._hung else reason_of(status)
        return Death(reason, _last_words(self._log), self._last_input.read())

    @property
    def executions(self) -> int:
        """How many inputs it has begun."""
        return self._last_input.number

    def stop(self) -> None:
        """Ask the worker to finish after the current input."""
        self._asked = True
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def abandon(self) -> None:
        """End the worker now, whatever it is doing: that is no death."""
        self._abandoned = True
        self._process.kill()

    def close(self) -> None:
        """End the worker if it lives, and give back what it held."""
        self._process.kill()
        self._process.wait()
        os.close(self._events)
        self._last_input.close()

    def _is_hung(self) -> bool:
        """Whether it has been on one input for too long, while somebody was looking."""
        now = monotonic()
        position = self._last_input.position
        # After a pause of the reader the worker may have waited on a full pipe: start anew.
        if position != self._position or now - self._polled > 1:
            self._position, self._moved = position, now
        self._polled = now
        limit = self._case_seconds if position[0] else START_SECONDS
        return now - self._moved > limit


def _spawn(file: Path, settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | settings.environment()
    path = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, str(file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(settings.events,),
            env=environment,
            # Ctrl-C reaches the whole group of the terminal; the runner alone decides on it.
            start_new_session=True,
        )


def _last_words(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL))
        lines = file.read().decode(errors="replace").strip().splitlines()
    # Behind an error of Python's libFuzzer prints the input: the error says more.
    told = (n + 1 for n, line in enumerate(lines[:-1]) if _UNCAUGHT in line)
    return lines[next(told, -1)][:300] if lines else ""

# SPDX-License-Identifier: GPL-2.0-only
"""Running the tools of a build: a clean environment, one log, and what they say if they fail."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import strsignal
from threading import Lock

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.progress import Progress

SHOWN_LINES = 8

_KEPT = ("HOME", "PATH", "TMPDIR", "USER")
_TELLING = re.compile(
    r"(error|fatal): |undefined|cannot|failed|unexpected|corrupt|no such|no space|\*\*\*", re.I
)
_FULL = "No space left on device"


class StepError(InputError):
    """A tool failed; `lines` are the first that say why."""

    def __init__(self, sentence: str, lines: tuple[str, ...]) -> None:
        super().__init__(sentence)
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs programs that say what they have to say in `log` and keep the lock, `descriptor`."""

    log: Path
    descriptor: int
    progress: Progress
    _turn: Lock = field(default_factory=Lock)

    def run(self, words: Sequence[str], what: str, folder: Path | None = None) -> str:
        """Run a program in a folder, return what it prints on stdout; InputError if it fails.

        `what` is what it does, such as "compiling arch/x86/kvm/x86.c".
        """
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=folder,
            env=tool_environment(),
            pass_fds=(self.descriptor,),
        )
        self.write(f"$ {shlex.join(words)}\n{done.stderr}")
        if done.returncode != 0:
            self.write(f"{done.stdout}\n(exit status {done.returncode})\n")
            raise self.failure(what, f"{done.stderr}\n{done.stdout}", -done.returncode)
        return done.stdout

    def write(self, text: str) -> None:
        """Append to the log; compilers run side by side, each is one piece."""
        with self._turn, self.log.open("a", errors="backslashreplace") as log:
            log.write(text)

    def failure(self, what: str, output: str, number: int = 0) -> StepError:
        """Return the error that says what a tool said, or which signal ended it (above 0)."""
        lines = telling_lines(output)
        reason = "there is no space left on the disk" if _FULL in output else first(lines, number)
        return StepError(f"{what} failed: {reason}; everything is in {self.log}", tuple(lines))


def first(lines: Sequence[str], number: int = 0) -> str:
    """Return the first of the telling lines, else which signal ended the tool, if one did."""
    if lines:
        return lines[0]
    return (strsignal(number) if number > 0 else None) or "it does not say why"


def telling_lines(output: str) -> list[str]:
    """Return the lines from the first that looks like an error on, at most SHOWN_LINES."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    start = next((i for i, line in enumerate(lines) if _TELLING.search(line)), 0)
    return lines[start : start + SHOWN_LINES]


def tool_environment() -> dict[str, str]:
    """Return the environment of the tools: nothing in it that make or a compiler would heed."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "LC_ALL": "C"}

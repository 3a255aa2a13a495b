# SPDX-License-Identifier: GPL-2.0-only
"""What a worker has found, in a file as well: a campaign that is killed has not read it all.

What was written is there whoever is killed. The parent reads it only if it has lost the pipe.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from nvmxfuzz.campaign.events import WorkerEvent, from_line

NAME: Final = "journal"


class Journal:
    """The journal of one process, which begins with it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, line: bytes) -> None:
        """Add a line. On a full disk it is the pipe alone that has it."""
        with suppress(OSError):
            os.write(self._file, line)


def read_journal(path: Path) -> Iterator[WorkerEvent]:
    """Yield the events of a journal, up to where its writer was killed."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for line in content.split(b"\n")[:-1]:
        try:
            yield from_line(line)
        except (ValueError, KeyError, TypeError):
            return  # a disk that was full in the middle of a line

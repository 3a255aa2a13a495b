# SPDX-License-Identifier: GPL-2.0-only
"""What a process has used of the processors, as the kernel counts it: /proc/PID/stat."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
_FIRST: Final = 11
"""utime, behind the name in parentheses; stime, cutime and cstime follow."""


class ProcessorTime:
    """The time of one process, of its threads, and of those of its children that have ended."""

    def __init__(self, pid: int) -> None:
        self._file = Path(f"/proc/{pid}/stat")
        self._seconds = 0.0

    def seconds(self) -> float:
        """Return the time in user and kernel mode; what was last known of it when it is gone."""
        try:
            fields = self._file.read_text().rpartition(")")[2].split()
        except OSError:
            return self._seconds
        self._seconds = sum(map(int, fields[_FIRST : _FIRST + 4])) * _TICK
        return self._seconds

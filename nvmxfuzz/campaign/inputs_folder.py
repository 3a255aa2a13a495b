# SPDX-License-Identifier: GPL-2.0-only
"""The folder of a worker's inputs, in which libFuzzer and the campaign leave new ones."""

from __future__ import annotations

import os
from pathlib import Path

NAME = "inputs"


class InputsFolder:
    """Knows which files were seen; a folder that is not there has none."""

    def __init__(self, folder: Path) -> None:
        """Take what is in the folder now for seen."""
        self._folder = folder
        self._changed = -1
        self._seen: set[str] = set()
        self._names()

    def all(self) -> list[bytes]:
        """Return what was in the folder when this object was made, in order of names."""
        return [Path(self._folder, name).read_bytes() for name in sorted(self._seen)]

    def new(self, most: int) -> list[bytes]:
        """Return what has come since, in order of names: up to `most`, the others next time."""
        names = sorted(self._names())
        if len(names) > most:
            # Look again, though the folder will not have changed.
            self._changed = -1
            self._seen.difference_update(names[most:])
        return [Path(self._folder, name).read_bytes() for name in names[:most]]

    def _names(self) -> list[str]:
        """Return the names that were not seen before; they are, from now on."""
        try:
            # Before it is read: what comes in meanwhile is seen, now or the next time.
            changed = self._folder.stat().st_mtime_ns
            if changed == self._changed:
                return []
            names = [name for name in os.listdir(self._folder) if name not in self._seen]
        except FileNotFoundError:
            return []
        self._changed = changed
        self._seen.update(names)
        return names

# SPDX-License-Identifier: GPL-2.0-only
"""What native code has executed so far, by the counters that libFuzzer reads and clears."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class NativeCoverage:
    """The edges of a part that were seen executed. Nothing is read but what is asked for."""

    def __init__(
        self, counters: Callable[[], tuple[int, int, int]], part: Callable[[], range]
    ) -> None:
        """`counters` is `Harness.counters`, `part` says which of them count as edges."""
        start, _, self.total = counters()
        self.part = part()
        cells = (ctypes.c_uint8 * self.total).from_address(start) if self.total else bytearray()
        self._cells = memoryview(cells).cast("B")
        self._seen = 0
        self.edges = 0

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Give back the counts as they were, whatever is executed meanwhile: that counts as well.

        What is executed begins with counters of 0.
        """
        kept = bytes(self._cells)
        self._add(kept)
        self._cells[:] = bytes(self.total)
        try:
            yield
        finally:
            self._add(bytes(self._cells))
            self._cells[:] = kept

    def counts(self) -> bytes:
        """Return the counters as they are."""
        return bytes(self._cells)

    def clear(self) -> None:
        """Set the counters to 0; what was executed is noted."""
        self._add(bytes(self._cells))
        self._cells[:] = bytes(self.total)

    def _add(self, counts: bytes) -> None:
        seen = self._seen | int.from_bytes(counts, "little")
        if seen != self._seen:
            self._seen = seen
            cells = seen.to_bytes(self.total, "little")[self.part.start : self.part.stop]
            self.edges = len(cells) - cells.count(0)

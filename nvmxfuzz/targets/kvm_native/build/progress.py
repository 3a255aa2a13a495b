# SPDX-License-Identifier: GPL-2.0-only
"""What a build tells whoever shows it."""

from __future__ import annotations


class Progress:
    """Hears of each stage of a build; this one keeps it to itself."""

    def stage(self, text: str, total: int) -> None:
        """Begin a stage that consists of `total` equal parts; it ends where the next begins."""

    def advance(self, parts: int = 1) -> None:
        """Hear that so many parts of the stage are done."""

    def notice(self, text: str) -> None:
        """Hear something that a person should read, of one or more lines."""

# SPDX-License-Identifier: GPL-2.0-only
"""How far a build has come: a bar on a terminal, else a line now and then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from nvmxfuzz.machine.outside import printable
from nvmxfuzz.targets.kvm_native.build.progress import Progress

PLAIN_EVERY = 5.0
"""Seconds between two lines of one stage where the output is no terminal."""


@contextmanager
def shown_progress(stream: TextIO) -> Iterator[Progress]:
    """Show a build on a stream as long as the context lasts."""
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        yield LiveBar(bars)


class Lines(Progress):
    """A line at the beginning of each stage, and every few seconds in a long one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._text = ""
        self._total = self._done = 0
        self._shown = 0.0

    def stage(self, text: str, total: int) -> None:
        """Print the stage."""
        self._text, self._total, self._done = text, total, 0
        self._say(text)

    def advance(self, parts: int = 1) -> None:
        """Print how far it is, if that was long ago."""
        self._done += parts
        if monotonic() - self._shown >= PLAIN_EVERY and self._done < self._total:
            self._say(f"{self._text}: {100 * self._done // self._total} %")

    def notice(self, text: str) -> None:
        """Print the notice."""
        _print_lines(self._console, text)

    def _say(self, text: str) -> None:
        self._shown = monotonic()
        _print_lines(self._console, text)


class LiveBar(Progress):
    """One bar, for the stage that is under way."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, text: str, total: int) -> None:
        """Begin another bar."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(printable(text), total=total)

    def advance(self, parts: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, parts)

    def notice(self, text: str) -> None:
        """Print the notice above the bar."""
        _print_lines(self._bars.console, text)


def _print_lines(console: Console, text: str) -> None:
    """Print lines as they are: nothing in them is taken for markup, nor obeyed by a terminal."""
    for line in text.splitlines():
        console.print(Text(printable(line.expandtabs())), soft_wrap=True)

# SPDX-License-Identifier: GPL-2.0-only
"""What a killed campaign has left beside its store, and what of it belongs into the store.

Findings and kept inputs are in the journals, and nothing is lost by taking them once more. The
inputs that were being executed become part of the corpus: whatever they would have shown, they will
show the next campaign.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nvmxfuzz.campaign import journal
from nvmxfuzz.campaign.events import Found, Kept
from nvmxfuzz.campaign.inputs_folder import NAME
from nvmxfuzz.campaign.last_input import LAST_INPUT, read_last_input

JOB = "job"
"""The file that says what a worker is at: harness, target and engine, a line each."""


@dataclass(frozen=True, slots=True)
class Left:
    """What one worker has left; `target` is "" for none."""

    harness: str
    target: str
    worker: int
    found: tuple[Found, ...]
    inputs: tuple[bytes, ...]


def note_job(folder: Path, harness: str, target: str | None, engine: str) -> None:
    """Note what the worker of a folder is at."""
    (folder / JOB).write_text(f"{harness}\n{target or ''}\n{engine}\n", "utf-8")


def left_behind(folder: Path) -> Iterator[Left]:
    """Yield what the workers of a killed campaign have left in its folder."""
    for place in sorted(folder.glob("worker-*")):
        try:
            harness, target, _ = (place / JOB).read_text("utf-8").split("\n", 2)
            number = int(place.name.partition("-")[2])
        except (OSError, ValueError):
            continue  # killed before there was anything to lose
        events = list(journal.read_journal(place / journal.NAME))
        kept = [event.data for event in events if isinstance(event, Kept)]
        yield Left(
            harness,
            target,
            number,
            tuple(event for event in events if isinstance(event, Found)),
            tuple(dict.fromkeys((*kept, *_lying(place)))),
        )


def _lying(place: Path) -> Iterator[bytes]:
    """Yield the input that was being executed, and what libFuzzer has kept."""
    if (data := read_last_input(place / LAST_INPUT)) is not None:
        yield data
    for path in sorted((place / NAME).glob("*")):
        if path.is_file() and path.stat().st_nlink == 1:
            # The others are links to files of the corpus.
            yield path.read_bytes()

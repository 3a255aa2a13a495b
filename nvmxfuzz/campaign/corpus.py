# SPDX-License-Identifier: GPL-2.0-only
"""The inputs of a running campaign, as files: all workers begin with them, and each adds to them.

Bytes mean a case only on the profiles that a job keeps to, so that there is a folder for each
*dialect*: a harness with a target. An input that one worker keeps is put into the folders of the
others, in their dialect; libFuzzer and the other engines look there while they run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha1
from pathlib import Path
from typing import Final, TypeAlias

from nvmxfuzz.campaign.plan import Job

MOST_INPUTS: Final = 100_000
"""Inputs that are kept of a dialect: beyond, `nvmxfuzz corpus prune` is due."""

Translate: TypeAlias = Callable[[bytes, Job, Job], bytes | None]
"""(data, from, to) -> the same case as an input of another job, None if it cannot be one."""

Dialect: TypeAlias = tuple[Path, str | None]


def dialect_of(job: Job) -> Dialect:
    """Return what an input's meaning depends on."""
    return job.file, job.target


def untranslated(_data: bytes, _one: Job, _other: Job) -> None:
    """Translate nothing: jobs share inputs only within a dialect."""


def name_of(data: bytes) -> str:
    """Return the name of an input's file, as libFuzzer gives it."""
    return sha1(data, usedforsecurity=False).hexdigest()


class Corpus:
    """The folders of all dialects of a plan, below one folder."""

    def __init__(
        self, folder: Path, jobs: Sequence[Job], translate: Translate = untranslated
    ) -> None:
        """Make the folders; OSError if there is no room."""
        self._translate = translate
        self._jobs: dict[Dialect, Job] = {}
        self._folders: dict[Dialect, Path] = {}
        self._counts: dict[Dialect, int] = {}
        for job in jobs:
            dialect = dialect_of(job)
            if dialect not in self._jobs:
                self._jobs[dialect] = job
                self._counts[dialect] = 0
                self._folders[dialect] = folder / f"{len(self._folders)}"
                self._folders[dialect].mkdir(parents=True, exist_ok=True)

    @property
    def size(self) -> int:
        """How many inputs there are."""
        return sum(self._counts.values())

    def add(self, job: Job, data: bytes) -> bool:
        """Keep an input; return whether it was not there yet."""
        dialect = dialect_of(job)
        if self._counts[dialect] >= MOST_INPUTS:
            return False
        try:
            # Nobody else looks into this folder: workers get links, when the file is whole.
            with (self._folders[dialect] / name_of(data)).open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        self._counts[dialect] += 1
        return True

    def fill(self, job: Job, inputs: Iterable[bytes]) -> None:
        """Keep inputs that a campaign begins with."""
        for data in inputs:
            self.add(job, data)

    def spread(self, job: Job, data: bytes) -> Iterator[tuple[Dialect, Path]]:
        """Keep a new input in every dialect of its harness; yield its file where it is new."""
        if not self.add(job, data):
            return
        yield dialect_of(job), self._folders[dialect_of(job)] / name_of(data)
        for dialect, other in self._jobs.items():
            if dialect != dialect_of(job) and other.file == job.file:
                translated = self._translate(data, job, other)
                if translated is not None and self.add(other, translated):
                    yield dialect, self._folders[dialect] / name_of(translated)

    def hand_out(self, job: Job, folder: Path) -> None:
        """Make `folder` anew, with all inputs of the job's dialect."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        with os.scandir(self._folders[dialect_of(job)]) as entries:
            for entry in entries:
                link(Path(entry.path), folder)

    def missing(self, job: Job, folder: Path) -> Iterator[bytes]:
        """Yield what a worker's folder has and the corpus has not: its process has ended."""
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if not (self._folders[dialect_of(job)] / entry.name).exists():
                    yield Path(entry.path).read_bytes()

    def forget(self, job: Job, data: bytes) -> None:
        """Take an input out that ends whoever executes it."""
        with suppress(FileNotFoundError):
            (self._folders[dialect_of(job)] / name_of(data)).unlink()
            self._counts[dialect_of(job)] -= 1


def link(file: Path, folder: Path) -> None:
    """Put a file of the corpus into the folder of a worker, which may be running."""
    try:
        os.link(file, folder / file.name)
    except FileExistsError:
        return  # the worker has made the very same input
    except OSError:
        # A file system without links, or too many of them: whole or not at all.
        shutil.copyfile(file, folder.with_name("arriving"))
        folder.with_name("arriving").replace(folder / file.name)

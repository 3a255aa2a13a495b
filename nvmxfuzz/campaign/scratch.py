# SPDX-License-Identifier: GPL-2.0-only
"""A campaign's folder for temporary files, and the folders that killed campaigns left behind.

Whoever works in such a folder holds a lock on a file in it, which the kernel releases when the
process ends, however it ends: a folder whose lock is free belongs to nobody any more. The number
of a process in the name would say less: campaigns in two containers may share the place, but not
the numbers.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nvmxfuzz.errors import InputError

_PREFIX = "nvmxfuzz-"
_LOCK = "campaign.lock"
_YOUNG_SECONDS = 60
"""The lock is a file first and taken then: a younger file may be about to be locked."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for temporary files; it is removed at the end."""
    try:
        holder = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(
            f"no temporary folder can be made ({error.strerror}): name a place in TMPDIR"
        ) from error
    with holder as name, Path(name, _LOCK).open("wb") as file:
        # Where the file system has no locks, nobody can take this one away either.
        _lock(file.fileno())
        yield Path(name)


def remove_abandoned() -> None:
    """Remove what killed campaigns of this user have left, as far as it can be told for sure."""
    old = time.time() - _YOUNG_SECONDS
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            about = os.fstat(descriptor)
            if about.st_uid == os.geteuid() and about.st_mtime < old and _lock(descriptor):
                shutil.rmtree(lock.parent, ignore_errors=True)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a file until it is closed; return whether nobody else holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

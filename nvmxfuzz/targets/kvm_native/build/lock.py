# SPDX-License-Identifier: GPL-2.0-only
"""One build at a time in a cache."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nvmxfuzz.targets.kvm_native.build.progress import Progress


@contextmanager
def locked(path: Path, progress: Progress) -> Iterator[int]:
    """Hold the lock; wait for it, and say so, if another build has it.

    Yields its descriptor. Programs that inherit it keep the lock: what a killed build has left
    running must end before the next one begins.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.notice("another build is running in this cache: waiting for its end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)

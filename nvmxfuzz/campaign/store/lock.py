# SPDX-License-Identifier: GPL-2.0-only
"""The lock of a store: who holds it runs a campaign on it, or rearranges its corpus.

It is a record lock on an empty file beside the store. The kernel releases it when the process
ends, however it ends, and children do not inherit it, so that none of a killed campaign holds it
on. The store itself is not locked so: closing any other descriptor of it would drop SQLite's own.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from nvmxfuzz.errors import InputError

_FLOCK = "@hhqqi"
"""The `struct flock` of x86-64: type, whence, start, length, process."""


def lock_of(path: Path) -> Path:
    """Return the file that is locked for a store, by whatever name the store goes."""
    return Path(f"{os.path.realpath(path)}-lock")


def lock_store(path: Path) -> int:
    """Lock a store; return the descriptor to close. InputError if another process holds the lock.

    Within one process it excludes nobody.
    """
    lock = lock_of(path)
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(
            f"the store {path} cannot be locked ({lock}: {error.strerror}): make the folder "
            "writable, or name another store"
        ) from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(
            f"the store {path} is in use by another campaign: wait for it, or name another store"
        ) from None
    except OSError:
        # The file system has no locks: then nobody has one.
        return descriptor
    return descriptor


def is_locked(path: Path) -> bool:
    """Tell whether another process holds the lock of a store: its last campaign is running.

    The lock is looked at and not tried, which would be in the way of a campaign that begins. Not
    for the process that holds it: closing the file gives its lock back.
    """
    try:
        descriptor = os.open(lock_of(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        # Nobody has ever locked it, or it is not for us to see.
        return False
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return bool(found[0] != fcntl.F_UNLCK)

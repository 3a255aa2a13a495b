# SPDX-License-Identifier: GPL-2.0-only
"""The lock of a store: who holds it runs a campaign on it, or rearranges its corpus.

It is a record lock on an empty file beside the store. The kernel releases it when the process
ends, however it ends, and children do not inherit it, so that none of a killed campaign holds it
on. The store itself is not locked so: closing any other descriptor of it would drop SQLite's own.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from nvmxfuzz.errors import InputError


def lock_of(path: Path) -> Path:
    """Return the file that is locked for a store."""
    return path.with_name(f"{path.name}-lock")


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
    """Tell whether another process holds the lock of a store: its last campaign is running."""
    try:
        descriptor = os.open(lock_of(path), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        # Nobody has ever locked it; or it is not ours, nor then is the campaign.
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False

# SPDX-License-Identifier: GPL-2.0-only
"""A bound on the address space of this process: beyond it Python raises MemoryError."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def memory_bound(size: int) -> Iterator[None]:
    """Bound the address space to `size` bytes, as that of a worker is, for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (within(size, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def within(size: int, limit: int) -> int:
    """Return `size`, or the limit if that is smaller."""
    return size if limit == resource.RLIM_INFINITY else min(size, limit)

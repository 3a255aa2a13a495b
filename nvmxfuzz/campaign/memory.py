# SPDX-License-Identifier: GPL-2.0-only
"""A bound on the address space of this process: beyond it Python raises MemoryError."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_bound(size: int) -> Iterator[None]:
    """Bound the address space for a while: `size` bytes, as a worker has, beyond what is mapped.

    What is mapped counts extra, since a kernel that was loaded before keeps a GiB for itself.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (within(_mapped() + size, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def memory_uncounted() -> Iterator[None]:
    """Lift the bound of the others for a while; what is mapped then counts extra as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = _mapped()
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        yield
    finally:
        if soft != resource.RLIM_INFINITY:
            soft = within(soft + _mapped() - before, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def bound_memory(size: int) -> None:
    """Bound the address space from now on, likewise, but for what is `memory_uncounted`."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (within(_mapped() + size, hard), hard))


def within(size: int, limit: int) -> int:
    """Return `size`, or the limit if that is smaller."""
    return size if limit == resource.RLIM_INFINITY else min(size, limit)


def resident() -> int:
    """Return how many bytes of memory this process occupies."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize()


def _mapped() -> int:
    """Return how many bytes of addresses this process uses."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    return pages * resource.getpagesize()

# SPDX-License-Identifier: GPL-2.0-only
"""The bound on a process' addresses, and what does not count."""

from __future__ import annotations

from mmap import mmap

import pytest

from nvmxfuzz.campaign.memory import memory_bound, memory_uncounted

SMALL, BOUND, LARGE = 1 << 20, 1 << 27, 1 << 29


def test_what_is_mapped_uncounted_takes_nothing_from_the_bound() -> None:
    with memory_bound(BOUND):
        with pytest.raises(OSError, match="memory"):
            mmap(-1, LARGE)
        with memory_uncounted():
            held = mmap(-1, LARGE)
        mmap(-1, SMALL).close()
        with pytest.raises(OSError, match="memory"):
            mmap(-1, LARGE)
        held.close()
    mmap(-1, LARGE).close()


def test_without_a_bound_there_is_nothing_to_lift() -> None:
    with memory_uncounted():
        mmap(-1, LARGE).close()
    mmap(-1, LARGE).close()

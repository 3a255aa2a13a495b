# SPDX-License-Identifier: GPL-2.0-only
"""What a set of VMX capability MSRs offers L1 as a set of names: to say what another one lacks.

The names are the labels of `bit_names`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from nvmxfuzz.oracles.restore.bit_names import NAMED_MSRS, capabilities


@lru_cache(maxsize=4096)
def names_of(index: int, value: int) -> frozenset[str]:
    """Return what a 64-bit value of an MSR offers; none for an MSR whose bits have no names."""
    if index not in NAMED_MSRS:
        return frozenset()
    found = capabilities(index, value)
    return frozenset(each.label for each in found if each.is_offered(value))


def features(values: Mapping[int, int]) -> frozenset[str]:
    """Return all that these MSRs offer, values by index."""
    return frozenset().union(*(names_of(index, value) for index, value in values.items()))

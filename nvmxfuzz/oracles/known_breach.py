# SPDX-License-Identifier: GPL-2.0-only
"""What a known breach is: where KVM is known not to keep a promise of an oracle, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
"""A version of the kernel, or a pair of source and destination."""


@dataclass(frozen=True, slots=True)
class KnownBreach(Generic[K]):
    """A regular expression that covers whole sites of an oracle, and why KVM is like that.

    `page` is one of docs/findings, if there is one that is about this alone.
    """

    name: str
    oracle: str
    sites: str
    kernels: tuple[K, ...]
    reason: str
    page: str = ""


def covering(
    entries: Sequence[KnownBreach[K]], oracle: str, site: str, kernel: K
) -> KnownBreach[K] | None:
    """Return the entry that covers a site of an oracle in a kernel, None if there is none."""
    for entry in entries:
        if entry.oracle == oracle and kernel in entry.kernels and re.fullmatch(entry.sites, site):
            return entry
    return None

# SPDX-License-Identifier: GPL-2.0-only
"""Where a migration between two KVMs is known to break a promise, and why.

An entry covers sites of one oracle for certain pairs of kernels, and no other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class KnownMigration:
    """A regular expression that covers whole sites of an oracle, and why KVM is like that.

    `kernels` are pairs of source and destination. `page` is that of docs/findings.
    """

    name: str
    oracle: str
    sites: str
    kernels: tuple[Pair, ...]
    reason: str
    page: str


KNOWN: Final = (
    KnownMigration(
        "encls-exiting-5.18",
        "migration.backward",
        "refused secondary: enable ENCLS exiting",
        (("5.18", "6.1"), ("5.18", "6.12")),
        "5.18 offers the control whatever the processor has, and later kernels do not know it then.",
        "migration-encls-exiting",
    ),
)


@cache
def known(oracle: str, site: str, kernels: Pair) -> KnownMigration | None:
    """Return the entry that covers a site of an oracle for a pair of kernels, None without one."""
    for entry in KNOWN:
        if entry.oracle == oracle and kernels in entry.kernels and re.fullmatch(entry.sites, site):
            return entry
    return None

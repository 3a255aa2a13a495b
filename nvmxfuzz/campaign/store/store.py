# SPDX-License-Identifier: GPL-2.0-only
"""The store as an object: open it, write what a campaign saw, read it back.

Each method that writes is one transaction, or a part of one (`together`), so that a process that
is killed at any moment leaves nothing half-written. Whatever SQLite cannot do becomes an
InputError that names the file.
"""

from __future__ import annotations

from pathlib import Path

from nvmxfuzz.campaign.store.campaigns import Campaigns
from nvmxfuzz.campaign.store.findings import Findings
from nvmxfuzz.campaign.store.inputs import Inputs


class Store(Campaigns, Inputs, Findings):
    """A store that is open; use it in a `with` statement, or `close` it."""


def open_store(path: Path, *, create: bool = True) -> Store:
    """Return the store in a file, ready to be written; without `create`, only to be read."""
    return Store(path, read_only=not create)

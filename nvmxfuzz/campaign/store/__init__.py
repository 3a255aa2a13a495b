# SPDX-License-Identifier: GPL-2.0-only
"""Where campaigns and findings are kept: one SQLite file."""

from nvmxfuzz.campaign.store.opening import is_store
from nvmxfuzz.campaign.store.store import WORKER_LIVES, Store, StoredFinding, Verdict, open_store

__all__ = ["WORKER_LIVES", "Store", "StoredFinding", "Verdict", "is_store", "open_store"]

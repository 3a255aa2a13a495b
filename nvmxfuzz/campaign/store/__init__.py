# SPDX-License-Identifier: GPL-2.0-only
"""Where campaigns, their corpus and findings are kept: one SQLite file."""

from nvmxfuzz.campaign.store.opening import is_store
from nvmxfuzz.campaign.store.store import Store, open_store
from nvmxfuzz.campaign.store.values import WORKER_LIVES, StoredFinding, Verdict

__all__ = ["WORKER_LIVES", "Store", "StoredFinding", "Verdict", "is_store", "open_store"]

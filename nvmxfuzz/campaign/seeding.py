# SPDX-License-Identifier: GPL-2.0-only
"""The seed of each worker's engine, from that of the campaign."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

SEED_BITS: Final = 31


def worker_seed(seed: int, resumptions: int, worker: int, life: int) -> int:
    """Return the seed of a worker process: the same for the same place in the same campaign.

    `life` counts the processes that were in this place before: one that died would die again of
    the same inputs. The first worker of a campaign has the campaign's own seed, so that a campaign
    of one worker is named by its seed alone.
    """
    if not (resumptions or worker or life):
        return seed
    text = f"{seed} {resumptions} {worker} {life}".encode()
    return int.from_bytes(sha256(text).digest()[:4], "little") >> (32 - SEED_BITS)

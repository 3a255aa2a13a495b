# SPDX-License-Identifier: GPL-2.0-only
"""The finding that an input ends the process it runs in, or hangs it."""

from __future__ import annotations

import signal
from typing import Final

from nvmxfuzz.campaign.store import WORKER_LIVES
from nvmxfuzz.oracles.finding import Finding

HANG: Final = "hang"


def death_finding(harness: str, target: str | None, reason: str, detail: str = "") -> Finding:
    """Return the finding that a process ended with `reason`, a word that is the same each time.

    `harness` is the name of the harness; `detail` is the last that the process said.
    """
    return Finding(
        oracle=WORKER_LIVES,
        rules=(reason,),
        targets=(harness, target or harness),
        site="",
        message=f"a worker ended with {reason}" + (f": {detail}" if detail else ""),
    )


def reason_of(status: int) -> str:
    """Return how a process ended, by the status that `subprocess` has: "SIGSEGV", "exit 77"."""
    if status >= 0:
        return f"exit {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"

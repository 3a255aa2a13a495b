# SPDX-License-Identifier: GPL-2.0-only
"""Which state of the code a measurement was made with."""

from __future__ import annotations

import subprocess
from typing import Final

from nvmxfuzz.campaign.plan import ROOT

UNKNOWN: Final = "unknown"
_COMMAND: Final = ("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def revision() -> str:
    """Return the commit of the checkout, with "-dirty" for changes that no commit has.

    UNKNOWN where that cannot be told: the harnesses are of a checkout, but git may be missing.
    """
    try:
        done = subprocess.run(_COMMAND, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return done.stdout.strip()

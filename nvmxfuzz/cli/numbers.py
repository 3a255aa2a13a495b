# SPDX-License-Identifier: GPL-2.0-only
"""Numbers on the command line."""

from __future__ import annotations

import argparse
from typing import Final

_MOST: Final = (1 << 63) - 1
"""What a store can have."""


def number(text: str) -> int:
    """Return a number from 0 on, such as that of a campaign."""
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _MOST:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number from 0 on")

# SPDX-License-Identifier: GPL-2.0-only
"""Fields of a processor without Intel 64: what is 64 bits wide elsewhere has 32 there."""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.inputs.repair.draft import LOW_HALF, Draft

_NATURAL: Final = tuple(field.name for field in FIELDS if field.natural)


def narrow_fields(draft: Draft) -> None:
    """Every field of natural width fits the processor's registers."""
    if not draft.long_mode:
        fields = draft.vmcs.__dict__
        for name in _NATURAL:
            fields[name] &= LOW_HALF

# SPDX-License-Identifier: GPL-2.0-only
"""Why a target is known to do otherwise than the rules, by the name of the difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nvmxfuzz.oracles.bochs import known as bochs
from nvmxfuzz.oracles.kvm import known as kvm
from nvmxfuzz.oracles.kvm import known_loop
from nvmxfuzz.oracles.migration import known as migration
from nvmxfuzz.oracles.restore import known as restore
from nvmxfuzz.oracles.session import known as session


def known_reasons() -> Mapping[str, str]:
    """Return for each known difference and breach its sentence, with the reference if any."""
    entries: Iterable[Any] = (
        *(*bochs.KNOWN, *kvm.DIFFERENCES, *known_loop.ENTRIES),
        *(*migration.KNOWN, *restore.KNOWN, *session.KNOWN),
    )
    return {entry.name: _reason(entry) for entry in entries}


def _reason(entry: Any) -> str:  # noqa: ANN401 - entries of four kinds, alike in what is used
    reference = getattr(entry, "reference", "")
    return f'{entry.reason} SDM: "{reference}".' if reference else str(entry.reason)

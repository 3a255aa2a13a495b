# SPDX-License-Identifier: GPL-2.0-only
"""The state-save area in SMRAM, as AMD64 has it: KVM uses that for Intel's processors too."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_SEGMENTS: Final = {"cs": 0xFE10, "ss": 0xFE20, "tr": 0xFE90, "ldtr": 0xFE70}
_PARTS: Final = {"selector": (0, 2), "attributes": (2, 2), "limit": (4, 4), "base": (8, 8)}
SMRAM: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "smbase": (0xFF00, 4),
        "cr0": (0xFF58, 8),
        "cr3": (0xFF50, 8),
        "cr4": (0xFF48, 8),
        "efer": (0xFED0, 8),
        "rflags": (0xFF70, 8),
        "rip": (0xFF78, 8),
        "rsp": (0xFFD8, 8),
        "rax": (0xFFF8, 8),
        "dr6": (0xFF68, 8),
        "dr7": (0xFF60, 8),
        "auto_hlt_restart": (0xFEC9, 1),
        "svm_guest_flag": (0xFED8, 8),
        "io_restart": (0xFEC8, 1),
        "nmi_masked": (0xFECA, 1),
        **{
            f"{name}_{part}": (start + offset, size)
            for name, start in _SEGMENTS.items()
            for part, (offset, size) in _PARTS.items()
        },
    }
)
"""Field -> its offset from SMBASE and its size, in bytes."""

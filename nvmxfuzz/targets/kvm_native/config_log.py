# SPDX-License-Identifier: GPL-2.0-only
"""Which of the model's warnings a line of the kernel log is, told by a few words and the numbers.

The patterns say no more of a line than what tells it from the others of setup_vmcs_config(). A
line that none of them knows is a warning of its own, which no model has.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from nvmxfuzz.kvm.vmcs_config import KernelWarning

UNRECOGNISED: Final = "unrecognised"

_HEX: Final = r"(?:0x)?([0-9a-f]+)"

_PATTERNS: Final = tuple(
    (site, re.compile(pattern))
    for site, pattern in (
        ("evmcs_unsupported", rf"\b(?P<word>\w+_ctrl)\b.*\beVMCS\b\D*{_HEX}$"),
        ("entry_exit_pair", rf"\bpair\b.*=\s*{_HEX}\b.*=\s*{_HEX}$"),
        ("perf_global_ctrl_erratum", r"PERF_GLOBAL_CTRL.*(?i:workaround)"),
        ("ept_cap_without_control", r"\bEPT CAP\b"),
        ("vpid_cap_without_control", r"\bVPID CAP\b"),
    )
)

_NO_WARNING: Final = re.compile(r"\bEnlightened VMCS$")
"""hv_init_evmcs() says that it is used."""


@lru_cache(maxsize=4096)
def warning_of(line: str) -> KernelWarning | None:
    """Return the warning that a line is; None for one that only informs."""
    if _NO_WARNING.search(line):
        return None
    for site, pattern in _PATTERNS:
        found = pattern.search(line.strip())
        if found is not None:
            word = found.groupdict().get("word")
            numbers = found.groups()[1:] if word else found.groups()
            name = f"{site}.{word}" if word else site
            return KernelWarning(name, tuple(int(number, 16) for number in numbers))
    return KernelWarning(f"{UNRECOGNISED}.{line}")

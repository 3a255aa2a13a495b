# SPDX-License-Identifier: GPL-2.0-only
"""Which findings are about the same thing: oracle, rules and site, whatever kernel or harness."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final

from nvmxfuzz.oracles.finding import Finding

_LINE: Final = re.compile(r"(\.[ch]):\d+")
"""The line of a place in a source, which moves from version to version."""


def group_of(finding: Finding) -> str:
    """Return the oracle's name and 8 hexadecimal digits: the same for findings of one group.

    Two findings that differ only in who disagrees with whom, as on another kernel, are of one.
    """
    parts = [finding.oracle, sorted(set(finding.rules)), _LINE.sub(r"\1", finding.site)]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return f"{finding.oracle}-{digest[:8]}"

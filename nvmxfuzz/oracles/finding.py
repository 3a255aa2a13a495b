# SPDX-License-Identifier: GPL-2.0-only
"""A finding: an oracle fired. It knows its own exact identity."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What an oracle reports.

    `rules` are the promises or rules that were broken, `targets` the two sides that disagree,
    `site` is the place where they do (empty where there is none). `message` is for the reader and
    plays no part in the identity.
    """

    oracle: str
    rules: tuple[str, ...]
    targets: tuple[str, str]
    site: str
    message: str

    @property
    def identity(self) -> str:
        """Return the oracle's name and 12 hexadecimal digits: the same for the same finding.

        It depends on the oracle, the set of rules, the pair of targets in order, and the site.
        """
        parts = [self.oracle, sorted(set(self.rules)), list(self.targets), self.site]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return f"{self.oracle}-{digest[:12]}"

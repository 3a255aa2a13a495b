# SPDX-License-Identifier: GPL-2.0-only
"""A campaign for a program: one JSON object a line."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TextIO

from nvmxfuzz.campaign.events import Event, Notice
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.oracles.finding import Finding


class Ndjson:
    """Prints each finding and notice as it comes; the summary is for the caller to print."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def take(self, event: Event, tally: Tally) -> None:  # noqa: ARG002 # the port has it
        """Print a notice; totals are in the summary."""
        if isinstance(event, Notice):
            said = {"event": "notice", "text": event.text}
            print(json.dumps(said), file=self._stream, flush=True)

    def finding(self, finding: Finding, *, is_new: bool, note: str) -> None:
        """Print a finding."""
        line = {
            "event": "finding",
            "identity": finding.identity,
            **asdict(finding),
            "new": is_new,
            "note": note,
        }
        print(json.dumps(line), file=self._stream, flush=True)

    def close(self) -> None:
        """Do nothing: every line is out."""

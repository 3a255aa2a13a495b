# SPDX-License-Identifier: GPL-2.0-only
"""The port through which a campaign is shown: to a person, or to a program."""

from __future__ import annotations

from typing import Protocol

from nvmxfuzz.campaign.events import Event
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.oracles.finding import Finding


class Listener(Protocol):
    """What shows a campaign."""

    def take(self, event: Event, tally: Tally) -> None:
        """Show where the campaign is."""

    def finding(self, finding: Finding, *, is_new: bool, note: str) -> None:
        """Show a finding that has been through triage."""

    def close(self) -> None:
        """Stop showing anything that moves."""

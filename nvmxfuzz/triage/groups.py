# SPDX-License-Identifier: GPL-2.0-only
"""The findings of a store, grouped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nvmxfuzz.campaign.store import StoredFinding
from nvmxfuzz.triage.grouping import group_of


@dataclass(frozen=True, slots=True)
class Group:
    """Findings about the same, in the order in which they were first seen."""

    name: str
    members: tuple[StoredFinding, ...]

    @property
    def oracle(self) -> str:
        """The oracle that fired."""
        return self.members[0].finding.oracle

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules concerned."""
        return tuple(sorted(set(self.members[0].finding.rules)))

    @property
    def site(self) -> str:
        """Where it is, as the first one has it."""
        return self.members[0].finding.site

    @property
    def message(self) -> str:
        """What the first one says."""
        return self.members[0].finding.message

    @property
    def count(self) -> int:
        """How often all campaigns saw it."""
        return sum(each.count for each in self.members)

    @property
    def is_flaky(self) -> bool:
        """Whether some run of every one that was run again did not show it."""
        again = [each.flaky for each in self.members if each.flaky is not None]
        return bool(again) and all(again)

    @property
    def standing(self) -> str:
        """What is known of it in a word: what a replay said comes first."""
        said = {each.status for each in self.members} - {None}
        for status in ("still there", "different", "gone"):
            if status in said:
                return status
        if self.is_flaky:
            return "flaky"
        confirmed = any(each.flaky is False for each in self.members)
        return "seen again" if confirmed else "not run again"

    @property
    def smallest(self) -> str:
        """The smallest case that shows one of them, as TOML; "" if there is none."""
        texts = [text for each in self.members if (text := _case_of(each))]
        return min(texts, key=lambda text: (_size(text), text), default="")

    @staticmethod
    def mark(member: StoredFinding) -> str:
        """Return what came of running one again, in words."""
        if member.reruns:
            shown = f"{member.same} of {member.reruns} runs show it"
            return f"flaky: {shown}" if member.flaky else shown
        return "flaky" if member.flaky else ""

    def to_json(self) -> dict[str, object]:
        """Return the form that --json prints."""
        return {
            "group": self.name,
            "oracle": self.oracle,
            "rules": list(self.rules),
            "site": self.site,
            "message": self.message,
            "count": self.count,
            "flaky": self.is_flaky,
            "standing": self.standing,
            "findings": [_to_json(each) for each in self.members],
            "smallest": self.smallest or None,
        }


def groups_of(findings: Iterable[StoredFinding]) -> tuple[Group, ...]:
    """Return findings in groups: the one that was seen most often first."""
    members: dict[str, list[StoredFinding]] = {}
    for each in findings:
        members.setdefault(group_of(each.finding), []).append(each)
    groups = (Group(name, tuple(found)) for name, found in members.items())
    return tuple(sorted(groups, key=lambda group: (-group.count, group.name)))


def _case_of(stored: StoredFinding) -> str:
    return stored.minimised_text or stored.case_text


def _size(text: str) -> int:
    """Return how long a case is without its note."""
    return sum(len(line) for line in text.splitlines() if not line.startswith("note ="))


def _to_json(stored: StoredFinding) -> dict[str, object]:
    return {
        "identity": stored.identity,
        "harness": stored.harness,
        "targets": list(stored.finding.targets),
        "count": stored.count,
        "reruns": stored.reruns,
        "same": stored.same,
        "flaky": stored.flaky,
        "status": stored.status,
        "first_bad": stored.first_bad,
    }

# SPDX-License-Identifier: GPL-2.0-only
"""What a report on campaigns tells, as frozen values. All that is from a store is bounded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.campaign.store.standing import Standing
from nvmxfuzz.campaign.store.values import Sample, StoredCampaign, StoredFinding
from nvmxfuzz.machine.outside import printable
from nvmxfuzz.reports.reproduction import Reproduction
from nvmxfuzz.targets.kvm_native.line_coverage import FunctionLines
from nvmxfuzz.triage.groups import Group

MOST_GROUPS: Final = 300
"""So many groups of findings have a section of their own; `nvmxfuzz findings` has all."""

MOST_MEMBERS: Final = 50
MOST_ROWS: Final = 3000
MOST_PLACES: Final = 12
MOST_CAMPAIGNS: Final = 50
MOST_WORKERS: Final = 64
LONGEST_TEXT: Final = 1000
LONGEST_CASE: Final = 20_000


@dataclass(frozen=True, slots=True)
class FindingPage:
    """A group of findings, with the page on one of them.

    `told` is None where none was run again; `why` then says why, as a sentence. `programs` are the
    stand-alone reproducers by name of their form. `new` are the identities of those that are new.
    """

    group: Group
    told: Reproduction | None
    why: str
    programs: Mapping[str, str]
    new: frozenset[str]

    @property
    def members(self) -> tuple[StoredFinding, ...]:
        """The findings that are shown."""
        return self.group.members[:MOST_MEMBERS]


@dataclass(frozen=True, slots=True)
class Point:
    """A rule, or another point of harnesses: by place, in order, the verdicts that were seen."""

    name: str
    sentence: str
    section: str
    seen: tuple[frozenset[str], ...]

    @property
    def verdicts(self) -> frozenset[str]:
        """The verdicts that were seen anywhere."""
        return frozenset().union(*self.seen)


@dataclass(frozen=True, slots=True)
class Matrix:
    """The points of one kind, and the verdicts on them. `places` are harness and target."""

    title: str
    places: tuple[str, ...]
    points: tuple[Point, ...]
    left_out: int = 0

    def count(self, verdict: str) -> int:
        """Return how many of the points were seen with a verdict."""
        return sum(verdict in point.verdicts for point in self.points)


@dataclass(frozen=True, slots=True)
class Check:
    """A consistency check of KVM. `kernels` says by kernel "fired", "never" or "not there".

    `names` are those of the check in the model of KVM, `line` where it stands in nested.c of the
    last kernel that has it. `condition` is known of those alone that fired.
    """

    function: str
    names: tuple[str, ...]
    condition: str
    line: int | None
    kernels: tuple[str, ...]
    why_never: str = ""


@dataclass(frozen=True, slots=True)
class Checks:
    """The checks of the kernels that are built, and those that fired on others. In order."""

    kernels: tuple[str, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    def count(self, kernel: str, state: str) -> int:
        """Return how many checks of a kernel are in a state."""
        column = self.kernels.index(kernel)
        return sum(check.kernels[column] == state for check in self.checks)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the corpus of the store reaches of nested.c. `version` is that of the kernel."""

    version: str
    inputs: int
    functions: tuple[FunctionLines, ...]

    @property
    def lines(self) -> int:
        """How many lines have code."""
        return sum(len(each.reached) + len(each.missed) for each in self.functions)

    @property
    def reached(self) -> int:
        """How many of them were executed."""
        return sum(len(each.reached) for each in self.functions)


@dataclass(frozen=True, slots=True)
class KnownSeen:
    """A known difference, how often the campaign saw it, and why KVM or Bochs is like that."""

    name: str
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. `since` is the campaign after which findings count as new."""

    store: str
    standing: Standing
    campaigns: tuple[StoredCampaign, ...]
    samples: tuple[Sample, ...]
    series: Mapping[int, tuple[Sample, ...]]
    since: int
    pages: tuple[FindingPage, ...]
    groups: int
    findings: int
    matrices: tuple[Matrix, ...]
    checks: Checks
    coverage: tuple[Coverage, ...]
    coverage_note: str
    known: tuple[KnownSeen, ...]
    environment: tuple[tuple[str, str], ...]

    @property
    def new(self) -> int:
        """How many findings are new."""
        return sum(len(page.new) for page in self.pages)


def clipped(text: str, most: int = LONGEST_TEXT) -> str:
    """Return a text as far as it is shown, with nothing in it that no document may hold."""
    shown = "\n".join(printable(line) for line in text[:most].split("\n"))
    return shown if len(text) <= most else f"{shown} ... {len(text)} characters"

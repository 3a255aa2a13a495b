# SPDX-License-Identifier: GPL-2.0-only
"""In which kernels a finding shows: the same case on each of those at hand, oldest first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import (
    SESSION_KERNELS,
    Case,
    ConfigCase,
    EntryCase,
    MigrationCase,
    SessionCase,
)
from nvmxfuzz.inputs.layout import KERNELS
from nvmxfuzz.inputs.rebase import rebase
from nvmxfuzz.machine.profile import profile_names
from nvmxfuzz.triage.case_finding import CaseFinding
from nvmxfuzz.triage.examiner import Answer
from nvmxfuzz.triage.fresh import Fresh
from nvmxfuzz.triage.job import Limits, Setting
from nvmxfuzz.triage.standing import same_as

Result: TypeAlias = Literal[
    "shows it", "does not show it", "another finding", "cannot represent it"
]
SHOWS: Final = "shows it"
CLEAN: Final = "does not show it"
ANOTHER: Final = "another finding"
UNREPRESENTED: Final = "cannot represent it"

RUNS: Final = 2
"""How often a kernel may fail to show a finding before that is believed."""

_TARGET: Final = re.compile(r"kvm-(model-)?([0-9.]+)(\+.*)?")
_OFFERED: Final = re.compile(r"kvm-[0-9.]+-(.+)")


@dataclass(frozen=True, slots=True)
class Place:
    """A kernel at hand: as in 6.12, in full, and the environment of a process that has it."""

    kernel: str
    version: str
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def age(self) -> tuple[list[int], list[int]]:
        """What kernels are sorted by, oldest first."""
        words = re.findall(r"\d+", self.version)
        return [int(number) for number in self.kernel.split(".")], [int(word) for word in words]


@dataclass(frozen=True, slots=True)
class OnKernel:
    """What a kernel shows of a case; `known` tells that it is a known difference there."""

    place: Place
    result: Result
    detail: str = ""
    known: bool = False

    def to_json(self) -> dict[str, object]:
        """Return the form that --json prints."""
        return {
            "kernel": self.place.kernel,
            "version": self.place.version,
            "result": self.result,
            "known": self.known,
            "detail": self.detail,
        }


def bisect(
    found: CaseFinding, places: Iterable[Place], limits: Limits | None = None
) -> tuple[OnKernel, ...]:
    """Return what each kernel shows of the smallest case, oldest first.

    InputError if the finding is about no kernel.
    """
    limits = limits or Limits()
    target_on(found, "")
    return tuple(_on(found, place, limits) for place in sorted(places, key=lambda one: one.age))


def first_bad(results: Iterable[OnKernel]) -> OnKernel | None:
    """Return the oldest kernel that shows the finding, None if none does."""
    return next((each for each in results if each.result == SHOWS), None)


def _on(found: CaseFinding, place: Place, limits: Limits) -> OnKernel:
    try:
        setting, case = moved(found, place.kernel)
        answer = Answer(())
        for _ in range(RUNS):
            with Fresh(setting, limits, known_too=True, environment=place.environment) as process:
                answer = process.examine(case)
            there = same_as(found.finding, answer)
            if there is not None:
                return OnKernel(place, SHOWS, there.message, there in answer.known)
    except InputError as error:
        return OnKernel(place, UNREPRESENTED, str(error))
    if answer.unrepresented:
        return OnKernel(place, UNREPRESENTED, answer.unrepresented)
    if answer.identities:
        known = not answer.findings
        return OnKernel(place, ANOTHER, ", ".join(answer.identities), known)
    return OnKernel(place, CLEAN)


def moved(found: CaseFinding, kernel: str) -> tuple[Setting, Case]:
    """Return a case as it is on another kernel, and where it runs there.

    InputError if the finding is about no kernel, or if such a case cannot be of that one.
    """
    setting = replace(found.setting, target=target_on(found, kernel))
    return setting, case_on(found.case, kernel)


def target_on(found: CaseFinding, kernel: str) -> str | None:
    """Return the target of a finding as it is on another kernel; InputError if it has no kernel."""
    target = found.setting.target
    if target is None:
        if isinstance(found.case, EntryCase):
            raise InputError(
                f"{found.finding.identity} is about the rules, and no kernel: there is nothing to "
                "bisect"
            )
        return None
    match = _TARGET.fullmatch(target)
    if match is None:
        raise InputError(
            f"{found.finding.identity} is about {target}, which is no kernel: there is nothing to "
            "bisect"
        )
    return f"kvm-{match[1] or ''}{kernel}{match[3] or ''}"


def case_on(case: Case, kernel: str) -> Case:
    """Return a case as it is on another kernel; InputError if it cannot be."""
    if isinstance(case, EntryCase):
        return _on_hardware(case, kernel)
    kernels = SESSION_KERNELS if isinstance(case, SessionCase) else KERNELS
    if kernel not in kernels:
        raise InputError(f"a {case.harness} is on one of the kernels {', '.join(kernels)}")
    if isinstance(case, ConfigCase):
        return replace(case, kernel=kernel)
    if isinstance(case, MigrationCase):
        return replace(case, destination=replace(case.destination, kernel=kernel))
    return replace(case, world=replace(case.world, kernel=kernel))


def _on_hardware(case: EntryCase, kernel: str) -> EntryCase:
    """Return a VM entry on what the kernel offers L1 on the same hardware."""
    offered = _OFFERED.fullmatch(case.profile.name)
    if offered is None:
        return case
    own = f"kvm-{kernel}-{offered[1]}"
    moved = rebase(case, (own if own in profile_names() else offered[1],))
    assert isinstance(moved, EntryCase)
    return moved

# SPDX-License-Identifier: GPL-2.0-only
"""A finding with a case that shows it, and where: from a store, or from a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from nvmxfuzz.campaign.store import StoredFinding
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.inputs.expectation import Vector
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.shown import Shown
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.targets.registry import all_targets
from nvmxfuzz.triage.job import Setting

_MODEL: Final = "kvm-model-"


@dataclass(frozen=True, slots=True)
class CaseFinding:
    """A finding, where it shows, and what shows it: the smallest case first, or inputs."""

    setting: Setting
    finding: Finding
    inputs: tuple[Case | bytes, ...]

    @property
    def case(self) -> Case:
        """The smallest case; InputError if there is none."""
        for each in self.inputs:
            if not isinstance(each, bytes):
                return each
        raise InputError(f"{self.finding.identity} has no case: its input could not be decoded")


def stored_finding(stored: StoredFinding) -> CaseFinding:
    """Return a finding of a store; InputError if no input of it was kept."""
    text = stored.minimised_text or stored.case_text
    inputs: list[Case | bytes] = []
    if text:
        inputs.append(load_case(text.encode(), stored.identity))
    if stored.data:
        inputs.append(stored.data)
    if not inputs:
        raise InputError(f"{stored.identity} cannot be run again: no input was saved")
    setting = Setting(stored.harness, stored.target or _target_of(stored.finding))
    return CaseFinding(setting, stored.finding, tuple(inputs))


def shown_finding(vector: Vector, target: str | None = None) -> CaseFinding:
    """Return the finding that a file is about, as its table `finding` says.

    `target` takes the place of the one that it names.
    """
    shown = vector.shown
    if shown is None:
        raise InputError("the file has no table `finding`: it says what the case shows")
    finding = Finding(shown.oracle, shown.rules, shown.between, shown.site, vector.note)
    setting = Setting(vector.case.harness, target or shown.target or None)
    return CaseFinding(setting, finding, (vector.case,))


def file_of(found: CaseFinding, *, note: str = "") -> Vector:
    """Return the file that says of the smallest case what it shows, for a corpus of regressions."""
    finding = found.finding
    shown = Shown(
        finding.oracle, finding.rules, finding.targets, finding.site, found.setting.target or ""
    )
    return Vector(replace(found.case, note=note or finding.message), shown=shown)


def _target_of(finding: Finding) -> str | None:
    """Return the second witness of a finding, if it is a target: an old store does not say."""
    names = all_targets()
    sides = [side for side in finding.targets if side in names]
    # Where the model and KVM differ, it is KVM that the model is held against.
    return min(sides, key=lambda side: side.startswith(_MODEL), default=None)

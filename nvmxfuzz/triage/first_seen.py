# SPDX-License-Identifier: GPL-2.0-only
"""What a case shows that says nothing of it: the first finding on the newest kernel at hand."""

from __future__ import annotations

from collections.abc import Iterable

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.triage.bisecting import Place, case_on
from nvmxfuzz.triage.case_finding import CaseFinding
from nvmxfuzz.triage.fresh import Fresh
from nvmxfuzz.triage.job import Limits, Setting


def first_seen(case: Case, target: str | None, places: Iterable[Place]) -> CaseFinding:
    """Return a finding that a case shows, what is known too; InputError if it shows none.

    Without a target, VM entries run on real KVM with the rules below it, sessions on real KVM,
    each on the newest of `places` that shows anything, other cases on the models.
    """
    if target is not None or case.harness not in ("vm_entry", "session"):
        found = _shown(case, Setting(case.harness, target), None)
        if found is not None:
            return found
        raise InputError("the case shows no finding there: there is none to look for")
    for place in sorted(places, key=lambda one: one.age, reverse=True):
        below = "+rules" if case.harness == "vm_entry" else ""
        setting = Setting(case.harness, f"kvm-{place.kernel}{below}")
        found = _shown(case_on(case, place.kernel), setting, place)
        if found is not None:
            return found
    raise InputError("the case shows no finding on any kernel at hand: there is none to look for")


def _shown(case: Case, setting: Setting, place: Place | None) -> CaseFinding | None:
    environment = place.environment if place is not None else None
    with Fresh(setting, Limits(), known_too=True, environment=environment) as process:
        answer = process.examine(case)
    for finding in (*answer.findings, *answer.known):
        return CaseFinding(setting, finding, (case,))
    return None

# SPDX-License-Identifier: GPL-2.0-only
"""What a case shows that says nothing of it: the first finding on the newest kernel at hand."""

from __future__ import annotations

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.targets.kvm_native.build.objects import built_kernels
from nvmxfuzz.triage.bisecting import case_on
from nvmxfuzz.triage.case_finding import CaseFinding
from nvmxfuzz.triage.fresh import Fresh
from nvmxfuzz.triage.job import Limits, Setting


def first_seen(case: Case, target: str | None = None, limits: Limits | None = None) -> CaseFinding:
    """Return a finding that a case shows, what is known too; InputError if it shows none.

    Without a target, VM entries run on real KVM with the rules below it, sessions on real KVM,
    other cases on the models.
    """
    for setting, there in _places(case, target):
        with Fresh(setting, limits or Limits(), known_too=True) as process:
            answer = process.examine(there)
        for finding in (*answer.findings, *answer.known):
            return CaseFinding(setting, finding, (there,))
    raise InputError("the case shows no finding on any kernel at hand: there is none to look for")


def _places(case: Case, target: str | None) -> list[tuple[Setting, Case]]:
    """Return where to look, the newest kernel first."""
    if target is not None or case.harness not in ("vm_entry", "session"):
        return [(Setting(case.harness, target), case)]
    kernels = built_kernels()
    if not kernels:
        raise InputError("no kernel is built to run the case on: run nvmxfuzz build kvm")
    below = "+rules" if case.harness == "vm_entry" else ""
    return [
        (Setting(case.harness, f"kvm-{kernel}{below}"), case_on(case, kernel))
        for kernel in reversed(kernels)
    ]

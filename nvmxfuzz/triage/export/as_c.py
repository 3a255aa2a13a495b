# SPDX-License-Identifier: GPL-2.0-only
"""A VM entry as a C program that stands alone: a selftest of the kernel, or for kvm-unit-tests.

Both prepare a VMCS that enters; the program changes what the case changes of a valid one, executes
the instruction, and holds what comes of it against the outcomes that the SDM permits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.triage.export.environment import environment, one_line, symbol
from nvmxfuzz.triage.export.writes import representable, writes_of

Style = Literal["selftest", "kvm-unit-test"]

_TEMPLATES: Final[Mapping[Style, str]] = {
    "selftest": "selftest.c.j2",
    "kvm-unit-test": "kvm_unit_test.c.j2",
}
_ENTRY_FAILURE: Final = 1 << 31


def to_c(case: EntryCase, style: Style, name: str) -> str:
    """Return the program; `name` is what it is called, such as the identity of a finding.

    InputError, a sentence, where the case changes what such a program cannot.
    """
    judgement = vm_entry(case.attempt)
    writes = writes_of(case)
    representable(case, writes, judgement.permitted)
    resumes = case.attempt.instruction == "vmresume"
    launched = case.attempt.launch_state == "launched"
    if style == "kvm-unit-test" and resumes != launched:
        raise InputError(
            "kvm-unit-tests chooses VMLAUNCH or VMRESUME itself, by the launch state: export it as "
            "selftest"
        )
    rules = [judgement.rules[index] for index in sorted(set(judgement.broken))]
    return (
        environment()
        .get_template(_TEMPLATES[style])
        .render(
            name=one_line(name),
            symbol=symbol(name),
            note=one_line(case.note),
            rules=rules,
            writes=writes,
            spare=any(write.in_spare_page for write in writes),
            permitted=[_condition(outcome) for outcome in judgement.permitted],
            resumes=resumes,
            launched=launched,
        )
    )


def _condition(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as the program tests it."""
    return {
        "text": str(outcome),
        "kind": outcome.kind,
        "number": outcome.number,
        "reason": f"{_ENTRY_FAILURE | outcome.number:#x}",
        "qualification": outcome.qualification,
    }

# SPDX-License-Identifier: GPL-2.0-only
"""Answers of the hardware port, as values; no object is needed."""

from __future__ import annotations

import pytest

from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.machine.outcome import (
    ENTERED,
    FAIL_INVALID,
    Outcome,
    exit_on_entry,
    fail_valid,
    fault,
)
from nvmxfuzz.targets.kvm_native.judged import likeliest, refused
from nvmxfuzz.targets.kvm_native.port import (
    REGISTERS,
    Exit,
    FailedEntry,
    PortFailed,
    Script,
    VmFail,
    action,
)


def written(answer: Exit | FailedEntry) -> dict[int, int]:
    made = action(answer)
    return {made.write[number].field: made.write[number].value for number in range(made.writes)}


def test_an_exit_writes_its_fields_and_clears_the_injected_event() -> None:
    found = written(Exit(12, qualification=5, length=1, fields={"guest_rip": 7}))
    assert found[FIELD_BY_NAME["vm_exit_reason"].encoding] == 12
    assert found[FIELD_BY_NAME["exit_qualification"].encoding] == 5
    assert found[FIELD_BY_NAME["vm_exit_instruction_len"].encoding] == 1
    assert found[FIELD_BY_NAME["vm_entry_intr_info_field"].encoding] == 0
    assert found[FIELD_BY_NAME["guest_rip"].encoding] == 7


def test_a_failed_entry_writes_reason_and_qualification_only() -> None:
    assert written(FailedEntry(33, 4)) == {0x4402: 1 << 31 | 33, 0x6400: 4}


def test_registers_stand_in_the_order_of_the_kernel() -> None:
    made = action(Exit(12, registers={"rax": 1, "rdi": 2, "r15": 3}))
    assert made.registers == 1 | 1 << 7 | 1 << 15
    assert (made.value[0], made.value[7], made.value[15]) == (1, 2, 3)
    assert REGISTERS.index("rcx") == 1


def test_vmfail_carries_its_error() -> None:
    made = action(VmFail(7))
    assert (made.vmfail, made.error) == (1, 7)


def test_what_does_not_fit_is_refused() -> None:
    fields = {f"guest_{segment}_base": 1 for segment in ("es", "cs", "ss", "ds", "fs")}
    with pytest.raises(ValueError, match="13 fields"):
        action(Exit(12, fields=fields))
    with pytest.raises(ValueError, match="65 answers"):
        Script(*[Exit(12)] * 65)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((fail_valid(8), ENTERED), ENTERED),
        ((fail_valid(8), fail_valid(7)), fail_valid(7)),
        ((exit_on_entry(33), fail_valid(7)), fail_valid(7)),
        ((exit_on_entry(34, 2), exit_on_entry(33)), exit_on_entry(33)),
    ],
)
def test_of_several_outcomes_one_is_chosen(
    outcomes: tuple[Outcome, ...], expected: Outcome
) -> None:
    assert likeliest(outcomes) == expected
    assert likeliest(outcomes[::-1]) == expected


def test_an_outcome_becomes_the_answer_of_a_processor() -> None:
    assert refused(FAIL_INVALID) == VmFail(None)
    assert refused(fail_valid(7)) == VmFail(7)
    assert refused(exit_on_entry(33, 2)) == FailedEntry(33, 2)
    with pytest.raises(PortFailed, match="fault 6"):
        refused(fault(6))

# SPDX-License-Identifier: GPL-2.0-only
"""The order of the basic checks, which no single vector shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from nvmxfuzz.cpu.basic import SECTION
from nvmxfuzz.cpu.chapter import Chapter
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt, Instruction, LaunchState
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.machine.profile import load_profile

CHAPTER = Chapter((SECTION,), {})

# Each step of the SDM's list, with what violates it; later steps are reached only without it.
STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("fault 6", {"cs_l": False}),
    ("fault 13", {"cpl": 3}),
    ("fail-invalid", {"current_vmcs_is_shadow": True}),
    ("fail-valid 26", {"blocking_by_mov_ss": True}),
)


def attempt(processor: Mapping[str, Any]) -> Attempt:
    start = base("guest-64", load_profile("skylake-x"))
    return replace(start, processor=replace(start.processor, **processor))


@pytest.mark.parametrize("first", range(len(STEPS)))
def test_the_first_violated_step_decides_whatever_follows(first: int) -> None:
    wrong: dict[str, Any] = {}
    for _, violation in STEPS[first:]:
        wrong |= violation
    judgement = CHAPTER.judge(Entry(replace(attempt(wrong), launch_state="launched")))
    assert [str(outcome) for outcome in judgement.permitted] == [STEPS[first][0]]


@pytest.mark.parametrize(
    ("instruction", "launch_state", "outcome"),
    [
        ("vmlaunch", "clear", "entered"),
        ("vmlaunch", "launched", "fail-valid 4"),
        ("vmresume", "clear", "fail-valid 5"),
        ("vmresume", "launched", "entered"),
    ],
)
def test_the_launch_state_fits_the_instruction(
    instruction: Instruction, launch_state: LaunchState, outcome: str
) -> None:
    case = replace(attempt({}), instruction=instruction, launch_state=launch_state)
    assert [str(found) for found in CHAPTER.judge(Entry(case)).permitted] == [outcome]


def test_without_a_current_vmcs_nothing_is_said_about_it() -> None:
    case = attempt(
        {"current_vmcs": NO_POINTER, "current_vmcs_is_shadow": True, "blocking_by_mov_ss": True}
    )
    judgement = CHAPTER.judge(Entry(replace(case, launch_state="launched")))
    assert judgement.broken_names == ("basic.vmcs.current",)

# SPDX-License-Identifier: GPL-2.0-only
"""Whether an input is the same each time: what it comes to, and the code that it executes."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest

from nvmxfuzz.campaign.closer_look import CloserLook
from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import Case, EntryCase
from nvmxfuzz.machine.outcome import ENTERED, FAIL_INVALID
from nvmxfuzz.machine.profile import load_profile

PLAIN = EntryCase(base("guest-64", load_profile("skylake-x")), "guest-64")
OTHER = (FAIL_INVALID, ENTERED, ENTERED)
SAME = (ENTERED, ENTERED, ENTERED)


@pytest.mark.parametrize(
    ("outcomes", "edges", "same"),
    [
        (SAME, (0, 0, 0), 1),
        (SAME, (1, 0, 0), 1),
        (SAME, (0, 1, 0), 0),
        (SAME, (0, 0, 1), 0),
        (OTHER, (0, 0, 0), 0),
        (OTHER[::-1], (0, 0, 0), 0),
    ],
)
def test_outcomes_are_the_same_from_the_first_run_and_code_from_the_second(
    outcomes: tuple[object, ...], edges: tuple[int, ...], same: int
) -> None:
    cells = (ctypes.c_uint8 * 2)()
    runs = iter(zip(outcomes, edges, strict=True))

    def again(_case: Case) -> object:
        outcome, edge = next(runs)
        cells[edge] = 1
        return outcome

    harness = replace(
        load_harness(harness_file("vm_entry")),
        again=again,
        counters=lambda: (ctypes.addressof(cells), 0, len(cells)),
        nested_counters=lambda: range(len(cells)),
    )
    look = CloserLook(harness, lambda: None)
    look.of(PLAIN)
    assert (look.rerun, look.same) == (1, same)

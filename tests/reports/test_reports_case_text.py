# SPDX-License-Identifier: GPL-2.0-only
"""A case as a table: bounded, and nothing in it that a terminal obeys."""

from dataclasses import replace

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import ZERO, EntryCase
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.reports.case_text import case_rows, to_json, to_text

PROFILE = load_profile("skylake-x")


def text_of(case: EntryCase) -> str:
    return to_text(case, case_rows(case, everything=False))


def test_a_long_value_is_cut_in_the_text_alone() -> None:
    regions = ((0x1000, bytes(100_000)), *((at, b"x") for at in range(0x80000, 0x80100, 2)))
    case = EntryCase(Attempt(PROFILE, Vmcs(), memory=Memory(regions)), ZERO)
    rows = case_rows(case, everything=False)
    (row,) = (line for line in to_text(case, rows).splitlines() if " 0x1000 " in line)
    assert "00" * 32 + "... 100000 bytes" in row
    assert all(len(line) < 200 for line in to_text(case, rows).splitlines())
    assert any(row.value == "00" * 100_000 for row in rows)
    assert "00" * 100_000 in str(to_json(case, rows))


def test_a_short_value_is_whole() -> None:
    case = EntryCase(Attempt(PROFILE, Vmcs(), memory=Memory(((0x1000, bytes(32)),))), ZERO)
    assert "00" * 32 + "  (base" in text_of(case)


def test_control_characters_are_escaped() -> None:
    mine = replace(PROFILE, name="a\x1b[2J\u202e\nb")
    text = text_of(EntryCase(base("guest-64", mine), "guest-64", "one\x1b]0;x\x07\ntwo\r"))
    assert text.splitlines() == [
        "vm_entry: profile a\\x1b[2J\\u202e\\nb, base guest-64",
        "one\\x1b]0;x\\x07",
        "two\\r",
        "  as the base",
    ]

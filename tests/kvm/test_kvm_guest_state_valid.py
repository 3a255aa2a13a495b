# SPDX-License-Identifier: GPL-2.0-only
"""vmx_guest_state_valid(): the segments that KVM knows hardware cannot enter with, and the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pytest

from nvmxfuzz.arch.registers import Cr0
from nvmxfuzz.kvm.entry_run import NestedEntry
from nvmxfuzz.kvm.guest_memory import GuestMemory
from nvmxfuzz.kvm.guest_state_valid import guest_segments_valid
from nvmxfuzz.kvm.vcpu import Kvm
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outcome import ENTERED, exit_on_entry

Launch: TypeAlias = Callable[..., NestedEntry]

PROTECTED = int(Cr0.PE | Cr0.PG)
FLAT = {
    **{f"guest_{name}_selector": 0x18 for name in ("ss", "ds", "es", "fs", "gs")},
    **{f"guest_{name}_ar_bytes": 0xC093 for name in ("ss", "ds", "es", "fs", "gs")},
    "guest_cs_selector": 0x10,
    "guest_cs_ar_bytes": 0xA09B,
    "guest_tr_selector": 0x40,
    "guest_tr_ar_bytes": 0x8B,
    "guest_ldtr_selector": 0,
    "guest_ldtr_ar_bytes": 0x1_0000,
}
VIRTUAL_8086 = {
    **{f"guest_{name}_selector": 0x1000 for name in ("cs", "ss", "ds", "es", "fs", "gs")},
    **{f"guest_{name}_base": 0x1_0000 for name in ("cs", "ss", "ds", "es", "fs", "gs")},
    **{f"guest_{name}_limit": 0xFFFF for name in ("cs", "ss", "ds", "es", "fs", "gs")},
    **{f"guest_{name}_ar_bytes": 0xF3 for name in ("cs", "ss", "ds", "es", "fs", "gs")},
}
VM = 1 << 17


@pytest.mark.parametrize(
    ("edits", "valid"),
    [
        ({}, True),
        ({"guest_cs_selector": 0x13}, False),
        ({"guest_cs_selector": 0x13, "guest_ss_selector": 0x1B}, False),
        ({"guest_cs_ar_bytes": 0xA093}, False),
        ({"guest_cs_ar_bytes": 0x1_A09B}, False),
        ({"guest_cs_ar_bytes": 0xA08B}, False),
        ({"guest_cs_ar_bytes": 0xA0FB}, False),
        ({"guest_cs_ar_bytes": 0xA09F}, True),
        ({"guest_cs_ar_bytes": 0xA01B}, True),
        ({"guest_ss_ar_bytes": 0x1_C093}, True),
        ({"guest_ss_ar_bytes": 0xC091}, False),
        ({"guest_ss_ar_bytes": 0xC0F3}, False),
        ({"guest_ds_ar_bytes": 0x1_0000}, True),
        ({"guest_ds_ar_bytes": 0xC083}, False),
        ({"guest_ds_selector": 0x1B}, False),
        ({"guest_ds_selector": 0x1B, "guest_ds_ar_bytes": 0xC09F}, True),
        ({"guest_tr_ar_bytes": 0x83}, True),
        ({"guest_tr_ar_bytes": 0x89}, False),
        ({"guest_tr_ar_bytes": 0x1_008B}, False),
        ({"guest_tr_selector": 0x44}, False),
        ({"guest_ldtr_ar_bytes": 0x82}, True),
        ({"guest_ldtr_ar_bytes": 0x8B}, False),
        ({"guest_ldtr_ar_bytes": 0x82, "guest_ldtr_selector": 4}, False),
    ],
)
def test_segments_of_protected_mode(edits: dict[str, int], valid: bool) -> None:
    assert guest_segments_valid({**FLAT, **edits}, PROTECTED, 2) is valid


@pytest.mark.parametrize(
    ("edits", "valid"),
    [
        ({}, True),
        ({"guest_ds_base": 0x2_0000}, False),
        ({"guest_ds_limit": 0xFFFE}, False),
        ({"guest_ds_ar_bytes": 0x9B}, False),
        ({"guest_cs_ar_bytes": 0xFB}, True),
        ({"guest_es_ar_bytes": 0x1_00F3}, False),
        ({"guest_es_ar_bytes": 0x93}, True),
    ],
)
def test_segments_of_virtual_8086_mode(edits: dict[str, int], valid: bool) -> None:
    assert guest_segments_valid({**VIRTUAL_8086, **edits}, PROTECTED, 2 | VM) is valid
    assert guest_segments_valid({**VIRTUAL_8086, **edits}, 0, 2) is valid


def test_whose_segments_are_not_judged(launch: Launch) -> None:
    bad = {"guest_cs_ar_bytes": 0xA093}
    assert launch(bad).outcome == exit_on_entry(33)
    unrestricted = {"cpu_based_vm_exec_control": 1 << 31, "secondary_vm_exec_control": 0x82}
    assert launch(bad, unrestricted).outcome == ENTERED
    assert launch(bad, version="4.20").outcome == ENTERED

    def restricted(kvm: Kvm) -> Kvm:
        return replace(kvm, params=replace(kvm.params, unrestricted_guest=False))

    assert launch(bad, version="4.20", kvm=restricted).outcome == exit_on_entry(33)


def test_memory_is_where_the_slots_are() -> None:
    memory = GuestMemory(Memory(((0x1FFE, b"\1\2\3\4"),)), ((0x1000, 0x2000),))
    assert memory.read(0x1FFD, 6) == b"\0\1\2\3\4\0"
    assert memory.read_int(0x2000, 2) == 0x0403
    assert memory.read(0xFFF, 2) is None
    assert memory.read(0x2FFF, 2) is None
    assert memory.write(0x2FFE, b"ab")
    assert not memory.write(0x2FFF, b"ab")
    assert memory.read(0x2FFD, 3) == b"\0ab"

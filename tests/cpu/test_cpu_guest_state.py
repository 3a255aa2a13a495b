# SPDX-License-Identifier: GPL-2.0-only
"""RIP, RFLAGS, non-register state and PDPTEs over whole tables, which vectors only sample."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.profile import load_profile

PDPTES = 0x24000
EPT = {"cpu_based_vm_exec_control": 0x84006172, "secondary_vm_exec_control": 2}
HLT, SHUTDOWN, WAIT_FOR_SIPI = 1, 2, 3
STI, MOV_SS = 1, 2
TF, IF = 0x100, 0x200


def broken(start: str, profile: str = "skylake-x", /, **fields: int) -> set[str]:
    attempt = base(start, load_profile(profile))
    return set(vm_entry(replace(attempt, vmcs=attempt.vmcs.replace(fields))).broken_names)


def test_each_bit_of_rflags() -> None:
    reserved = {3, 5, 15, *range(22, 64)}
    for bit in set(range(64)) - {17}:
        expected = {1: {"guest.rflags.fixed-1"}}.get(bit, set())
        if bit in reserved:
            expected = {"guest.rflags.reserved"}
        assert broken("guest-64", guest_rflags=2 ^ 1 << bit) == expected


def test_each_bit_of_rip() -> None:
    for bit in range(64):
        high = {"guest.rip.high"} if bit >= 32 else set()
        beyond = {"guest.rip.linear-address"} if bit >= 48 else set()
        assert broken("guest-32", guest_rip=1 << bit) == high
        assert broken("guest-64", guest_rip=1 << bit) == beyond
        assert broken("guest-64", guest_rip=1 << bit, guest_cs_ar_bytes=0xC09B) == high
    assert broken("guest-64", guest_rip=0xFFFF_0000_0000_0000) == set()


@pytest.mark.parametrize(
    ("state", "rule", "allowed"),
    [
        (HLT, "guest.activity.hlt-event", {0x80000301, 0x80000312, 0x80000700}),
        (SHUTDOWN, "guest.activity.shutdown-event", {0x80000312}),
        (WAIT_FOR_SIPI, "guest.activity.wait-for-sipi-event", set()),
    ],
)
def test_events_that_reach_an_inactive_guest(state: int, rule: str, allowed: set[int]) -> None:
    # HLT lets an external interrupt through, HLT and shutdown an NMI, whatever the vector.
    interrupts = set(range(0x80000000, 0x80000100))
    nmis = set(range(0x80000200, 0x80000220))
    expected = allowed | {HLT: interrupts | nmis, SHUTDOWN: nmis}.get(state, set())
    events = interrupts | {0x80000000 | kind << 8 | v for kind in range(1, 8) for v in range(32)}
    legal = {
        event
        for event in events
        if rule
        not in broken(
            "guest-64",
            guest_activity_state=state,
            guest_rflags=2 | IF,
            vm_entry_intr_info_field=event,
        )
    }
    assert legal == expected


def test_an_event_that_is_not_valid_is_none() -> None:
    names = broken("guest-64", guest_activity_state=WAIT_FOR_SIPI, vm_entry_intr_info_field=0x306)
    assert names == set()


@pytest.mark.parametrize("where", ["sti", "mov-ss", "hlt", "running"])
@pytest.mark.parametrize("trap", [0, TF])
@pytest.mark.parametrize("branches", [0, 2])
def test_single_step_pending(where: str, trap: int, branches: int) -> None:
    state = {
        "sti": {"guest_interruptibility_info": STI},
        "mov-ss": {"guest_interruptibility_info": MOV_SS},
        "hlt": {"guest_activity_state": HLT},
        "running": {},
    }[where]
    flags = {"guest_rflags": 2 | IF | trap, "guest_ia32_debugctl": branches}
    without = broken("guest-64", guest_pending_dbg_exceptions=0, **state, **flags)
    pending = broken("guest-64", guest_pending_dbg_exceptions=0x4000, **state, **flags)
    if where == "running":
        assert without == pending == set()
    elif trap and not branches:
        assert (without, pending) == ({"guest.pending-debug.bs-set"}, set())
    else:
        assert (without, pending) == (set(), {"guest.pending-debug.bs-clear"})


def test_each_bit_of_the_pending_debug_exceptions() -> None:
    legal = {bit for bit in range(64) if not broken("guest-64", **pending(1 << bit))}
    assert legal == {0, 1, 2, 3, 12, 14}
    rich = {bit for bit in range(64) if not broken("guest-64", "everything", **pending(1 << bit))}
    # Bit 16 (RTM) is legal too, but not alone.
    assert rich == legal | {11}
    assert broken("guest-64", "everything", **pending(0x11000)) == set()


def pending(value: int) -> dict[str, int]:
    return {"guest_pending_dbg_exceptions": value}


@pytest.mark.parametrize("number", range(4))
def test_each_bit_of_a_pdpte(number: int) -> None:
    """40 physical-address bits; an entry that is not present may hold anything."""
    reserved = {1, 2, 5, 6, 7, 8, *range(40, 64)}
    field = f"guest_pdptr{number}"
    for bit in range(1, 64):
        expected = {f"pdpte.vmcs.entry-{number}"} if bit in reserved else set()
        assert broken("guest-pae", **EPT, **{field: 1 | 1 << bit}) == expected
        assert broken("guest-pae", **EPT, **{field: 1 << bit}) == set()
        expected = {f"pdpte.memory.entry-{number}"} if bit in reserved else set()
        assert broken_in_memory(number, 1 | 1 << bit) == expected
        assert broken_in_memory(number, 1 << bit) == set()


def broken_in_memory(number: int, entry: int) -> set[str]:
    attempt = base("guest-pae", load_profile("skylake-x"))
    table = bytearray(32)
    table[8 * number : 8 * number + 8] = entry.to_bytes(8, "little")
    return set(vm_entry(replace(attempt, memory=Memory.of({PDPTES: bytes(table)}))).broken_names)


def test_pae_tables_are_32_byte_aligned() -> None:
    attempt = base("guest-pae", load_profile("skylake-x"))
    table = bytes(32) + (2).to_bytes(8, "little") + (3).to_bytes(8, "little") + bytes(16)
    edited = replace(
        attempt,
        memory=Memory.of({PDPTES: table}),
        vmcs=attempt.vmcs.replace({"guest_cr3": PDPTES + 0x3F}),
    )
    assert vm_entry(edited).broken_names == ("pdpte.memory.entry-1",)

# SPDX-License-Identifier: GPL-2.0-only
"""The oracle fires on every kind of disagreement, and on none of the known ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry, fail_valid, fault
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.bochs.agreement import NAME, agreement, compare
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.targets.base import Message, Observation, died, no_opinion, not_representable

RFLAGS = "VMENTER FAIL: RFLAGS reserved bits are set"
BASE = "VMENTER FAIL: VMCS guest FS.BASE non canonical"


def case(**fields: int) -> EntryCase:
    plain = base("guest-64", load_profile("skylake-x"))
    return EntryCase(replace(plain, vmcs=plain.vmcs.replace(fields)), "guest-64")


def saying(outcome: Outcome, *templates: str) -> Observation:
    messages = tuple(Message(text.replace("FS", "%s"), text) for text in templates)
    return Observation("outcome", (outcome,), messages=messages)


def check(
    given: EntryCase,
    seen: Observation,
    run: Callable[[Attempt], Judgement] = vm_entry,
) -> Finding | None:
    return agreement(lambda _: seen).check(given, run)


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({}, saying(ENTERED)),
        ({"guest_rflags": 0xA}, saying(exit_on_entry(33), RFLAGS)),
        ({"guest_rflags": 0xA, "guest_fs_base": 1 << 47}, saying(exit_on_entry(33), BASE)),
        ({"guest_rip": 1 << 48}, saying(ENTERED)),
        ({}, not_representable("why")),
        ({}, no_opinion("why")),
        ({}, died("why")),
    ],
)
def test_no_finding(fields: dict[str, int], seen: Observation) -> None:
    assert check(case(**fields), seen) is None


def test_bochs_may_be_stricter_than_unknown_rules() -> None:
    given = case(guest_ia32_debugctl=0x4, vm_entry_controls=0x13FF)
    open_case = EntryCase(
        replace(given.attempt, profile=replace(load_profile("skylake-x"), debugctl_mask=None))
    )
    judgement = vm_entry(open_case.attempt)
    assert judgement.unknown_names == ("guest.debugctl.reserved",)
    assert compare(judgement, saying(ENTERED), open_case.attempt).relation == "agreed"


@pytest.mark.parametrize(
    ("fields", "seen", "site"),
    [
        ({"guest_rflags": 0xA}, saying(ENTERED), "outcome: entered: no message"),
        ({}, saying(exit_on_entry(33), RFLAGS), f"outcome: exit 33 qualification 0: {RFLAGS}"),
        ({}, saying(fault(13)), "outcome: fault 13: no message"),
        (
            {"guest_rflags": 0xA},
            saying(exit_on_entry(33), BASE),
            "reason: exit 33 qualification 0: VMENTER FAIL: VMCS guest %s.BASE non canonical",
        ),
        (
            {"guest_rflags": 0xA},
            saying(exit_on_entry(33), "a message of tomorrow"),
            "reason: exit 33 qualification 0: a message of tomorrow",
        ),
        (
            {"guest_rflags": 0xA},
            saying(exit_on_entry(33)),
            "reason: exit 33 qualification 0: no message",
        ),
    ],
)
def test_finding(fields: dict[str, int], seen: Observation, site: str) -> None:
    finding = check(case(**fields), seen)
    assert finding is not None
    assert (finding.oracle, finding.targets, finding.site) == (NAME, ("cpu", "bochs"), site)


def test_a_known_difference_explains_only_what_it_covers() -> None:
    """Bochs does not check RIP, but must still refuse the RFLAGS beside it."""
    both = case(guest_rip=1 << 48, guest_rflags=0xA)
    assert check(both, saying(exit_on_entry(33), RFLAGS)) is None
    finding = check(both, saying(ENTERED))
    assert finding is not None
    assert finding.rules == ("guest.rflags.reserved",)


def without(rule: str) -> Callable[[Attempt], Judgement]:
    """Return a witness that has forgotten a rule."""
    forgotten = CHAPTER.index[rule]

    def witness(attempt: Attempt) -> Judgement:
        judgement = vm_entry(attempt)
        left = tuple(index for index in judgement.broken if index != forgotten)
        return replace(judgement, broken=left)

    return witness


@pytest.mark.parametrize(
    "fields", [{"guest_rflags": 0xA}, {"guest_rflags": 0xA, "guest_rip": 1 << 48}]
)
def test_a_planted_fault_is_found(fields: dict[str, int]) -> None:
    given, seen = case(**fields), saying(exit_on_entry(33), RFLAGS)
    assert check(given, seen) is None
    assert check(given, seen, without("guest.rflags.reserved")) is not None


def test_identity_knows_the_site_and_not_the_values() -> None:
    one = check(case(guest_rflags=0xA), saying(ENTERED))
    two = check(case(guest_rflags=0x8002), saying(ENTERED))
    other = check(case(guest_rflags=0x0), saying(ENTERED))
    assert one is not None
    assert two is not None
    assert other is not None
    assert one.identity == two.identity != other.identity


def test_the_place_in_the_msr_list_is_no_part_of_the_site() -> None:
    sites = set()
    for place in (1, 2):
        seen = saying(exit_on_entry(34, place), "VMX LoadMSRs %d: broken msr index 0x%lx")
        finding = check(case(), seen)
        assert finding is not None
        sites.add(finding.identity)
    assert len(sites) == 1


def test_other_errors_are_other_sites() -> None:
    one, two = check(case(), saying(fail_valid(7))), check(case(), saying(fail_valid(8)))
    assert one is not None
    assert two is not None
    assert one.identity != two.identity


def test_beyond_the_recommended_length_of_a_list_any_load_may_fail() -> None:
    plain = base("guest-64", load_profile("skylake-x"))
    slot = (0x174).to_bytes(8, "little") + bytes(8)
    attempt = replace(
        plain,
        vmcs=plain.vmcs.replace({"vm_entry_msr_load_count": 600}),
        memory=Memory.of({plain.vmcs.vm_entry_msr_load_addr: slot * 599}),
    )
    judgement = vm_entry(attempt)
    assert judgement.permitted == (ENTERED, exit_on_entry(34, 513))
    for place in (513, 514, 600):
        seen = saying(exit_on_entry(34, place), "VMX LoadMSRs %d: broken msr index 0x%016lx")
        relation = compare(judgement, seen, attempt).relation
        assert relation == ("unexplained" if place == 513 else "agreed"), place


def test_an_msr_list_that_wraps_goes_on_where_no_memory_can_be() -> None:
    # Found by a campaign: Bochs lets the end of the list wrap, and reads ones beyond bit 39, where
    # the case has bytes that no processor of 40 address bits could have.
    plain = base("guest-64", load_profile("skylake-x"))
    top = (1 << 40) - 16
    slot = (0x174).to_bytes(8, "little") + bytes(8)
    fields = {"vm_entry_msr_load_addr": top, "vm_entry_msr_load_count": 0x1000_0000}
    attempt = replace(
        plain, vmcs=plain.vmcs.replace(fields), memory=Memory.of({top: slot + slot[:8]})
    )
    judgement = vm_entry(attempt)
    assert judgement.permitted == (fail_valid(7),)
    reserved = "VMX LoadMSRs %d: broken msr index 0x%lx"
    found = compare(judgement, saying(exit_on_entry(34, 2), reserved), attempt)
    assert (found.relation, found.known) == ("known", ("bochs.entry.msr-load-end",))
    other = compare(judgement, saying(exit_on_entry(34, 3), reserved), attempt)
    assert other.relation == "unexplained"

# SPDX-License-Identifier: GPL-2.0-only
"""The oracles over VM entry on KVM fire on every planted fault, and on nothing that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry, fail_valid, fault
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.kvm.entry import compare, compare_merged, kvm_oracles
from nvmxfuzz.oracles.kvm.known import tables_of
from nvmxfuzz.oracles.kvm.witness import Once
from nvmxfuzz.targets.base import Message, Observation, died, no_opinion, observed

VIRTUAL = load_profile("skylake-x")
TABLES = tables_of("kvm-6.12")
CHECK = "vmcs12->field != 0 in nested_check_something"
PLACE = "nested_check_something 87702a3f"

Says = Callable[[Attempt], Observation]


def like(judge: Callable[[Attempt], Judgement]) -> Says:
    """Return a witness that does the first thing a judgement permits, and says one check."""

    def says(attempt: Attempt) -> Observation:
        outcome = judge(attempt).permitted[0]
        return observed(outcome, () if outcome == ENTERED else (Message(CHECK, CHECK),))

    return says


class FakeKvm:
    """Does what is known of KVM, or what it is told; counts what it is asked."""

    name = "kvm-6.12"

    def __init__(
        self,
        software: Says | None = None,
        end: Says | None = None,
        virtual: Profile | None = None,
    ) -> None:
        self._software = software or like(TABLES.software.judge)
        self._end = end or like(TABLES.end.judge)
        self._virtual = virtual
        self.asked: list[str] = []

    def virtual(self, profile: Profile) -> Profile:
        """Return the virtual processor."""
        return self._virtual or profile

    def run(self, attempt: Attempt) -> Observation:
        """Return what the software makes of it."""
        self.asked.append("run")
        return self._software(attempt)

    def on_hardware(self, attempt: Attempt) -> Observation:
        """Return what L1 sees in the end."""
        self.asked.append("on_hardware")
        return self._end(attempt)


def case(**fields: int) -> EntryCase:
    plain = base("guest-64", VIRTUAL)
    return EntryCase(replace(plain, vmcs=plain.vmcs.replace(fields)), "guest-64")


def always(outcome: Outcome, *messages: str) -> Says:
    return lambda _: observed(outcome, tuple(Message(text, text) for text in messages))


def ask(
    kvm: FakeKvm, given: EntryCase, run: Callable[[Attempt], Judgement] = vm_entry
) -> list[Finding]:
    always_asked, others = kvm_oracles(kvm)
    found = [oracle.check(given, run) for oracle in (*always_asked, *others)]
    return [finding for finding in found if finding is not None]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"vm_exit_controls": 0},
        {"guest_cr0": 0},
        {"guest_rflags": 0xA},
        {"guest_activity_state": 1, "guest_ss_ar_bytes": 0xC0F3},
        {"guest_rflags": 0xA, "guest_activity_state": 1},
    ],
)
def test_what_is_known_is_no_finding(fields: dict[str, int]) -> None:
    assert ask(FakeKvm(), case(**fields)) == []


def test_the_processor_is_asked_only_where_software_lets_pass() -> None:
    always_asked, others = kvm_oracles(kvm := FakeKvm())
    for fields, asked in (
        ({}, ["run"]),
        ({"vm_exit_controls": 0}, ["run"]),
        ({"guest_rflags": 0xA}, ["run"]),
        ({"host_cr3": 1 << 60, "guest_activity_state": 1}, ["run"]),
    ):
        kvm.asked.clear()
        given = case(**fields)
        assert [oracle.check(given, vm_entry) for oracle in always_asked] == [None] * 4
        assert kvm.asked == asked
    for fields in ({}, {"guest_rflags": 0xA}):
        kvm.asked.clear()
        given = case(**fields)
        assert [oracle.check(given, vm_entry) for oracle in others] == [None] * 3
        assert kvm.asked == ["run", "on_hardware"]


# A missed check, by who refuses the entry later

BAD_HOST = {"host_cr3": 1 << 60}


@pytest.mark.parametrize(
    ("end", "site"),
    [
        (always(fail_valid(8)), "later: hardware"),
        (always(exit_on_entry(33)), "later: hardware otherwise: exit 33 qualification 0"),
        (always(ENTERED), "later: nobody"),
        (lambda _: no_opinion("why"), "later: not known"),
    ],
)
def test_a_missed_check_says_who_refuses_later(end: Says, site: str) -> None:
    found, *_ = ask(FakeKvm(always(ENTERED), end), case(**BAD_HOST))
    assert (found.oracle, found.site) == ("entry.no-missed-check", site)
    assert found.rules == ("host.cr3.width",)
    assert found.targets == ("cpu", "kvm-6.12")


def test_a_check_at_a_later_stage_is_missed() -> None:
    (found,) = ask(FakeKvm(always(exit_on_entry(33), CHECK)), case(**BAD_HOST))
    assert found.oracle == "entry.no-missed-check"
    assert found.site == "later: KVM itself: exit 33 qualification 0"


def test_what_is_left_to_the_processor_must_end_as_the_rules_say() -> None:
    (found,) = ask(FakeKvm(end=always(ENTERED)), case(guest_rflags=0xA))
    assert found.oracle == "entry.no-missed-check"
    assert (found.rules, found.site) == (("guest.rflags.reserved",), "later: nobody")
    (found,) = ask(FakeKvm(end=always(fail_valid(7))), case(guest_rflags=0xA))
    assert found.site == "later: hardware otherwise: fail-valid 7"


def test_of_rules_that_nobody_checks_one_is_told() -> None:
    kvm = FakeKvm(always(ENTERED), always(ENTERED))
    found, owned = ask(kvm, case(**BAD_HOST, host_cr4=0))
    both, _ = ask(FakeKvm(always(ENTERED), always(fail_valid(8))), case(**BAD_HOST, host_cr4=0))
    assert (owned.oracle, owned.rules) == ("entry.l0-owned", found.rules)
    assert len(found.rules) == 1
    assert set(found.rules) < set(both.rules)


# Overreach


@pytest.mark.parametrize(
    ("fields", "software"),
    [
        ({}, always(exit_on_entry(33), CHECK)),
        ({}, always(fail_valid(7), CHECK)),
        (BAD_HOST, always(fail_valid(7), CHECK)),
        ({"guest_cr0": 0}, always(fail_valid(8), CHECK)),
        ({"guest_cr0": 0}, always(exit_on_entry(33, 2), CHECK)),
        ({"guest_cr0": 0}, always(fault(6), CHECK)),
    ],
)
def test_overreach(fields: dict[str, int], software: Says) -> None:
    (found,) = ask(FakeKvm(software), case(**fields))
    assert found.oracle == "entry.no-overreach"
    assert found.site.endswith(f": {PLACE}")
    assert "vmcs12" not in found.site
    assert CHECK in found.message


def test_the_place_of_a_check_does_not_tell_its_text() -> None:
    other = "vmcs12->field > 1 in nested_check_something"
    (one,) = ask(FakeKvm(always(fail_valid(7), CHECK)), case())
    (two,) = ask(FakeKvm(always(fail_valid(7), other)), case())
    assert one.identity != two.identity
    (silent,) = ask(FakeKvm(always(fail_valid(7))), case())
    assert silent.site == "fail-valid 7: no check"


def test_a_processor_that_refuses_what_the_rules_permit() -> None:
    (found,) = ask(FakeKvm(end=always(fail_valid(7))), case())
    assert (found.oracle, found.site) == ("entry.merged-enters", "hardware: fail-valid 7")


# KVM survives


@pytest.mark.parametrize(
    ("software", "site"),
    [
        (lambda _: died("BUG at arch/x86/kvm/x86.c:1"), "BUG at arch/x86/kvm/x86.c:1"),
        (lambda _: no_opinion("KVM leaves L1 to user space"), "KVM leaves L1 to user space"),
        (always(ENTERED, "WARN arch/x86/kvm/x86.c:2"), "WARN arch/x86/kvm/x86.c:2"),
        (always(fail_valid(7), CHECK, "WARN arch/x86/kvm/x86.c:2"), "WARN arch/x86/kvm/x86.c:2"),
    ],
)
def test_kvm_must_survive(software: Says, site: str) -> None:
    found = ask(FakeKvm(software), case(cr3_target_count=99))
    assert ("kvm.survives", site) in [(each.oracle, each.site) for each in found]


def test_kvm_must_survive_what_the_processor_says() -> None:
    kvm = FakeKvm(end=lambda _: died("SIGSEGV in nested_vmx_vmexit+0x10"))
    found = {each.oracle: each.site for each in ask(kvm, case(guest_rflags=0xA))}
    assert found["kvm.survives"] == "SIGSEGV in nested_vmx_vmexit+0x10"


# The virtual processor, and other witnesses


def test_the_rules_are_those_of_the_virtual_processor() -> None:
    host = load_profile("everything")
    plain = base("guest-64", VIRTUAL)
    vmcs = plain.vmcs.replace({"vm_exit_controls": plain.vmcs.vm_exit_controls | 1 << 28})
    given = EntryCase(replace(plain, profile=host, vmcs=vmcs))
    assert ask(FakeKvm(always(fail_valid(7), CHECK), virtual=VIRTUAL), given) == []
    (found,) = ask(FakeKvm(always(fail_valid(7), CHECK)), given)
    assert found.oracle == "entry.no-overreach"


def without(rule: str) -> Callable[[Attempt], Judgement]:
    """Return a witness that has forgotten a rule."""
    forgotten = CHAPTER.index[rule]

    def witness(attempt: Attempt) -> Judgement:
        judgement = vm_entry(attempt)
        left = tuple(index for index in judgement.broken if index != forgotten)
        return replace(judgement, broken=left)

    return witness


def test_a_rule_that_the_witness_forgot_is_found() -> None:
    (found,) = ask(FakeKvm(), case(**BAD_HOST), without("host.cr3.width"))
    assert found.oracle == "entry.no-overreach"


def test_an_observation_without_outcome_is_nothing_to_compare() -> None:
    kvm = FakeKvm(lambda _: no_opinion("why"))
    assert compare(vm_entry(case().attempt), case().attempt, kvm).relation == "none"
    assert compare_merged(vm_entry(case().attempt), case().attempt, kvm).relation == "none"


def test_an_attempt_runs_once() -> None:
    once, given = Once(kvm := FakeKvm()), case().attempt
    assert once.run(given) is once.run(given)
    assert once.on_hardware(given) is once.on_hardware(given)
    assert once.ended(given) is once.on_hardware(given)
    assert kvm.asked == ["run", "on_hardware"]
    assert once.ended(case().attempt) is None

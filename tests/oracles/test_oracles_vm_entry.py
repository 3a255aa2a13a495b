# SPDX-License-Identifier: GPL-2.0-only
"""Each oracle of VM entry fires on a planted fault, and is silent without one."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.cpu.failures import GUEST_STATE
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.strategies import entry_cases
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.vm_entry import ORACLES, VmEntryWitness

ORACLE = {oracle.name: oracle for oracle in ORACLES}
PLAIN = EntryCase(base("guest-64", load_profile("skylake-x")), "guest-64")


def edited(**fields: int) -> EntryCase:
    return replace(PLAIN, attempt=replace(PLAIN.attempt, vmcs=PLAIN.attempt.vmcs.replace(fields)))


def without(rule: str) -> VmEntryWitness:
    """Return a witness that has forgotten a rule."""
    gone = CHAPTER.index[rule]

    def witness(attempt: Attempt) -> Judgement:
        judgement = vm_entry(attempt)
        return replace(judgement, broken=tuple(i for i in judgement.broken if i != gone))

    return witness


def guest_first(attempt: Attempt) -> Judgement:
    """Judge the guest state before the controls: a dry run then says nothing of what is left."""
    judgement = vm_entry(attempt)
    guest = tuple(i for i in judgement.broken if judgement.rules[i].failure == GUEST_STATE)
    return replace(judgement, broken=guest) if guest else judgement


@dataclass(frozen=True)
class Disordered(Judgement):
    """A judgement that forgets that the stages of VM entry come in an order."""

    @property
    def permitted(self) -> tuple[Outcome, ...]:
        """Every failure of every broken rule."""
        if not self.broken:
            return super().permitted
        return tuple(sorted({self.rules[index].failure.outcome for index in self.broken}))


def disordered(attempt: Attempt) -> Judgement:
    judgement = vm_entry(attempt)
    names = ("rules", "asked", "broken", "unknown", "positions")
    return Disordered(*(getattr(judgement, name) for name in names))


def confusing_fields(attempt: Attempt) -> Judgement:
    """Break a rule on RFLAGS where RIP is not canonical."""
    judgement = vm_entry(attempt)
    if CHAPTER.index["guest.rip.linear-address"] in judgement.broken:
        broken = (*judgement.broken, CHAPTER.index["guest.rflags.fixed-1"])
        return replace(judgement, broken=broken)
    return judgement


def breaking_always(attempt: Attempt) -> Judgement:
    """Break a rule on every state."""
    return replace(vm_entry(attempt), broken=(CHAPTER.index["guest.rflags.fixed-1"],))


def fire(oracle: str, case: EntryCase, witness: VmEntryWitness) -> Finding | None:
    return ORACLE[oracle].check(case, witness)


WITH_VPID_0 = edited(
    cpu_based_vm_exec_control=PLAIN.attempt.vmcs.cpu_based_vm_exec_control | 1 << 31,
    secondary_vm_exec_control=int(Secondary.ENABLE_VPID),
    virtual_processor_id=0,
)


@pytest.mark.parametrize(
    ("oracle", "case", "witness", "site"),
    [
        ("entry.dry-run", PLAIN, without("guest.rflags.fixed-1"), "exit: entered"),
        (
            "entry.dry-run",
            WITH_VPID_0,
            guest_first,
            "vmfail: fail-valid 7",
        ),
        (
            "entry.fail-or-exit",
            edited(pin_based_vm_exec_control=0, guest_rflags=0),
            disordered,
            "exit 33 qualification 0, fail-valid 7",
        ),
        (
            "entry.guest-state-unread",
            edited(pin_based_vm_exec_control=0),
            disordered,
            None,
        ),
        ("entry.repaired", PLAIN, breaking_always, "repair"),
        ("entry.repaired", edited(guest_rip=1 << 63), confusing_fields, "neighbour: guest_rip"),
    ],
)
def test_a_planted_fault_fires_and_nothing_does_without_it(
    oracle: str, case: EntryCase, witness: VmEntryWitness, site: str | None
) -> None:
    assert fire(oracle, case, vm_entry) is None
    finding = fire(oracle, case, witness)
    assert finding is not None
    assert finding.oracle == oracle
    assert site is None or finding.site == site


@pytest.mark.parametrize(
    "msrs",
    [
        {"0x483": "0x1"},
        {"0x488": "0x8000000000000000", "0x489": "0x1"},
        {"0x480": "0xda040000000002", "0x48f": "0xffffffffffffffff"},
    ],
)
def test_a_profile_without_a_legal_state_is_not_asked_for_one(msrs: dict[str, str]) -> None:
    profile = Profile.from_mapping({"msrs": msrs})
    case = EntryCase(base("guest-32", profile), "guest-32")
    assert vm_entry(case.attempt).broken
    assert fire("entry.repaired", case, vm_entry) is None


def test_a_profile_from_outside_with_a_legal_state_is_asked_for_one() -> None:
    profile = replace(PLAIN.attempt.profile, name="mine")
    rip = {"guest_rip": 1 << 63}
    case = EntryCase(replace(base("guest-64", profile), vmcs=PLAIN.attempt.vmcs.replace(rip)))
    assert fire("entry.repaired", case, vm_entry) is None
    assert fire("entry.repaired", case, confusing_fields) is not None


def test_every_oracle_has_a_planted_fault_and_a_sentence() -> None:
    test = test_a_planted_fault_fires_and_nothing_does_without_it
    (mark,) = test.pytestmark  # type: ignore[attr-defined]
    assert {parameters[0] for parameters in mark.args[1]} == set(ORACLE)
    assert all(oracle.sentence and oracle.source for oracle in ORACLES)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(entry_cases())
def test_without_a_fault_the_oracles_are_silent(case: EntryCase) -> None:
    assert [finding for oracle in ORACLES if (finding := oracle.check(case, vm_entry))] == []

# SPDX-License-Identifier: GPL-2.0-only
"""What every target does, whatever it is made of. A new target is in here by being registered."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings

from nvmxfuzz.inputs.bases import base, base_names
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.strategies import entry_cases
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import (
    ENTERED,
    FAIL_INVALID,
    Outcome,
    exit_on_entry,
    fail_valid,
    fault,
)
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.machine.profile import load_profile, profile_names
from nvmxfuzz.targets.base import Observation, Target
from nvmxfuzz.targets.registry import TARGETS, Entry

RandomStates: TypeAlias = Callable[[int, int], list[Attempt]]

PLAIN = base("guest-64", load_profile("skylake-x"))


def with_fields(**fields: int) -> Attempt:
    return replace(PLAIN, vmcs=PLAIN.vmcs.replace(fields))


def with_processor(**changes: int | bool) -> Attempt:
    return replace(PLAIN, processor=replace(PLAIN.processor, **changes))  # type: ignore[arg-type]


KNOWN: dict[str, tuple[Attempt, Outcome]] = {
    "entered": (PLAIN, ENTERED),
    "not-in-vmx-operation": (with_processor(vmxon_pointer=NO_POINTER), fault(6)),
    "compatibility-mode": (with_processor(cs_l=False), fault(6)),
    "cpl-3": (with_processor(cpl=3), fault(13)),
    "no-current-vmcs": (with_processor(current_vmcs=NO_POINTER), FAIL_INVALID),
    "mov-ss": (with_processor(blocking_by_mov_ss=True), fail_valid(26)),
    "launch-of-launched": (replace(PLAIN, launch_state="launched"), fail_valid(4)),
    "resume-of-clear": (replace(PLAIN, instruction="vmresume"), fail_valid(5)),
    "resume": (replace(PLAIN, instruction="vmresume", launch_state="launched"), ENTERED),
    "control": (with_fields(cpu_based_vm_exec_control=0), fail_valid(7)),
    "host": (with_fields(host_cs_selector=0), fail_valid(8)),
    "guest": (with_fields(guest_rflags=0xA), exit_on_entry(33)),
    "link-pointer": (with_fields(vmcs_link_pointer=0x123), exit_on_entry(33, 4)),
    "msr": (with_fields(vm_entry_msr_load_count=1, vm_entry_msr_load_addr=0), exit_on_entry(34, 1)),
}
"""Attempts whose outcome no one doubts."""

LEFT_TO_THE_PROCESSOR = {
    "not-in-vmx-operation": "the processor raises #UD",
    "compatibility-mode": "the processor raises #UD",
    "guest": "KVM lets the processor check RFLAGS",
}
"""Those of which KVM's software alone says nothing, and who decides."""

NEVER_MET_BY_KVM = ("not-in-vmx-operation", "compatibility-mode")
"""Those that KVM says nothing of with a processor below it either."""


def names_of_entries() -> list[str]:
    return list(TARGETS)


@pytest.fixture(scope="module", params=names_of_entries())
def entry(request: pytest.FixtureRequest) -> Entry:
    found: Entry = TARGETS[request.param]
    if found.usable():
        pytest.skip(found.usable())
    return found


@pytest.fixture(scope="module")
def target(entry: Entry) -> Iterator[Target]:
    with entry.make() as made:
        yield made


@pytest.fixture(scope="module")
def isolated(entry: Entry) -> Iterator[Target]:
    with entry.make_isolated() as made:
        yield made


def is_sound(seen: Observation) -> bool:
    """Tell whether an observation keeps to what its class promises."""
    return (
        (seen.status == "outcome") == bool(seen.outcomes)
        and (seen.status == "outcome") == (not seen.reason)
        and list(seen.outcomes) == sorted(set(seen.outcomes))
    )


def test_it_has_the_name_it_is_registered_under(target: Target, entry: Entry) -> None:
    assert target.name == entry.name


@pytest.mark.parametrize("known", KNOWN)
def test_known_outcomes(target: Target, entry: Entry, known: str) -> None:
    if entry.is_kvm and known in LEFT_TO_THE_PROCESSOR:
        return
    if entry.is_loop and known in NEVER_MET_BY_KVM:
        return
    if entry.name == "kvm-model-4.20" and known == "host":
        return  # it left the selectors of the host to the processor
    attempt, expected = KNOWN[known]
    seen = target.run(attempt)
    assert seen.outcomes == (expected,)
    assert is_sound(seen)


def test_each_base_enters_or_cannot_be_stood_for(target: Target) -> None:
    seen = {
        (profile, name): target.run(base(name, load_profile(profile)))
        for profile in profile_names()
        for name in base_names(load_profile(profile))
    }
    assert all(is_sound(one) for one in seen.values())
    assert {one.status for one in seen.values()} <= {"outcome", "not-representable"}
    assert {one.outcomes for one in seen.values() if one.status == "outcome"} == {(ENTERED,)}
    assert seen["skylake-x", "guest-64"].outcome == ENTERED


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(case=entry_cases())
def test_any_case_is_an_observation(target: Target, case: EntryCase) -> None:
    seen = target.run(case.attempt)
    assert is_sound(seen)
    assert seen.status != "died"


def test_an_observation_is_a_value(target: Target) -> None:
    refused = with_fields(guest_cr4=PLAIN.vmcs.guest_cr4 | 1 << 40)
    seen = target.run(refused)
    assert seen == target.run(refused)
    assert seen.messages
    assert pickle.loads(pickle.dumps(seen)) == seen
    said = json.loads(json.dumps(seen.to_json()))
    assert said["outcomes"] == [{"kind": "exit", "reason": 33, "qualification": 0}]
    assert said["messages"] == [message.text for message in seen.messages]


def test_what_ran_before_changes_nothing(target: Target, random_states: RandomStates) -> None:
    attempts = random_states(11, 150) + [attempt for attempt, _ in KNOWN.values()]
    forwards = [target.run(attempt) for attempt in attempts]
    backwards = [target.run(attempt) for attempt in reversed(attempts)]
    assert forwards == backwards[::-1]


def test_another_process_sees_the_same(
    target: Target, isolated: Target, random_states: RandomStates
) -> None:
    attempts = random_states(12, 150) + [attempt for attempt, _ in KNOWN.values()]
    assert [target.run(attempt) for attempt in attempts] == [
        isolated.run(attempt) for attempt in attempts
    ]


def test_it_can_be_opened_and_closed_again(entry: Entry) -> None:
    with entry.make() as target:
        target.open(PLAIN.profile)
        target.open(load_profile("haswell"))
        first = target.run(PLAIN)
    target.close()
    with target:
        assert target.run(PLAIN) == first


def test_two_of_a_kind_do_not_disturb_each_other(entry: Entry) -> None:
    with entry.make() as one, entry.make() as two:
        one.open(PLAIN.profile)
        refused = two.run(with_fields(guest_rflags=0xA))
        assert one.run(PLAIN).outcome == ENTERED
        assert two.run(with_fields(guest_rflags=0xA)) == refused

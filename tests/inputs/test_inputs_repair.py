# SPDX-License-Identifier: GPL-2.0-only
"""Repair against the rules: two statements of the same demands, made independently."""

from dataclasses import replace
from random import Random

import pytest

from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base, base_names
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.repair import repair, satisfiable
from nvmxfuzz.inputs.strategies import scatter
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names

STATES = 500
NEIGHBOURS = 400
UNDEFINED_EXIT = frozenset({"vm_exit_msr_store_count", "vm_exit_msr_load_count"})


def random_attempt(profile: Profile, seed: int) -> Attempt:
    names = base_names(profile)
    name = names[seed // 4 % len(names)]
    return scatter(EntryCase(base(name, profile), name), seed).attempt


def reseat(attempt: Attempt, profile: Profile) -> Attempt:
    return replace(attempt, profile=profile)


@pytest.mark.parametrize("name", profile_names())
def test_repaired_random_state_enters(name: str) -> None:
    profile = load_profile(name)
    for seed in range(STATES):
        judgement = vm_entry(repair(random_attempt(profile, seed)))
        assert judgement.permitted == (ENTERED,), (
            seed,
            judgement.broken_names,
            judgement.unknown_names,
        )


@pytest.mark.parametrize("name", profile_names())
def test_repairing_again_changes_nothing(name: str) -> None:
    profile = load_profile(name)
    for seed in range(STATES // 4):
        once = repair(random_attempt(profile, seed))
        assert repair(once) is once, seed


def test_base_is_left_alone() -> None:
    for name in profile_names():
        profile = load_profile(name)
        for kind in base_names(profile):
            attempt = base(kind, profile)
            assert repair(attempt) is attempt, (name, kind)


@pytest.mark.parametrize("name", ["skylake-x", "everything", "penryn"])
def test_what_enters_is_left_alone(name: str) -> None:
    profile = load_profile(name)
    rng = Random(name)
    entered = 0
    for number in range(NEIGHBOURS):
        legal = repair(random_attempt(profile, number))
        field = rng.choice(FIELDS)
        if field.name in UNDEFINED_EXIT:
            continue
        flipped = getattr(legal.vmcs, field.name) ^ 1 << rng.randrange(field.width)
        neighbour = replace(legal, vmcs=legal.vmcs.replace({field.name: flipped}))
        if vm_entry(neighbour).permitted == (ENTERED,):
            entered += 1
            # Outside 64-bit mode the SDM says of SSP's upper half both that it must be 0 and,
            # in the list of checks, nothing.
            assert repair(neighbour) is neighbour or field.name == "guest_ssp", field.name
    assert entered > NEIGHBOURS // 10


def test_one_edit_is_repaired_with_few_others() -> None:
    profile = load_profile("everything")
    rng = Random(7)
    for _ in range(NEIGHBOURS):
        attempt = base("guest-64", profile)
        field = rng.choice(FIELDS)
        edited = attempt.vmcs.replace({field.name: rng.getrandbits(field.width)})
        fixed = repair(replace(attempt, vmcs=edited)).vmcs.items()
        changed = sum(value != fixed[name] for name, value in edited.items().items())
        assert changed <= 16, field.name


def test_same_attempt_is_repaired_the_same_way() -> None:
    profile = load_profile("everything")
    for seed in range(40):
        one = repair(random_attempt(profile, seed))
        assert one == repair(random_attempt(profile, seed))


def _edited_profile(rng: Random, everything_random: bool) -> Profile:
    profile = load_profile(rng.choice(profile_names()))
    msrs = dict(profile.msrs)
    if everything_random:
        msrs = {index: rng.getrandbits(64) for index in msrs}
    for index in rng.choices(sorted(msrs), k=rng.randrange(1, 6)):
        msrs[index] ^= 1 << rng.randrange(64)
    return replace(profile, name="edited", msrs=msrs)


@pytest.mark.parametrize("everything_random", [False, True])
def test_inconsistent_capabilities_are_survived(everything_random: bool) -> None:
    rng = Random(11)
    entered = satisfied = 0
    for seed in range(300):
        profile = _edited_profile(rng, everything_random)
        attempt = reseat(random_attempt(load_profile("skylake-x"), seed), profile)
        fixed = repair(attempt)
        if satisfiable(profile):
            satisfied += 1
            entered += vm_entry(fixed).permitted == (ENTERED,)
    assert entered >= 0.98 * satisfied
    assert everything_random or satisfied > 50


def test_shipped_profiles_are_satisfiable() -> None:
    assert all(satisfiable(load_profile(name)) for name in profile_names())


@pytest.mark.parametrize(
    ("index", "unset", "ones"),
    [
        (0x48D, 1 << 33, 0),  # a pin-based control that must be 1 and cannot be
        (0x486, 0, 1 << 33),  # CR0_FIXED0 demands a bit that CR0_FIXED1 denies
        (0x489, 1 << 13, 0),  # CR4.VMXE cannot be 1
        (0x48D, 1 << 35, 1 << 5),  # virtual NMIs must be 1, NMI exiting cannot be
    ],
)
def test_contradictory_profile_is_not_satisfiable(index: int, unset: int, ones: int) -> None:
    profile = load_profile("skylake-x")
    msrs = {**profile.msrs, index: profile.msrs[index] & ~unset | ones}
    assert not satisfiable(replace(profile, msrs=msrs))


def test_posted_interrupts_that_must_be_on_bring_the_secondary_controls() -> None:
    profile = load_profile("ice-lake")
    demanding = replace(profile, msrs={**profile.msrs, 0x48D: (1 << 64) - 1})
    assert satisfiable(demanding)
    fixed = repair(base("guest-64", demanding))
    assert vm_entry(fixed).permitted == (ENTERED,)
    assert repair(fixed) == fixed


def test_posted_interrupts_that_must_be_on_bring_what_secondary_controls_lack() -> None:
    profile = load_profile("ivy-bridge")
    ones = (1 << 64) - 1
    assert not satisfiable(replace(profile, msrs={**profile.msrs, 0x48D: ones, 0x48B: ones}))

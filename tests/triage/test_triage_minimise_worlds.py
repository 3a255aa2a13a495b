# SPDX-License-Identifier: GPL-2.0-only
"""Cases in worlds become small: what is needed stays, all else goes."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from nvmxfuzz.inputs.case import Case, EntryCase, MigrationCase, RestoreCase, SessionCase
from nvmxfuzz.inputs.codec import decode
from nvmxfuzz.inputs.difference import Edit, apply, differences
from nvmxfuzz.inputs.mutate import mutator
from nvmxfuzz.inputs.random_session import random_session
from nvmxfuzz.inputs.random_steps import edit_world, random_steps
from nvmxfuzz.inputs.session_steps import SessionStep, session_step
from nvmxfuzz.inputs.step_codec import writes_of
from nvmxfuzz.inputs.steps import OWN, Offer, SetCpuid, SetMsrs, Value, Vmxon, Write
from nvmxfuzz.inputs.text import dump_text
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.triage.minimise import Budget, minimise, size_of
from nvmxfuzz.triage.minimise.worlds import smaller_cases

BUDGET = Budget(runs=100_000, seconds=60)
EPT_VPID = 0x48C


def odd_world(seed: int, kernel: str) -> World:
    rng = Random(seed)
    world = world_on("tiger-lake", kernel)
    for _ in range(6):
        world = edit_world(rng, world)
    return replace(world, kernel=kernel)


def smallest(case: Case, needed: object) -> Case:
    assert callable(needed)
    assert needed(case)
    found = minimise(case, needed, BUDGET)
    assert needed(found)
    return found


def test_the_step_and_the_bit_that_matter_are_left() -> None:
    odd = Write(EPT_VPID, Value(Offer("6.1", "haswell"), 0xFF, 0x3, 1 << 40 | 0x1234))
    padding = random_steps(Random(3), 8)
    several = SetMsrs((Write(0x480, Value(OWN)), odd, Write(0x485, Value(OWN))))
    case = RestoreCase(odd_world(1, "6.1"), (*padding, several, Vmxon(), *padding))

    def needed(candidate: RestoreCase) -> bool:
        writes = [write for step in candidate.steps for write in writes_of(step)]
        return any(at.index == EPT_VPID and at.value.flip >> 40 & 1 for at in writes)

    found = smallest(case, needed)
    assert found == RestoreCase(
        world_on("skylake-x", "6.12"), (SetMsrs((Write(EPT_VPID, Value(OWN, flip=1 << 40)),)),)
    )


def test_a_cpuid_keeps_the_feature_that_matters() -> None:
    odd = SetCpuid(frozenset({"NX", "MPX", "PCID"}), 1, hyperv=True, evmcs_perf_global_ctrl=True)
    case = RestoreCase(world_on("skylake-x", "6.12"), (odd, SetCpuid()))

    def needed(candidate: RestoreCase) -> bool:
        steps = candidate.steps
        return any(isinstance(step, SetCpuid) and "MPX" in step.toggled for step in steps)

    assert smallest(case, needed) == replace(case, steps=(SetCpuid(frozenset({"MPX"})),))


def test_a_world_keeps_what_matters() -> None:
    world = replace(odd_world(5, "5.18"), parameters=(("ept", 0), ("pml", 0)), has_sgx=True)
    found = smallest(
        RestoreCase(world), lambda case: not case.world.parameter("pml") and case.world.has_sgx
    )
    kept = replace(world_on("skylake-x", "6.12"), parameters=(("pml", 0),), has_sgx=True)
    assert found == RestoreCase(kept)


def test_a_migration_becomes_small_in_all_its_parts() -> None:
    plain = decode(b"", "migration")
    assert isinstance(plain, MigrationCase)
    entry = apply(plain.entry, [Edit("guest_rflags", 0xA), Edit("guest_rip", 5), Edit("cpl", 1)])
    entry = apply(entry, [Edit("tpr_threshold", 0x77FD_E67D)])
    assert isinstance(entry, EntryCase)
    case = MigrationCase(odd_world(7, "5.18"), odd_world(8, "6.1"), entry, "descending")

    def needed(candidate: MigrationCase) -> bool:
        older = candidate.source.kernel == "5.18"
        vmcs = candidate.entry.attempt.vmcs
        return older and vmcs.guest_rflags == 0xA and bool(vmcs.tpr_threshold & 1)

    found = smallest(case, needed)
    assert isinstance(found, MigrationCase)
    assert found.source == world_on("skylake-x", "5.18")
    assert found.destination == world_on("skylake-x", "6.12")
    assert found.order == "listed"
    assert set(differences(found.entry)) == {Edit("guest_rflags", 0xA), Edit("tpr_threshold", 1)}


def test_a_session_keeps_the_steps_the_operand_and_the_bit_that_matter() -> None:
    odd = session_step("set-sregs", vcpu=1, register="cr4", unset=0xFF, flip=0x2C00)
    launch = session_step("vmlaunch", vcpu=1, mode="user")
    padding = random_session(Random(3), 20)
    case = SessionCase(odd_world(1, "6.1"), (*padding, odd, *padding, launch, *padding))

    def is_odd(step: SessionStep) -> bool:
        return step.kind == "set-sregs" and bool(step.number("flip") >> 10 & 1)

    def needed(candidate: SessionCase) -> bool:
        at = next((at for at, step in enumerate(candidate.steps) if is_odd(step)), None)
        return at is not None and any(step.kind == "vmlaunch" for step in candidate.steps[at:])

    found = smallest(case, needed)
    left = (session_step("set-sregs", flip=0x400), session_step("vmlaunch"))
    assert found == SessionCase(world_on("skylake-x", "6.12"), left)


def test_the_budget_is_kept() -> None:
    case = RestoreCase(odd_world(1, "6.1"), random_steps(Random(4), 10))
    asked = []

    def needed(candidate: Case) -> bool:
        asked.append(candidate)
        return False

    assert minimise(case, needed, Budget(runs=7)) == case
    assert len(asked) == 7
    assert minimise(case, needed, Budget(stop=lambda: True)) == case
    assert len(asked) == 7


def test_minimising_ends_whatever_shows() -> None:
    mutate = mutator("capability_restore", lambda data, _: data)
    data = b""
    for seed in range(40):
        data = mutate(data, 4096, seed)
    case = decode(data, "capability_restore")
    assert isinstance(case, RestoreCase)
    found = minimise(case, lambda _: True, BUDGET)
    assert isinstance(found, RestoreCase)
    assert found == RestoreCase(world_on("skylake-x", "6.12"))
    assert all(size_of(each) >= size_of(found) for each in smaller_cases(found))
    assert dump_text(found).count("\n") == 3

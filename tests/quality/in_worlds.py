# SPDX-License-Identifier: GPL-2.0-only
"""Faults planted in configs and in worlds: capability MSRs, parameters, steps, what moves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import Final, TypeVar

from nvmxfuzz.arch.msr import VMX_CAPABILITY_MSRS
from nvmxfuzz.inputs.case import (
    CaseKind,
    ConfigCase,
    EntryCase,
    MigrationCase,
    RestoreCase,
    SessionCase,
)
from nvmxfuzz.inputs.codec import decode
from nvmxfuzz.inputs.difference import Edit, apply
from nvmxfuzz.inputs.session_steps import SessionStep, session_step
from nvmxfuzz.inputs.step_codec import writes_of
from nvmxfuzz.inputs.steps import OWN, SetCpuid, SetMsrs, Step, Value, Write
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.inputs.world_words import edited_world
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, Profile, load_profile
from tests.quality.fault import Planted, Shows, noise
from tests.quality.in_entries import any_bit, word

S = TypeVar("S")
"""A step of either kind."""


def plain_config() -> ConfigCase:
    """Return the config that every minimum is told against."""
    return ConfigCase(load_profile(DEFAULT_PROFILE), DEFAULT_PROFILE)


def _noisy_config(rng: Random) -> ConfigCase:
    case = noise(rng, "capability_config")
    assert isinstance(case, ConfigCase)
    return case


def _msr_of(profile: Profile, index: int) -> int:
    return profile.msrs.get(index, 0)


def _capability_bit(rng: Random) -> Planted:
    usual = plain_config()
    index, name = rng.choice(
        [each for each in VMX_CAPABILITY_MSRS if each[0] in usual.profile.msrs]
    )
    bit = 1 << rng.randrange(64)
    value = _msr_of(usual.profile, index) ^ bit

    def shows(case: ConfigCase) -> bool:
        there = index in case.profile.msrs
        return there and (_msr_of(case.profile, index) ^ value) & bit == 0

    edits = [Edit(name.lower(), value ^ rng.getrandbits(64) & ~bit)]
    case = apply(_noisy_config(rng), [*edits, Edit(f"{name.lower()}_exists", 1)])
    return Planted(
        "a bit of a capability MSR", case, shows, apply(usual, [Edit(name.lower(), value)])
    )


def _parameter_and_msr(rng: Random) -> Planted:
    usual = plain_config()
    bit = 1 << rng.randrange(32)
    value = usual.profile.msrs[0x485] ^ bit

    def shows(case: ConfigCase) -> bool:
        held = _msr_of(case.profile, 0x485)
        return (
            not case.error_on_inconsistent
            and 0x485 in case.profile.msrs
            and not ((held ^ value) & bit)
        )

    least = [Edit("error_on_inconsistent_vmcs_config", 0), Edit("ia32_vmx_misc", value)]
    case = apply(_noisy_config(rng), [*least, Edit("ia32_vmx_misc_exists", 1)])
    return Planted("a parameter and an MSR", case, shows, apply(usual, least))


def _plain_world() -> World:
    return world_on(DEFAULT_PROFILE, "6.12")


def _among(rng: Random, padding: tuple[S, ...], wanted: Iterable[S], most: int) -> tuple[S, ...]:
    """Return steps with the wanted ones at random places among others, in their order."""
    needed = list(wanted)
    steps = list(padding[: most - len(needed)])
    places = sorted(rng.randint(0, len(steps)) for _ in needed)
    for offset, (place, step) in enumerate(zip(places, needed, strict=True)):
        steps.insert(place + offset, step)
    return tuple(steps)


def _restored_bit(rng: Random) -> Planted:
    noisy = noise(rng, "capability_restore")
    assert isinstance(noisy, RestoreCase)
    index, _ = rng.choice(VMX_CAPABILITY_MSRS)
    bit = 1 << rng.randrange(64)
    write = Write(index, Value(OWN, 0, 0, rng.getrandbits(64) | bit))
    others = [Write(each, Value(OWN)) for each, _ in rng.sample(VMX_CAPABILITY_MSRS, 4)]
    step = SetMsrs((*others[:2], write, *others[2:]))

    def shows(case: RestoreCase) -> bool:
        writes = [each for step in case.steps for each in writes_of(step)]
        return any(each.index == index and each.value.flip & bit for each in writes)

    least: tuple[Step, ...] = (SetMsrs((Write(index, Value(OWN, flip=bit)),)),)
    case = replace(noisy, steps=_among(rng, noisy.steps, [step], 24))
    return Planted("a bit that is restored", case, shows, RestoreCase(_plain_world(), least))


def _cpuid_then_msr(rng: Random) -> Planted:
    noisy = noise(rng, "capability_restore")
    assert isinstance(noisy, RestoreCase)
    feature = rng.choice(("MPX", "SMAP", "UMIP", "LA57"))
    index, _ = rng.choice(VMX_CAPABILITY_MSRS)
    cpuid = SetCpuid(frozenset({"NX", "PCID", feature}), 3, hyperv=True)
    write = SetMsrs((Write(index, Value(OWN, 0xFF, 0xF0, 0x1234)),))

    def shows(case: RestoreCase) -> bool:
        seen = False
        for step in case.steps:
            seen = seen or (isinstance(step, SetCpuid) and feature in step.toggled)
            if seen and any(each.index == index for each in writes_of(step)):
                return True
        return False

    case = replace(noisy, steps=_among(rng, noisy.steps, [cpuid, write], 24))
    plain = SetMsrs((Write(index, Value(OWN)),))
    small = RestoreCase(_plain_world(), (SetCpuid(frozenset({feature})), plain))
    return Planted("a feature, then an MSR", case, shows, small)


def _parameter(rng: Random) -> Planted:
    kind: CaseKind = rng.choice(("capability_restore", "session"))
    noisy = noise(rng, kind)
    assert isinstance(noisy, RestoreCase | SessionCase)
    name = rng.choice(("ept", "unrestricted_guest", "vpid", "pml", "enable_apicv"))
    edit = Edit(name, 0)

    def shows(case: RestoreCase | SessionCase) -> bool:
        return case.world.parameter(name) == 0

    case = replace(noisy, world=edited_world(noisy.world, [edit]))
    small = type(noisy)(edited_world(_plain_world(), [edit]))
    return Planted("a parameter of a world", case, shows, small)


def _session(
    kind: str, rng: Random, wanted: list[SessionStep], least: list[SessionStep], shows: Shows
) -> Planted:
    noisy = noise(rng, "session")
    assert isinstance(noisy, SessionCase)
    case = replace(noisy, steps=_among(rng, noisy.steps, wanted, 64))
    assert shows(case), kind
    return Planted(kind, case, shows, SessionCase(_plain_world(), tuple(least)))


def _session_bit(rng: Random) -> Planted:
    register = rng.choice(("cr0", "cr4", "efer"))
    bit = 1 << rng.randrange(32)
    odd = session_step(
        "set-sregs", vcpu=1, register=register, unset=0xFF, flip=rng.getrandbits(32) | bit
    )
    least = session_step("set-sregs", register=register, flip=bit)

    def shows(case: SessionCase) -> bool:
        return any(
            step.kind == "set-sregs"
            and step.chosen("register") == register
            and step.number("flip") & bit
            for step in case.steps
        )

    return _session("a bit of a step", rng, [odd], [least], shows)


def _session_order(rng: Random) -> Planted:
    kinds = rng.sample(("vmxon", "smi", "rsm", "save", "restore", "vmclear", "vmptrld"), 3)

    def shows(case: SessionCase) -> bool:
        steps = iter(case.steps)
        return all(any(step.kind == kind for step in steps) for kind in kinds)

    wanted = [session_step(kind, vcpu=rng.getrandbits(1)) for kind in kinds]
    least = [session_step(kind) for kind in kinds]
    return _session("three steps in order", rng, wanted, least, shows)


def _session_same_vcpu(rng: Random) -> Planted:
    def shows(case: SessionCase) -> bool:
        on = [step.vcpu for step in case.steps if step.kind == "vmxon"]
        return any(step.kind == "init" and step.vcpu in on[:1] for step in case.steps)

    wanted = [session_step("vmxon", vcpu=1), session_step("init", vcpu=1)]
    least = [session_step("vmxon"), session_step("init")]
    noisy = noise(rng, "session")
    assert isinstance(noisy, SessionCase)
    others = tuple(step for step in noisy.steps if step.kind not in ("vmxon", "init"))
    case = replace(noisy, steps=_among(rng, others, wanted, 64))
    assert shows(case)
    return Planted(
        "steps of one vCPU", case, shows, SessionCase(_plain_world(), (*reversed(least),))
    )


def _session_write(rng: Random) -> Planted:
    field = rng.choice(("guest_rflags", "guest_cr4", "pin_based_vm_exec_control"))
    bit = 1 << rng.randrange(16)
    write = session_step(
        "vmwrite", vcpu=1, field=field, value=rng.getrandbits(32) | bit, mode="user"
    )

    def shows(case: SessionCase) -> bool:
        seen = False
        for step in case.steps:
            if seen and step.kind == "vmlaunch":
                return True
            seen = seen or (
                step.kind == "vmwrite"
                and step.chosen("field") == field
                and step.number("value") & bit != 0
            )
        return False

    wanted = [write, session_step("vmlaunch", vcpu=1, mode="user")]
    least = [session_step("vmwrite", field=field, value=bit), session_step("vmlaunch")]
    return _session("a field that L1 writes", rng, wanted, least, shows)


def _migrated_bit(rng: Random) -> Planted:
    noisy = noise(rng, "migration")
    plain = decode(b"", "migration")
    assert isinstance(noisy, MigrationCase)
    assert isinstance(plain, MigrationCase)
    kernel = rng.choice(("5.18", "6.1"))
    name, mask = any_bit(rng)
    start = plain.entry
    value = word(start, name) ^ mask
    entry = apply(noisy.entry, [Edit(name, value)])
    assert isinstance(entry, EntryCase)
    source = replace(noisy.source, kernel=kernel)

    def shows(case: MigrationCase) -> bool:
        return case.source.kernel == kernel and word(case.entry, name) & mask == value & mask

    least = apply(start, [Edit(name, value)])
    assert isinstance(least, EntryCase)
    small = replace(plain, source=replace(plain.source, kernel=kernel), entry=least)
    return Planted(
        "a field of a VM that moves", replace(noisy, source=source, entry=entry), shows, small
    )


WORLDS: Final = (
    *(_capability_bit, _parameter_and_msr, _restored_bit, _cpuid_then_msr, _parameter),
    *(_session_bit, _session_order, _session_same_vcpu, _session_write, _migrated_bit),
)

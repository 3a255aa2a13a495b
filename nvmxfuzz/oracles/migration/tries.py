# SPDX-License-Identifier: GPL-2.0-only
"""Migrations at random, and what comes of one: the MSRs, and VM entries there and here.

The same seed gives the same migrations, whatever the two sides are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final, TypeAlias

from nvmxfuzz.arch import msr
from nvmxfuzz.inputs.bases import base_names
from nvmxfuzz.inputs.case import ORDERS, Order
from nvmxfuzz.inputs.interesting import interesting
from nvmxfuzz.inputs.layout import ENTRY_LAYOUT
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.kvm.host import ModuleParams
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.migration.carrier import Carried, Carrier, Entry, Side, Values, Way
from nvmxfuzz.oracles.migration.entry import (
    attempt_on,
    contradictions,
    everything,
    nothing,
    processor_of_l1,
    satisfying,
    some,
)
from nvmxfuzz.oracles.restore.offer import CONTROLS, Offer, offer
from nvmxfuzz.oracles.restore.sequences import world as random_world
from nvmxfuzz.oracles.restore.witness import MsrWorld

_WORD: Final = (1 << 32) - 1
_KEPT: Final = frozenset({"VMX", "XSAVE", "PAE", "NX"})
"""Features that userspace leaves to a VM with VMX."""
_NARROWED: Final = (
    *CONTROLS,
    msr.MSR_IA32_VMX_EPT_VPID_CAP,
    msr.MSR_IA32_VMX_MISC,
    msr.MSR_IA32_VMX_VMFUNC,
)
_MISC_FEATURES: Final = 0x7 << 6 | 0x7 << 28
_VMCS_SLOTS: Final = tuple(slot for slot in ENTRY_LAYOUT if slot.area == "vmcs")
_ERRATA: Final = ((0x1A, 2), (0x1A, 5), (0x1E, 5), (0x2C, 2), (0x2E, 6))
"""Models of family 6 with a stepping: VM exit clears IA32_PERF_GLOBAL_CTRL; the timer is broken."""


Passage: TypeAlias = tuple[Entry, Entry, Entry]
"""L1's entry on the source, what KVM_SET_NESTED_STATE said, L1's entry on the destination."""


@dataclass(frozen=True, slots=True)
class Usable:
    """Whether L1 has a VMCS at all: why the capabilities forbid it, or what came of one.

    `permitted` tells whether one was found that the rules permit; `entry` is what it came to.
    """

    contradictions: tuple[str, ...] = ()
    permitted: bool = True
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a migration: the MSRs, VM entries of L1, and what L1 can do on both sides."""

    kernels: tuple[str, str]
    worlds: tuple[MsrWorld, MsrWorld]
    carried: Carried
    passages: tuple[Passage, ...]
    usable: tuple[Usable, Usable]


# ---------------------------------------------------------------------- worlds and ways


def worlds(source: Random) -> tuple[MsrWorld, MsrWorld]:
    """Return the world that a VM comes from, and the one that it goes to: mostly like it."""
    here = _with_errata(random_world(source), source)
    chance = source.random()
    if chance < 0.5:
        return here, here
    if chance < 0.7:
        return here, replace(here, params=_other_params(here.params, source))
    there = random_world(source)
    if chance < 0.9:
        # The same processor with another microcode: a few MSRs differ.
        changed = source.sample(sorted(there.host.msrs.items()), min(2, len(there.host.msrs)))
        return here, replace(
            here, host=replace(here.host, msrs={**here.host.msrs, **dict(changed)})
        )
    return here, there


def _with_errata(world: MsrWorld, source: Random) -> MsrWorld:
    if source.random() < 0.85:
        return world
    model, stepping = source.choice(_ERRATA)
    return replace(world, host=replace(world.host, family=6, model=model, stepping=stepping))


def _other_params(params: ModuleParams, source: Random) -> ModuleParams:
    name = source.choice(tuple(ModuleParams.__dataclass_fields__))
    return replace(params, **{name: not getattr(params, name)})


def way(carrier: Carrier, source: Random) -> Way:
    """Return how userspace runs the VM: with what both sides support, or with less."""
    cpuid = carrier.common_cpuid()
    features, version = cpuid.features, cpuid.pmu_version
    if source.random() < 0.5:
        toggled = sorted(features - _KEPT)
        features -= frozenset(source.sample(toggled, min(source.choice((1, 2, 5)), len(toggled))))
    if version and source.random() < 0.2:
        version = source.randrange(version + 1)
    values = offer(carrier.source.loaded.system)
    writes = _fewer(values, source) if source.random() < 0.4 else ()
    if not carrier.source.world.stuffs_feature_msrs:
        writes = (*((index, values[index]) for index in carrier.source.loaded.indices), *writes)
    return Way(GuestCpuid(features, version), writes, source.choice(ORDERS))


def plain_way(carrier: Carrier, order: Order = "listed") -> Way:
    """Return the way of a VM with what both sides support; where MSRs start at 0, they are set."""
    values = offer(carrier.source.loaded.system)
    stuffed = carrier.source.world.stuffs_feature_msrs
    indices = () if stuffed else carrier.source.loaded.indices
    return Way(carrier.common_cpuid(), tuple((index, values[index]) for index in indices), order)


def _fewer(values: Offer, source: Random) -> Values:
    """Return values with fewer bits than those that the system offers."""
    chosen = source.sample(_NARROWED, source.choice((1, 1, 2, 4)))
    return tuple((index, _less(index, values[index], source)) for index in chosen)


def _less(index: int, value: int, source: Random) -> int:
    dropped = source.getrandbits(64) & source.getrandbits(64) & source.getrandbits(64)
    if index in CONTROLS:
        # What must be 1 stays possible.
        return value & ~(dropped & _WORD << 32 & ~(value << 32))
    if index == msr.MSR_IA32_VMX_MISC:
        return value & ~(dropped & _MISC_FEATURES)
    return value & ~dropped


# ---------------------------------------------------------------------- trying


def try_way(carrier: Carrier, how: Way, attempts: Callable[[Profile], Sequence[Attempt]]) -> Tried:
    """Carry the VM, with each of L1's VM entries anew; `attempts` makes them for a processor."""
    carried = carrier.carry(how)
    passages = []
    for number, attempt in enumerate(attempts(_l1(carrier.source, how, carried.source))):
        if number:
            carrier.carry(how)
        passages.append(carrier.enter(attempt))
    here, there = (any(passage[at].entered for passage in passages) for at in (0, 2))
    # A VM that is refused does not live on the destination.
    there = there or not carried.complete
    usable = (
        Usable() if here else _usable(carrier, how, carrier.source, carried.source),
        Usable() if there else _usable(carrier, how, carrier.destination, carried.after),
    )
    kernels = carrier.source.kernel, carrier.destination.kernel
    worlds_ = carrier.source.world, carrier.destination.world
    return Tried(kernels, worlds_, carried, tuple(passages), usable)


def _usable(carrier: Carrier, how: Way, side: Side, values: Offer) -> Usable:
    """Look for a VMCS by the rules, and let L1 enter it."""
    processor = _l1(side, how, values)
    against = tuple(contradictions(processor))
    if against:
        return Usable(against)
    attempt = satisfying(processor)
    if attempt is None:
        return Usable(permitted=False)
    carrier.carry(how)
    return Usable(entry=side.enter(attempt))


def _l1(side: Side, how: Way, values: Offer) -> Profile:
    return processor_of_l1(side.world, how.cpuid, values)


def attempts_of(profile: Profile, source: Random) -> tuple[Attempt, ...]:
    """Return a VM entry of an L1 that heeds the capabilities, or of one that errs in a field."""
    name = source.choice(base_names(profile))
    choose = source.choice((nothing, everything, some(source), some(source)))
    attempt = attempt_on(profile, name, choose)
    return (_edited(attempt, source),) if source.random() < 0.5 else (attempt,)


def _edited(attempt: Attempt, source: Random) -> Attempt:
    """Change a field of the VMCS or two."""
    changed: dict[str, int] = {}
    for _ in range(source.choice((1, 1, 2))):
        slot = source.choice(_VMCS_SLOTS)
        old = getattr(attempt.vmcs, slot.name)
        if source.random() < 0.5:
            changed[slot.name] = old ^ 1 << source.randrange(slot.width)
        else:
            changed[slot.name] = source.choice(interesting(slot, attempt.profile))
    return replace(attempt, vmcs=attempt.vmcs.replace(changed))

# SPDX-License-Identifier: GPL-2.0-only
"""Steps, values and edits of worlds at random, most of them near the borders of KVM's checks.

What comes of it depends on the generator that is passed in alone. The mutator and the strategies
draw from here; every step and value can be reached without.
"""

from __future__ import annotations

from random import Random
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.registers import FeatureControl
from nvmxfuzz.inputs.difference import Edit
from nvmxfuzz.inputs.layout import KERNELS, layout, present, toggled
from nvmxfuzz.inputs.order import PROFILES
from nvmxfuzz.inputs.step_codec import MSRS
from nvmxfuzz.inputs.steps import (
    WORD,
    EnableEvmcs,
    Offer,
    PmuVersion,
    Rdmsr,
    RestoreMsr,
    Rsm,
    SetCpuid,
    SetMsrs,
    Smi,
    Step,
    Value,
    Vmxoff,
    Vmxon,
    Write,
    Wrmsr,
    absolute,
)
from nvmxfuzz.inputs.world import FEATURES, World
from nvmxfuzz.inputs.world_words import edited_world, world_word
from nvmxfuzz.machine.profile import profile_names

_HALF: Final = 32
_GENERATED: Final = frozenset(
    {
        *(msr.MSR_IA32_VMX_PINBASED_CTLS, msr.MSR_IA32_VMX_PROCBASED_CTLS),
        *(msr.MSR_IA32_VMX_EXIT_CTLS, msr.MSR_IA32_VMX_ENTRY_CTLS),
        *(msr.MSR_IA32_VMX_CR0_FIXED1, msr.MSR_IA32_VMX_CR4_FIXED1),
    }
)
"""What KVM makes of other MSRs, or of CPUID."""
RESTORABLE: Final = tuple(
    index
    for index in MSRS
    if msr.MSR_IA32_VMX_BASIC <= index <= msr.MSR_IA32_VMX_VMFUNC and index not in _GENERATED
)
"""The MSRs that userspace restores, ascending."""
_LOW_BITS: Final = (
    *(msr.MSR_IA32_VMX_MISC, msr.MSR_IA32_VMX_EPT_VPID_CAP, msr.MSR_IA32_VMX_CR4_FIXED1),
)
_EDITED: Final = (
    *(msr.MSR_IA32_VMX_BASIC, msr.MSR_IA32_VMX_PINBASED_CTLS, msr.MSR_IA32_VMX_PROCBASED_CTLS),
    *(msr.MSR_IA32_VMX_EXIT_CTLS, msr.MSR_IA32_VMX_ENTRY_CTLS, msr.MSR_IA32_VMX_MISC),
    *(msr.MSR_IA32_VMX_CR0_FIXED1, msr.MSR_IA32_VMX_CR4_FIXED1, msr.MSR_IA32_VMX_PROCBASED_CTLS3),
    *(msr.MSR_IA32_VMX_PROCBASED_CTLS2,) * 3,
    *(msr.MSR_IA32_VMX_EPT_VPID_CAP,) * 3,
)
"""MSRs of a processor that decide what KVM offers."""
_FEATURE_CONTROL: Final = (
    *(0, 1, 2, 4, 5, 7, 8, 1 << 63),
    *(int(FeatureControl.SGX_LAUNCH_CONTROL), int(FeatureControl.SGX), int(FeatureControl.LMCE)),
    5 | int(FeatureControl.LMCE),
)
_PMU: Final[tuple[PmuVersion, ...]] = ("absent", 0, 1, 2)


def random_offer(rng: Random) -> Offer:
    """Return the world's own offer mostly, else that of another kernel or processor."""
    kernel = rng.choice(KERNELS) if rng.random() < 0.3 else ""
    return Offer(kernel, rng.choice(profile_names())) if rng.random() < 0.2 else Offer(kernel)


def random_value(rng: Random, index: int) -> Value:
    """Return a value for an MSR."""
    if index == msr.MSR_IA32_FEAT_CTL:
        return absolute(rng.choice(_FEATURE_CONTROL))
    chance = rng.random()
    if chance < 0.08:
        return absolute(rng.choice((0, WORD, rng.getrandbits(64))))
    offer = random_offer(rng)
    if chance < 0.4:
        return Value(offer)
    if chance < 0.65:
        return Value(offer, flip=1 << rng.randrange(64))
    if chance < 0.75:
        return Value(offer, unset=(rng.getrandbits(32) & rng.getrandbits(32)) << _HALF)
    if chance < 0.8:
        return Value(offer, ones=rng.getrandbits(32))
    if chance < 0.9:
        return _at_a_field(rng, index, offer)
    return Value(offer, rng.getrandbits(64), rng.getrandbits(64) & rng.getrandbits(64))


def _at_a_field(rng: Random, index: int, offer: Offer) -> Value:
    """Change a field that KVM compares as a number."""
    if index == msr.MSR_IA32_VMX_BASIC:
        size = rng.choice((0, 0xFFF, 0x1000, 0x1001, 0x1FFF))
        return Value(offer, 0x1FFF << 32 | 15 << 50, size << 32 | rng.randrange(16) << 50)
    if index == msr.MSR_IA32_VMX_MISC:
        targets, lists = rng.choice((0, 1, 4, 0x1FF)), rng.choice((0, 0, 1, 7))
        rate = rng.choice((0, 5, 9, 31))
        return Value(offer, 0x1F | 0x1FF << 16 | 7 << 25, rate | targets << 16 | lists << 25)
    return Value(offer, unset=1 << rng.randrange(64))


def random_index(rng: Random) -> int:
    """Return an MSR: mostly one that userspace restores."""
    if rng.random() < 0.85:
        return rng.choice(RESTORABLE)
    return rng.choice(MSRS)


def random_write(rng: Random) -> Write:
    """Return an MSR and a value for it."""
    index = random_index(rng)
    return Write(index, random_value(rng, index))


def random_step(rng: Random) -> Step:
    """Return any step."""
    chance = rng.random()
    if chance < 0.25:
        return SetMsrs((random_write(rng),))
    if chance < 0.4:
        return RestoreMsr(random_write(rng))
    if chance < 0.55:
        return _several(rng)
    if chance < 0.72:
        return _cpuid(rng)
    if chance < 0.78:
        index = msr.MSR_IA32_FEAT_CTL
        return SetMsrs((Write(index, random_value(rng, index)),))
    if chance < 0.86:
        return Rdmsr(random_index(rng))
    if chance < 0.9:
        return Wrmsr(random_write(rng))
    return rng.choice((Vmxon(), Vmxon(), Vmxoff(), EnableEvmcs(), Smi(), Rsm()))


def _several(rng: Random) -> SetMsrs:
    """Write several MSRs: all that somebody offered in some order, or a few with edits."""
    if rng.random() < 0.4:
        offer = random_offer(rng)
        indices = list(RESTORABLE)
        if rng.getrandbits(1):
            rng.shuffle(indices)
        return SetMsrs(tuple(Write(index, Value(offer)) for index in indices))
    return SetMsrs(tuple(random_write(rng) for _ in range(rng.randint(2, 8))))


def _cpuid(rng: Random) -> SetCpuid:
    if rng.random() < 0.4:
        return SetCpuid()
    features = frozenset(rng.sample(FEATURES, rng.choice((0, 1, 1, 2, 5))))
    version = rng.choice(_PMU) if rng.random() < 0.2 else "supported"
    hyperv = rng.random() < 0.3
    return SetCpuid(features, version, hyperv, hyperv and bool(rng.getrandbits(1)))


def random_steps(rng: Random, most: int) -> tuple[Step, ...]:
    """Return up to `most` steps; without a CPUID first, little else can happen."""
    first: tuple[Step, ...] = (_cpuid(rng),) if rng.random() < 0.95 else ()
    return (*first, *(random_step(rng) for _ in range(rng.randrange(1, most))))


def edit_world(rng: Random, world: World) -> World:
    """Return `world` after an edit: of an MSR mostly, a parameter, a feature, the kernel."""
    chance = rng.random()
    if chance < 0.45:
        return _edit_msr(rng, world)
    table = layout("world")
    if chance < 0.65:
        slot = rng.choice(table.by_area["parameter"])
    elif chance < 0.8:
        slot = table.by_name[toggled(rng.choice(FEATURES))]
    elif chance < 0.9:
        slot = table.by_name["kernel"]
        return edited_world(world, [Edit(slot.name, rng.randrange(len(slot.choices)))])
    else:
        slot = rng.choice(table.by_area["case"])
    flipped = world_word(world, slot) ^ 1 << rng.randrange(slot.width)
    return edited_world(world, [Edit(slot.name, slot.fit(flipped))])


def _edit_msr(rng: Random, world: World) -> World:
    """Flip a bit of an MSR, mostly where controls may be 1; or let the MSR vanish."""
    index = rng.choice(_EDITED)
    slot = next(each for each in layout("world").by_area["msr"] if each.address == index)
    if rng.random() < 0.03:
        return edited_world(world, [Edit(present(slot.name), 0)])
    if rng.random() < 0.2:
        bit = rng.randrange(64)
    else:
        bit = rng.randrange(_HALF) + (0 if index in _LOW_BITS else _HALF)
    value = world_word(world, slot) ^ 1 << bit
    return edited_world(world, [Edit(slot.name, value), Edit(present(slot.name), 1)])


def random_profile(rng: Random) -> str:
    """Return the name of a profile that the binary format has a number for."""
    return rng.choice([name for name in PROFILES if name in profile_names()])

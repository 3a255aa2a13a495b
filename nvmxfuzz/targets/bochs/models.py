# SPDX-License-Identifier: GPL-2.0-only
"""Which Bochs CPU stands for a profile, and why none can.

A CPU of Bochs is one of its models, or a model from which controls were taken away. Nothing else
about a model can be changed, so that the rest of a profile must be as the model has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch.vmx_msr import EptVpidCap
from nvmxfuzz.machine.capabilities import Capabilities
from nvmxfuzz.machine.profile import Profile, load_profile

MODELS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "skylake-x": 26,
        "yonah": 9,
        "penryn": 16,
        "lynnfield": 17,
        "arrandale": 18,
        "sandy-bridge": 19,
        "ivy-bridge": 23,
        "haswell": 24,
        "broadwell": 25,
        "cannon-lake": 27,
        "ice-lake": 28,
        "tiger-lake": 29,
        "sapphire-rapids": 30,
        "arrow-lake": 31,
    }
)
"""Values of Bochs' parameter cpu.model that have VMX, by the profile that describes them."""

_ALL: Final = -1
_CAN_SHRINK: Final[Mapping[str, int]] = MappingProxyType(
    {
        **dict.fromkeys(("pin_may", "primary_may", "secondary_may", "tertiary_may"), _ALL),
        **dict.fromkeys(("exit_may", "exit2_may", "entry_may", "vmfunc_may", "cr4_fixed1"), _ALL),
        # Which memory types and page-walk lengths an EPTP can have is compiled in.
        "ept_vpid_cap": ~(
            EptVpidCap.MEMORY_TYPE_UC
            | EptVpidCap.MEMORY_TYPE_WB
            | EptVpidCap.PAGE_WALK_4
            | EptVpidCap.PAGE_WALK_5
        ),
    }
)
"""Capabilities from which bits can be taken away: which bits."""

_EITHER_WAY: Final = frozenset({"nmi-requires-no-sti-blocking"})
"""Without this feature a processor may check or not: Bochs, which does, is one of those."""


def model_for(profile: Profile) -> str | None:
    """Return the model that can stand for `profile`: that of its name, or else the first."""
    if profile.name in MODELS and not objection(profile, profile.name):
        return profile.name
    return next((model for model in MODELS if not objection(profile, model)), None)


def refusal(profile: Profile) -> str:
    """Return why no model can stand for `profile`: what is against the nearest one."""
    if profile.name in MODELS:
        return objection(profile, profile.name)
    nearest = min(MODELS, key=lambda model: sum(1 for _ in _objections(profile, model)))
    return objection(profile, nearest)


def objection(profile: Profile, model: str) -> str:
    """Return why `model` cannot stand for `profile`, as a sentence, or ""."""
    return next(_objections(profile, model), "")


def _objections(profile: Profile, model: str) -> Iterator[str]:
    own = _described(model)
    for key, noun in (
        ("maxphyaddr", "physical-address bits"),
        ("linear_address_bits", "linear-address bits"),
    ):
        has, wants = getattr(own, key), getattr(profile, key)
        if has != wants:
            yield f"Bochs has {has} {noun}, the profile {wants}"
    missing = sorted(profile.features - own.features - _EITHER_WAY)
    if missing:
        yield f"Bochs' {model} lacks {', '.join(missing)}"
    excess = sorted(own.features - profile.features - _EITHER_WAY)
    if excess:
        yield f"Bochs' {model} cannot do without {', '.join(excess)}"
    yield from differences(profile.caps, own.caps, model)


def differences(
    wanted: Capabilities, own: Capabilities, model: str, *, shrink: bool = True
) -> Iterator[str]:
    """Yield the capabilities that `model` cannot be given, or that it has not if not `shrink`."""
    for field in fields(Capabilities):
        name = field.name
        wants, has = int(getattr(wanted, name)), int(getattr(own, name))
        free = _CAN_SHRINK.get(name, 0) if shrink else 0
        if wants & ~has & free:
            yield f"Bochs' {model} lacks bits {wants & ~has:#x} of {name}"
        elif (wants ^ has) & ~free:
            yield f"{name} is {has:#x} on Bochs' {model}, {wants:#x} in the profile"


@cache
def _described(model: str) -> Profile:
    return load_profile(model)

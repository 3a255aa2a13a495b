# SPDX-License-Identifier: GPL-2.0-only
"""The world of a case in the terms of the model and of the real KVM."""

from __future__ import annotations

from typing import Final

from nvmxfuzz.inputs.world import World
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.host_features import features_of
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.restore.witness import MsrWorld

NEEDED: Final = frozenset({"TSC", "PAE", "FXSR", "XMM", "PSE", "VMX", "XSAVE"})
"""CPUID features of every world: KVM, or its userspace, takes them for granted."""


def msr_world(world: World) -> MsrWorld:
    """Return what a witness is loaded on; its features are those of the profile without edits."""
    profile = world.profile
    host = HostCpu(
        profile.msrs,
        profile.family,
        profile.model,
        profile.stepping,
        world.has_sgx,
        world.evmcs,
        features_of(load_profile(world.base)) ^ (world.toggled - NEEDED),
        world.pmu_version,
    )
    params = ModuleParams(**{name: bool(value) for name, value in world.parameters})
    return MsrWorld(world.base, host, params, world.stuffs_feature_msrs)

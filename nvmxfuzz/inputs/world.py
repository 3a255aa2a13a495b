# SPDX-License-Identifier: GPL-2.0-only
"""A world: the processor, kernel and module parameters that a VM lives on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from nvmxfuzz.machine.profile import Profile, load_profile

PARAMETERS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "error_on_inconsistent_vmcs_config": 1,
        "enlightened_vmcs": 1,
        "nested": 1,
        "ept": 1,
        "eptad": 1,
        "unrestricted_guest": 1,
        "vpid": 1,
        "flexpriority": 1,
        "vnmi": 1,
        "enable_apicv": 1,
        "enable_ipiv": 1,
        "pml": 1,
        "preemption_timer": 1,
        "enable_shadow_vmcs": 1,
        "sgx": 1,
        "enable_pmu": 1,
        "ignore_msrs": 0,
    }
)
"""Module parameter -> its default. The order is part of the binary format, and stays."""

FEATURES: Final = (
    *("VME", "DE", "PSE", "TSC", "PAE", "MCE", "PGE", "FXSR", "XMM", "VMX", "SMX", "PCID"),
    *("XSAVE", "RDRAND", "FSGSBASE", "SGX", "SMEP", "INVPCID", "MPX", "RDSEED", "SMAP", "UMIP"),
    *("PKU", "OSPKE", "WAITPKG", "LA57", "RDPID", "SGX_LC", "LAM", "XSAVES", "NX", "RDTSCP"),
)
"""CPUID features by the kernel's names (X86_FEATURE_*); the order is as above."""

MOST_PMU: Final = 7
"""The greatest version of architectural performance monitoring that a world can have."""


@dataclass(frozen=True, slots=True)
class World:
    """A processor on which KVM of one version is loaded with certain parameters.

    `profile` holds MSRs, family, model and stepping (which decide the errata) as edited, all else
    as the profile named `base`, that they are told against. `parameters` are those that differ from
    `PARAMETERS`, in that order. CPUID has what the profile stands for, but for the `toggled`
    features. `evmcs`: the kernel runs on a Hyper-V that offers enlightened VMCSs.
    `stuffs_feature_msrs` False: the VM has that quirk turned off, which 6.12 knows.
    """

    profile: Profile
    base: str
    kernel: str
    parameters: tuple[tuple[str, int], ...] = ()
    toggled: frozenset[str] = frozenset()
    has_sgx: bool = False
    pmu_version: int = 2
    evmcs: bool = False
    stuffs_feature_msrs: bool = True

    def parameter(self, name: str) -> int:
        """Return the value of a module parameter."""
        return dict(self.parameters).get(name, PARAMETERS[name])


def parameters_of(values: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Return parameters as a `World` has them: those that differ from the defaults, in order."""
    return tuple(
        (name, values[name])
        for name, default in PARAMETERS.items()
        if values.get(name, default) != default
    )


def world_on(name: str, kernel: str) -> World:
    """Return the plain world of the profile of that name, with the default parameters."""
    profile = load_profile(name)
    pmu_version = 2 if "perf-global-ctrl" in profile.features else 1
    has_sgx = "sgx" in profile.features
    return World(profile, name, kernel, has_sgx=has_sgx, pmu_version=pmu_version)

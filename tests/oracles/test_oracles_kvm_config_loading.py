# SPDX-License-Identifier: GPL-2.0-only
"""The model of hardware_setup() against loading the modules as a whole, on processors of profiles.

Here the caller of setup_vmcs_config() is real as well, and so is the second call for the other
processors, which must print nothing again.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.hardware_setup import hardware_setup
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import find_kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome, KernelWarning
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names
from nvmxfuzz.targets.kvm_native.build.objects import find_object
from nvmxfuzz.targets.kvm_native.config_log import warning_of
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.library import Library

STRICT, LAX = ModuleParams(True), ModuleParams(False)
SKYLAKE = load_profile("skylake-x")
LOAD_EFER_ON_EXIT = 1 << (32 + 21)
ENABLE_EPT = 1 << (32 + 1)
ENABLE_VPID = 1 << (32 + 5)


@pytest.fixture(scope="module", params=["6.1", "6.12"])
def library(request: pytest.FixtureRequest) -> Library:
    try:
        built = find_object(request.param)
    except InputError as error:
        pytest.skip(f"kvm-{request.param}: {error}")
    return Library(built.path, built.symbols)


def version_of(library: Library) -> str:
    return "{}.{}".format(*library.kernel_version)


def loaded(
    library: Library, profile: Profile, params: ModuleParams, *, evmcs: bool = False
) -> tuple[int, tuple[KernelWarning | None, ...]]:
    """Return the error of loading the modules, and the warnings on the way."""
    library.restore()
    hardware_of(profile).install(library)
    library.functions.nvmx_set_hyperv_evmcs(evmcs)
    library.parameters[
        "error_on_inconsistent_vmcs_config"
    ].value = params.error_on_inconsistent_vmcs_config
    library.parameters["enlightened_vmcs"].value = params.enlightened_vmcs
    error = library.call("nvmx_insmod")
    result = library.result()
    warnings = tuple(filter(None, map(warning_of, result.log)))
    return error, warnings


def modelled(
    library: Library, profile: Profile, params: ModuleParams, *, evmcs: bool = False
) -> ConfigOutcome:
    host = HostCpu.of(profile, on_hyperv_evmcs=evmcs)
    return hardware_setup(host, find_kernel(version_of(library)), params)


def check(
    library: Library, profile: Profile, params: ModuleParams, *, evmcs: bool = False
) -> ConfigOutcome:
    outcome = modelled(library, profile, params, evmcs=evmcs)
    assert loaded(library, profile, params, evmcs=evmcs) == (outcome.errno, outcome.warnings)
    return outcome


def without(index: int, control: int) -> Profile:
    return replace(SKYLAKE, msrs={**SKYLAKE.msrs, index: SKYLAKE.msrs[index] & ~control})


def test_every_profile(library: Library) -> None:
    for name in profile_names():
        for params in (STRICT, LAX):
            check(library, load_profile(name), params)


def test_the_erratum_is_warned_about_by_the_caller_too(library: Library) -> None:
    outcome = check(library, load_profile("arrandale"), STRICT)
    assert outcome.warnings == (KernelWarning("perf_global_ctrl_erratum"),)


@pytest.mark.parametrize(
    ("profile", "site"),
    [
        (without(0x483, LOAD_EFER_ON_EXIT), "entry_exit_pair"),
        (without(0x48B, ENABLE_EPT), "ept_cap_without_control"),
        (without(0x48B, ENABLE_VPID), "vpid_cap_without_control"),
    ],
)
def test_what_is_inconsistent(library: Library, profile: Profile, site: str) -> None:
    refused = check(library, profile, STRICT)
    assert (refused.site, [each.site for each in refused.warnings]) == (site, [site])
    degraded = check(library, profile, LAX)
    assert (degraded.errno, degraded.warnings) == (0, refused.warnings)


def test_on_hyperv(library: Library) -> None:
    filtered = check(library, SKYLAKE, STRICT, evmcs=True)
    assert bool(filtered.warnings) == (version_of(library) == "6.12")
    check(library, SKYLAKE, ModuleParams(True, enlightened_vmcs=False), evmcs=True)

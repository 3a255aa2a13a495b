# SPDX-License-Identifier: GPL-2.0-only
"""The world of a case in the terms of the witnesses."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from nvmxfuzz.inputs.world import FEATURES, PARAMETERS, parameters_of, world_on
from nvmxfuzz.kvm.guest_cpuid import CPUID_BITS
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu, ModuleParams
from nvmxfuzz.machine.profile import load_profile, profile_names
from nvmxfuzz.oracles.restore.worlds import msr_world


@pytest.mark.parametrize("name", profile_names())
def test_a_plain_world_is_the_profile(name: str) -> None:
    found = msr_world(world_on(name, "6.12"))
    assert found.profile == name
    assert found.host == HostCpu.of(load_profile(name))
    assert found.params == DEFAULT_PARAMS
    assert found.stuffs_feature_msrs


def test_the_words_are_those_of_the_model() -> None:
    assert set(FEATURES) == set(CPUID_BITS)
    named = {each.name: getattr(DEFAULT_PARAMS, each.name) for each in fields(ModuleParams)}
    assert named == dict(PARAMETERS)


def test_what_differs_is_carried_over() -> None:
    plain = world_on("skylake-x", "6.12")
    world = replace(
        plain,
        parameters=parameters_of({"ept": 0, "nested": 1, "ignore_msrs": 1}),
        toggled=frozenset({"MPX", "LA57"}),
        has_sgx=not plain.has_sgx,
        pmu_version=5,
        evmcs=True,
        stuffs_feature_msrs=False,
    )
    assert world.parameters == (("ept", 0), ("ignore_msrs", 1))
    assert world.parameter("ept") == 0
    assert world.parameter("vpid") == 1
    found = msr_world(world)
    before = msr_world(plain)
    assert found.params == replace(DEFAULT_PARAMS, ept=False, ignore_msrs=True)
    assert found.host.features == before.host.features ^ {"MPX", "LA57"}
    assert found.host.has_sgx != before.host.has_sgx
    assert (found.host.pmu_version, found.host.on_hyperv_evmcs) == (5, True)
    assert not found.stuffs_feature_msrs

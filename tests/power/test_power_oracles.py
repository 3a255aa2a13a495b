# SPDX-License-Identifier: GPL-2.0-only
"""No oracle is left out: each has a fault that it, among others or alone, is to find."""

from __future__ import annotations

import os

import pytest

from nvmxfuzz.campaign.plan import harness_file, harness_names, load_harness
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.errors import InputError
from nvmxfuzz.power.fault import all_faults

TARGETS = {
    "vm_entry": (None, "kvm-model-6.12", "kvm-6.12", "kvm-6.12+rules", "bochs"),
    "capability_config": (None, "kvm-6.12"),
    "capability_restore": (None, "kvm-6.12"),
    "migration": (None, "kvm-6.12"),
    "session": (None, "kvm-6.12"),
}


def oracles(harness: str, target: str | None) -> set[str]:
    try:
        asked = with_target(load_harness(harness_file(harness)), target, isolated=True)
    except InputError as reason:
        if target != "bochs" and "6.12" in os.environ.get("NVMXFUZZ_REQUIRE_KVM", "").split(","):
            raise
        pytest.skip(str(reason))
    return {oracle.name for oracle in (*asked.always, *asked.oracles)}


def test_every_harness_has_its_targets_here() -> None:
    assert set(TARGETS) == set(harness_names())


@pytest.mark.parametrize(
    ("harness", "target"),
    [(harness, target) for harness, targets in TARGETS.items() for target in targets],
)
def test_each_oracle_has_a_fault(harness: str, target: str | None) -> None:
    faults = [fault for fault in all_faults().values() if fault.harness == harness]
    named = {oracle for fault in faults for oracle in fault.oracles}
    assert oracles(harness, target) - named == set()


def test_there_are_faults_enough() -> None:
    faults = all_faults().values()
    assert len(faults) >= 120
    assert sum(fault.is_in_kernel for fault in faults) >= 40
    assert {fault.kernel for fault in faults} == {"", "6.1", "6.12"}

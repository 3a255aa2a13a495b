# SPDX-License-Identifier: GPL-2.0-only
"""The oracles over capability MSRs: a case for each known breach, and nothing beside.

Planted faults are in `test_oracles_restore_case.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import RestoreCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.kvm.msr_behaviour import MSR_KERNELS
from nvmxfuzz.oracles.known_breach import KnownBreach
from nvmxfuzz.oracles.restore.capability_restore import BREACHES, ORACLES
from nvmxfuzz.oracles.restore.case import prepared
from nvmxfuzz.oracles.restore.known import KNOWN, known
from nvmxfuzz.oracles.restore.sequences import sequence, values_of, world
from nvmxfuzz.oracles.restore.witness import (
    ModelMsrs,
    MsrWitness,
    Sequence,
)
from nvmxfuzz.oracles.restore.worlds import msr_world
from nvmxfuzz.targets.kvm_native.msrs import msr_witness

VECTORS: Final = Path(__file__).parents[2] / "corpus" / "vectors" / "capability-restore"
OTHERS = ("6.1", "6.12")


def shown(entry: KnownBreach[str], kernel: str) -> RestoreCase:
    """Return the vector of a known breach, in a world of that kernel."""
    (path,) = VECTORS.glob(f"{entry.oracle}/{entry.name}.toml")
    case = load_case(path.read_bytes(), path.name)
    assert isinstance(case, RestoreCase)
    assert case.world.kernel == entry.kernels[-1]
    return replace(case, world=replace(case.world, kernel=kernel))


def names_shown(entry: KnownBreach[str], steps: Sequence, witness: MsrWitness) -> Iterator[str]:
    for site, _ in BREACHES[entry.oracle](steps, witness):
        covered = known(entry.oracle, site, witness.kernel)
        assert covered is not None, site
        yield covered.name


@pytest.mark.parametrize(
    ("entry", "kernel"),
    [(entry, kernel) for entry in KNOWN for kernel in entry.kernels],
    ids=lambda given: given.name if isinstance(given, KnownBreach) else given,
)
def test_each_known_breach_is_still_there(entry: KnownBreach[str], kernel: str) -> None:
    lived = prepared(shown(entry, kernel))
    assert lived.witness.loaded.errno == 0
    assert entry.name in set(names_shown(entry, lived.steps, lived.witness))


@pytest.mark.parametrize("kernel", OTHERS)
def test_the_real_kvm_shows_them_too(kernel: str) -> None:
    try:
        real = msr_witness(kernel)
    except InputError as error:
        if kernel in os.environ.get("NVMXFUZZ_REQUIRE_KVM", "").split(","):
            pytest.fail(f"required by NVMXFUZZ_REQUIRE_KVM: {error}")
        pytest.skip(str(error))
    for entry in KNOWN:
        if kernel in entry.kernels:
            case = shown(entry, kernel)
            assert real.load(msr_world(case.world)).errno == 0, entry.name
            assert entry.name in set(names_shown(entry, prepared(case).steps, real)), entry.name


def test_every_vector_is_of_a_known_breach() -> None:
    found = {(path.parent.name, path.stem) for path in VECTORS.rglob("*.toml")}
    assert found == {(entry.oracle, entry.name) for entry in KNOWN}


def lives(kernel: str, seed: int, worlds: int) -> Iterator[tuple[ModelMsrs, Sequence]]:
    """Yield loaded models and sequences."""
    model = ModelMsrs(kernel)
    for number in range(worlds):
        source = Random(f"{seed}/{number}")
        if model.load(world(source)).errno or model.module is None:
            continue
        given = values_of(model.module, source)
        for _ in range(10):
            yield model, sequence(source, given)


@pytest.mark.parametrize("kernel", MSR_KERNELS)
def test_nothing_beside_what_is_known(kernel: str) -> None:
    for model, steps in lives(kernel, 3, 60):
        for oracle in ORACLES:
            assert oracle.check(steps, model) is None


def test_oracles_have_a_sentence() -> None:
    assert [oracle.name for oracle in ORACLES] == list(BREACHES)
    assert all(oracle.sentence.endswith(".") for oracle in ORACLES)


def test_an_unknown_site_or_another_kernel_is_not_known() -> None:
    assert known("restore.atomic", "SetCpuid", "6.1") is None
    assert known("restore.round-trip", "IA32_FEATURE_CONTROL", "6.12") is None
    assert known("restore.order-free", "partly taken", "6.1") is None
    assert known("restore.atomic", "partly taken and more", "6.1") is None

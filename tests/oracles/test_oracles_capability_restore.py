# SPDX-License-Identifier: GPL-2.0-only
"""The oracles over capability MSRs: planted faults, and a case for each known breach."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import RestoreCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu
from nvmxfuzz.kvm.msr_behaviour import MSR_KERNELS
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.capability_restore import BREACHES, ORACLES
from nvmxfuzz.oracles.known_restore import KNOWN, KnownBreach, known
from nvmxfuzz.oracles.msr_sequences import sequence, values_of, world
from nvmxfuzz.oracles.msr_witness import (
    Loaded,
    ModelMsrs,
    MsrWitness,
    MsrWorld,
    RestoreMsr,
    Sequence,
    SetCpuid,
    SetMsrs,
)
from nvmxfuzz.oracles.restore_case import prepared
from nvmxfuzz.oracles.worlds import msr_world
from nvmxfuzz.targets.kvm_native.msrs import msr_witness

VECTORS: Final = Path(__file__).parents[2] / "corpus" / "vectors" / "capability-restore"
FEATURE_CONTROL, ENUM, VMFUNC = 0x3A, 0x48A, 0x491
SECONDARY, EPT_VPID, ENTRY = 0x48B, 0x48C, 0x490
OTHERS = ("6.1", "6.12")


def on() -> MsrWorld:
    """Return a world."""
    profile = load_profile("skylake-x")
    return MsrWorld(profile.name, HostCpu.of(profile), DEFAULT_PARAMS)


def values(kernel: str, where: MsrWorld) -> dict[int, int]:
    """Return what a default VM has."""
    model = ModelMsrs(kernel)
    assert model.load(where).errno == 0
    model.set_cpuid(model.loaded.supported)
    return dict(zip((FEATURE_CONTROL, *range(0x480, 0x492)), model.read(), strict=True))


def supported(kernel: str, where: MsrWorld) -> GuestCpuid:
    """Return the CPUID of a default VM."""
    return ModelMsrs(kernel).load(where).supported


def shown(entry: KnownBreach, kernel: str) -> RestoreCase:
    """Return the vector of a known breach, in a world of that kernel."""
    (path,) = VECTORS.glob(f"{entry.oracle}/{entry.name}.toml")
    case = load_case(path.read_bytes(), path.name)
    assert isinstance(case, RestoreCase)
    assert case.world.kernel == entry.kernels[-1]
    return replace(case, world=replace(case.world, kernel=kernel))


def names_shown(entry: KnownBreach, steps: Sequence, witness: MsrWitness) -> Iterator[str]:
    for site, _ in BREACHES[entry.oracle](steps, witness):
        covered = known(entry.oracle, site, witness.kernel)
        assert covered is not None, site
        yield covered.name


@pytest.mark.parametrize(
    ("entry", "kernel"),
    [(entry, kernel) for entry in KNOWN for kernel in entry.kernels],
    ids=lambda given: given.name if isinstance(given, KnownBreach) else given,
)
def test_each_known_breach_is_still_there(entry: KnownBreach, kernel: str) -> None:
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


# ---------------------------------------------------------------------- planted faults


class RefusesWhatItSaid(ModelMsrs):
    """restore.round-trip: EPT_VPID_CAP as it is read is refused."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        return 0 if values[0] == (EPT_VPID, self.read()[13]) else super().set_msrs(values)


class OffersMore(ModelMsrs):
    """restore.never-widens: a control that KVM does not have is taken."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        if values[0][0] == SECONDARY:
            self.vcpu.msrs.secondary_ctls_high = values[0][1] >> 32
            return 1
        return super().set_msrs(values)


class WritesBeforeItRefuses(ModelMsrs):
    """restore.atomic: the low half is written before the high half is looked at."""

    def restore_msr(self, index: int, value: int) -> int:
        """Do it wrong."""
        if index == SECONDARY:
            self.vcpu.msrs.secondary_ctls_low = value & 0xFFFF_FFFF
        return super().restore_msr(index, value)


class DependsOnOrder(ModelMsrs):
    """restore.order-free: VMFUNC clears EPT_VPID_CAP."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        if values[0][0] == VMFUNC:
            self.vcpu.msrs.ept_caps = 0
        return super().set_msrs(values)


class Toggles(ModelMsrs):
    """restore.idempotent: VMCS_ENUM changes each time that it is written."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        before = self.vcpu.msrs.vmcs_enum
        taken = super().set_msrs(values)
        if values[0][0] == ENUM:
            self.vcpu.msrs.vmcs_enum = before + 2
        return taken


class ForgetsWithCpuid(ModelMsrs):
    """restore.survives-cpuid: CPUID makes the MSRs anew."""

    def set_cpuid(self, cpuid: GuestCpuid) -> int:
        """Do it wrong."""
        assert self.module is not None
        self.vcpu.msrs = self.module.nested.copy()
        return super().set_cpuid(cpuid)


class OffersWhatIsNotThere(ModelMsrs):
    """nested.within-config: VM exit loads IA32_EFER, VM entry does not."""

    def load(self, world: MsrWorld) -> Loaded:
        """Do it wrong."""
        loaded = super().load(world)
        system = list(loaded.system)
        system[ENTRY - 0x480] &= ~(1 << 32 + 15)
        self.loaded = replace(loaded, system=tuple(system))
        return self.loaded


def fault_steps(kernel: str) -> Sequence:
    v = values(kernel, on())
    return (
        SetCpuid(supported(kernel, on())),
        SetMsrs(((EPT_VPID, v[EPT_VPID] & ~1),)),
        SetMsrs(((VMFUNC, 0),)),
        SetMsrs(((ENUM, 0x12),)),
        RestoreMsr(SECONDARY, v[SECONDARY] | 1 << 32 + 31 | 1),
        SetMsrs(((SECONDARY, v[SECONDARY] | 1 << 32 + 31),)),
        SetCpuid(supported(kernel, on())),
    )


FAULTS: Final[tuple[tuple[str, Callable[[str], ModelMsrs]], ...]] = (
    ("restore.round-trip", RefusesWhatItSaid),
    ("restore.never-widens", OffersMore),
    ("restore.atomic", WritesBeforeItRefuses),
    ("restore.order-free", DependsOnOrder),
    ("restore.idempotent", Toggles),
    ("restore.survives-cpuid", ForgetsWithCpuid),
    ("nested.within-config", OffersWhatIsNotThere),
)


@pytest.mark.parametrize("kernel", OTHERS)
@pytest.mark.parametrize(("name", "faulty"), FAULTS, ids=[name for name, _ in FAULTS])
def test_a_planted_fault_is_found(
    name: str, faulty: Callable[[str], ModelMsrs], kernel: str
) -> None:
    steps = fault_steps(kernel)
    oracle = next(oracle for oracle in ORACLES if oracle.name == name)
    for witness, fires in ((ModelMsrs(kernel), False), (faulty(kernel), True)):
        witness.load(on())
        assert (oracle.check(steps, witness) is not None) is fires

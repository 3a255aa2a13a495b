# SPDX-License-Identifier: GPL-2.0-only
"""Restore cases through the whole harness: translated, lived through, and planted faults found."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import pytest

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.campaign.restore_sites import CHECKS, RESTORE_SITES, CheckedModel
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import steps as told
from nvmxfuzz.inputs.case import Case, RestoreCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.mutate import mutator
from nvmxfuzz.inputs.random_steps import RESTORABLE
from nvmxfuzz.inputs.steps import OWN, Offer, Value, Write, absolute
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.kvm import msr_vcpu
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.kvm.msr_behaviour import EMULATED_VMX_MSRS
from nvmxfuzz.oracles.restore.case import offered, prepared
from nvmxfuzz.oracles.restore.kvm_restore import real_oracles
from nvmxfuzz.oracles.restore.witness import (
    Loaded,
    ModelMsrs,
    MsrWorld,
    Nested,
    Rdmsr,
    RestoreMsr,
    SetCpuid,
    SetMsrs,
    Smi,
    WitnessStoppedError,
    Wrmsr,
)
from nvmxfuzz.oracles.restore.worlds import NEEDED, msr_world
from nvmxfuzz.triage.minimise import Budget, minimise

HARNESS: Final = load_harness(harness_file("capability_restore"))
SEEDS: Final = Path(__file__).parents[2] / "corpus" / "seeds" / "capability_restore"
SECONDARY, EPT_VPID, ENUM, VMFUNC, ENTRY = 0x48B, 0x48C, 0x48A, 0x491, 0x490


def world(kernel: str = "6.12") -> World:
    return world_on("skylake-x", kernel)


def lived(*steps: told.Step, where: World | None = None) -> tuple[object, ...]:
    return prepared(RestoreCase(where or world(), steps)).steps


# ---------------------------------------------------------------------- translation


def test_offers_are_those_of_the_kernels() -> None:
    own = offered(world(), OWN)
    assert own[EPT_VPID] == 0xF0106334041
    assert offered(world("6.1"), Offer("6.12")) == own
    assert offered(world("6.1"), Offer("6.12", "haswell")) == offered(
        world_on("haswell", "6.12"), OWN
    )
    assert offered(world(), Offer("5.18")) != own
    nothing = replace(world(), parameters=(("nested", 0),))
    assert offered(nothing, OWN) == {}


def test_an_edit_is_unset_then_set_then_flipped() -> None:
    old = offered(world(), OWN)[EPT_VPID]
    write = Write(EPT_VPID, Value(OWN, unset=0xF, ones=0x6, flip=0x3))
    (step,) = lived(told.RestoreMsr(write))
    assert step == RestoreMsr(EPT_VPID, old & ~0xF | 0x5)
    (step,) = lived(told.SetMsrs((Write(0x3A, absolute(5)), Write(ENUM, Value(OWN)))))
    assert step == SetMsrs(((0x3A, 5), (ENUM, offered(world(), OWN)[ENUM])))


def test_cpuid_is_told_against_the_supported_one() -> None:
    supported = prepared(RestoreCase(world())).witness.module
    assert supported is not None
    plain, other = lived(
        told.SetCpuid(),
        told.SetCpuid(frozenset({"INVPCID", "OSPKE"}), "absent", hyperv=True),
    )
    assert plain == SetCpuid(supported.supported_cpuid)
    features = supported.supported_cpuid.features ^ {"INVPCID"}
    assert other == SetCpuid(GuestCpuid(features, None, hyperv=True))
    (third,) = lived(told.SetCpuid(pmu_version=1, hyperv=True, evmcs_perf_global_ctrl=True))
    assert isinstance(third, SetCpuid)
    assert (third.cpuid.pmu_version, third.cpuid.evmcs_perf_global_ctrl) == (1, True)
    (same,) = lived(told.SetCpuid(evmcs_perf_global_ctrl=True))
    assert same == plain


def test_what_the_vcpu_cannot_do_is_left_out() -> None:
    read, write = told.Rdmsr(0x480), told.Wrmsr(Write(0x480, absolute(0)))
    cpuid, smi = told.SetCpuid(), told.Smi()
    assert lived(read, write, smi) == ()
    kinds = [type(step) for step in lived(cpuid, smi, read, told.Vmxon(), read, smi, smi, read)]
    assert kinds == [SetCpuid, Rdmsr, Nested, Smi]
    kinds = [type(step) for step in lived(cpuid, told.Vmxon(), read, told.Vmxoff(), write)]
    assert kinds == [SetCpuid, Nested, Nested, Wrmsr]
    blind = replace(world(), parameters=(("ept", 0),))
    assert [type(step) for step in lived(cpuid, read, where=blind)] == [SetCpuid]
    real_mode = replace(world(), parameters=(("unrestricted_guest", 0),))
    assert [type(step) for step in lived(cpuid, read, smi, where=real_mode)] == [SetCpuid, Rdmsr]


def test_every_world_has_the_features_that_kvm_needs() -> None:
    toggled = replace(world(), toggled=NEEDED | {"MPX"})
    plain = msr_world(world()).host.features
    assert msr_world(toggled).host.features == plain ^ {"MPX"}


def test_the_msrs_that_are_restored() -> None:
    assert set(RESTORABLE) == set(EMULATED_VMX_MSRS)


# ---------------------------------------------------------------------- seeds, sites


@pytest.mark.parametrize("path", sorted(SEEDS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_seed_says_what_it_is_and_shows_nothing_new(path: Path) -> None:
    case = load_case(path.read_bytes(), path.name)
    assert isinstance(case, RestoreCase)
    assert case.note
    assert HARNESS.decode(HARNESS.encode(case)) == case
    assert prepared(case).witness.loaded.errno == 0
    assert HARNESS.examine(case) == ()


def inputs(count: int) -> list[RestoreCase]:
    """Return what seeds become by mutation."""
    rng = Random(4)
    mutate = mutator("capability_restore", lambda data, _: data)
    files = sorted(SEEDS.glob("*.toml"))
    pool = [HARNESS.encode(load_case(path.read_bytes(), path.name)) for path in files]
    found = []
    for _ in range(count):
        data = mutate(rng.choice(pool), 2048, rng.getrandbits(32))
        pool.append(data)
        case = HARNESS.decode(data)
        assert isinstance(case, RestoreCase)
        found.append(case)
    return found


def test_mutated_seeds_show_nothing_new_and_most_sites() -> None:
    seen = 0
    for case in inputs(1500):
        result, verdicts = HARNESS.judge(case)
        seen |= sum(1 << number for number in verdicts.broken)
        assert HARNESS.check(case, result) == ()
    missing = [name for number, name in enumerate(RESTORE_SITES) if not seen >> number & 1]
    assert len(missing) < len(RESTORE_SITES) // 5, missing


def test_the_sites_are_the_checks_of_the_model() -> None:
    folder = Path(msr_vcpu.__file__).parent
    source = (folder / "msr_restore.py").read_text() + (folder / "msr_vcpu.py").read_text()
    assert all(f'"{check}"' in source for check in CHECKS)
    assert source.count('"restore.') + source.count('"set-msr.') == len(CHECKS)


# ---------------------------------------------------------------------- planted faults


class Widens(CheckedModel):
    """A control that KVM does not have is taken."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        if values[0][0] == SECONDARY:
            self.vcpu.msrs.secondary_ctls_high = values[0][1] >> 32
            return 1
        return super().set_msrs(values)


class IsNotAtomic(CheckedModel):
    """The low half is written before the high half is looked at."""

    def restore_msr(self, index: int, value: int) -> int:
        """Do it wrong."""
        if index == SECONDARY:
            self.vcpu.msrs.secondary_ctls_low = value & 0xFFFF_FFFF
        return super().restore_msr(index, value)


class RefusesWhatItSaid(CheckedModel):
    """EPT_VPID_CAP as it is read is refused."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        return 0 if values[0] == (EPT_VPID, self.read()[13]) else super().set_msrs(values)


class DependsOnOrder(CheckedModel):
    """VMFUNC clears EPT_VPID_CAP."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        if values[0][0] == VMFUNC:
            self.vcpu.msrs.ept_caps = 0
        return super().set_msrs(values)


class Toggles(CheckedModel):
    """VMCS_ENUM changes each time that it is written."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        before = self.vcpu.msrs.vmcs_enum
        taken = super().set_msrs(values)
        if values[0][0] == ENUM:
            self.vcpu.msrs.vmcs_enum = before + 2
        return taken


class ForgetsWithCpuid(CheckedModel):
    """CPUID makes the MSRs anew."""

    def set_cpuid(self, cpuid: GuestCpuid) -> int:
        """Do it wrong."""
        assert self.module is not None
        self.vcpu.msrs = self.module.nested.copy()
        return super().set_cpuid(cpuid)


class KeepsHalf(CheckedModel):
    """Of EPT_VPID_CAP only what is said of EPT is kept."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        taken = super().set_msrs(values)
        if values[0][0] == EPT_VPID:
            self.vcpu.msrs.vpid_caps = 0
        return taken


class OffersWhatIsNotThere(CheckedModel):
    """VM exit loads IA32_EFER, VM entry does not."""

    def load(self, world: MsrWorld) -> Loaded:
        """Do it wrong."""
        loaded = super().load(world)
        if loaded.system:
            system = list(loaded.system)
            system[ENTRY - 0x480] &= ~(1 << 32 + 15)
            self.loaded = replace(loaded, system=tuple(system))
        return self.loaded


class TellsOfFewFields(CheckedModel):
    """VMCS_ENUM stops short of the TSC multiplier."""

    def load(self, world: MsrWorld) -> Loaded:
        """Do it wrong."""
        loaded = super().load(world)
        if loaded.system:
            system = list(loaded.system)
            system[ENUM - 0x480] = 0x30
            self.loaded = replace(loaded, system=tuple(system))
        return self.loaded


class DemandsTheImpossible(CheckedModel):
    """After CPUID, CR4 must have a bit that no CR4 has."""

    def set_cpuid(self, cpuid: GuestCpuid) -> int:
        """Do it wrong."""
        self.vcpu.msrs.cr4_fixed0 |= 1 << 40
        return super().set_cpuid(cpuid)


FAULTS: Final[tuple[tuple[str, Callable[[str], ModelMsrs]], ...]] = (
    ("restore.never-widens", Widens),
    ("restore.atomic", IsNotAtomic),
    ("restore.round-trip", RefusesWhatItSaid),
    ("restore.order-free", DependsOnOrder),
    ("restore.idempotent", Toggles),
    ("restore.survives-cpuid", ForgetsWithCpuid),
    ("restore.reads-back", KeepsHalf),
    ("nested.within-config", OffersWhatIsNotThere),
    ("nested.within-config", TellsOfFewFields),
    ("nested.usable", DemandsTheImpossible),
)

SHOWING: Final = (
    told.SetCpuid(),
    told.SetMsrs((Write(EPT_VPID, Value(OWN, unset=1)),)),
    told.SetMsrs((Write(VMFUNC, absolute(0)),)),
    told.SetMsrs((Write(ENUM, absolute(0x12)),)),
    told.RestoreMsr(Write(SECONDARY, Value(OWN, ones=1 << 63 | 1))),
    told.SetMsrs((Write(SECONDARY, Value(OWN, ones=1 << 63)),)),
    told.SetCpuid(),
)


def planted(faulty: Callable[[str], ModelMsrs]) -> Harness:
    return replace(HARNESS, run=partial(prepared, make=faulty))


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize(("name", "faulty"), FAULTS, ids=[fault[1].__name__ for fault in FAULTS])
def test_a_planted_fault_is_found(
    name: str, faulty: Callable[[str], ModelMsrs], kernel: str
) -> None:
    # Also where userspace writes no MSR: unsound values that it writes are known to be taken.
    cases = [RestoreCase(world(kernel), steps) for steps in (SHOWING, SHOWING[:1])]
    assert [HARNESS.examine(case) for case in cases] == [(), ()]
    found = [found for case in cases for found in planted(faulty).examine(case)]
    assert name in {finding.oracle for finding in found}


def test_mutation_finds_a_planted_fault_and_minimising_leaves_its_core() -> None:
    harness = planted(Widens)
    case, finding = next(
        (case, found)
        for case in inputs(1500)
        for found in harness.examine(case)
        if found.oracle == "restore.never-widens"
    )

    def shows(smaller: Case) -> bool:
        return finding.identity in {found.identity for found in harness.examine(smaller)}

    smallest = minimise(case, shows, Budget(seconds=30))
    assert isinstance(smallest, RestoreCase)
    assert len(smallest.steps) <= 2
    assert smallest.world.parameters == ()
    assert shows(smallest)


def test_an_error_in_the_witness_is_a_finding() -> None:
    class Broken(CheckedModel):
        def set_cpuid(self, cpuid: GuestCpuid) -> int:
            raise RuntimeError(f"no {cpuid}")

    (found,) = planted(Broken).examine(RestoreCase(world(), (told.SetCpuid(),)))
    assert (found.oracle, found.rules) == ("no-error", ("RuntimeError",))


# ---------------------------------------------------------------------- the real KVM


class Stubborn(ModelMsrs):
    """Stands for the real KVM: it takes any VMCS_ENUM but one, and does not return from an SMI."""

    loads = 0

    def load(self, world: MsrWorld) -> Loaded:
        """Count."""
        self.loads += 1
        return super().load(world)

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        return 0 if values == ((ENUM, 0x666),) else super().set_msrs(values)

    def smi(self) -> int:
        """Do not return."""
        raise WitnessStoppedError("BUG")


def against(real: ModelMsrs) -> Harness:
    always, others = real_oracles(real)
    return replace(HARNESS, always=always, oracles=others)


def test_disagreement_and_breaches_of_the_real_one_are_findings() -> None:
    wrong = told.SetMsrs((Write(ENUM, absolute(0x666)),))
    real = Stubborn("6.12")
    case = RestoreCase(world(), (told.SetCpuid(), wrong))
    (found,) = against(real).examine(case)
    assert (found.oracle, found.rules, found.targets) == (
        "agreement.kvm-msrs",
        ("result",),
        ("model 6.12", "kvm-6.12"),
    )
    assert against(real).examine(replace(case, world=world("6.1"))) == ()
    stops = RestoreCase(world(), (told.SetCpuid(), told.Rdmsr(0x480), told.Smi()))
    assert [found.rules for found in against(real).examine(stops)] == [("stopped",)]


def test_a_breach_is_that_of_the_real_one() -> None:
    found = against(IsNotAtomic("6.12")).examine(RestoreCase(world(), SHOWING))
    assert {each.oracle for each in found} == {"agreement.kvm-msrs", "restore.atomic"}
    assert {each.targets for each in found if each.oracle == "restore.atomic"} == {
        ("kvm-6.12", "promise")
    }


def test_a_world_is_loaded_once_for_all_oracles() -> None:
    real = Stubborn("6.12")
    harness = against(real)
    for case in (RestoreCase(world(), SHOWING), RestoreCase(world(), SHOWING[:2])):
        assert harness.examine(case) == ()
    assert real.loads == 1
    assert harness.examine(RestoreCase(replace(world(), has_sgx=True))) == ()
    assert real.loads == 2


def built(target: str) -> Harness:
    try:
        return with_target(HARNESS, target, isolated=True)
    except InputError as error:
        if target.removeprefix("kvm-") in os.environ.get("NVMXFUZZ_REQUIRE_KVM", "").split(","):
            pytest.fail(f"required by NVMXFUZZ_REQUIRE_KVM: {error}")
        pytest.skip(str(error))


@pytest.mark.parametrize("target", ["kvm-6.1", "kvm-6.12"])
def test_the_real_kvm_agrees_and_keeps_its_promises(target: str) -> None:
    harness = built(target)
    for case in inputs(250):
        there = harness.at_home(case)
        assert isinstance(there, RestoreCase)
        assert harness.decode(harness.encode(case)) == there
        assert there.world.kernel == target.removeprefix("kvm-")
        assert harness.examine(there) == ()


def test_a_target_without_such_a_vcpu_is_refused() -> None:
    with pytest.raises(InputError, match="target bochs has no vCPU"):
        with_target(HARNESS, "bochs", isolated=True)
    with pytest.raises(InputError):
        with_target(HARNESS, "kvm-9.9", isolated=True)

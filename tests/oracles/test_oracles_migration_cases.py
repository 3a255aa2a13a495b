# SPDX-License-Identifier: GPL-2.0-only
"""Cases of migrations, run: what L1 does in them, and the model against other sides."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from nvmxfuzz.campaign.plan import ROOT, load_harness
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase, MigrationCase
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.kvm.host import HostCpu
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.migration.carrier import Entry, Side
from nvmxfuzz.oracles.migration.cases import (
    Migrator,
    agreement,
    attempts_of,
    breaches,
    difference,
    migrate,
)
from nvmxfuzz.oracles.migration.model_side import ModelSide
from nvmxfuzz.oracles.migration.tries import Usable
from nvmxfuzz.oracles.restore.witness import Loaded, MsrWorld, WitnessStoppedError
from nvmxfuzz.targets.kvm_native.migrating import side

PROFILE = load_profile("skylake-x")
ATTEMPT = base("guest-64", PROFILE)


def case(
    source: str = "6.1", destination: str = "6.12", attempt: Attempt = ATTEMPT
) -> MigrationCase:
    """Return a migration on one processor."""
    here, there = (world_on("skylake-x", kernel) for kernel in (source, destination))
    return MigrationCase(here, there, EntryCase(attempt, "guest-64"))


def test_a_case_runs_on_the_models_and_shows_its_breaches() -> None:
    what = migrate(case())
    assert what is not None
    assert what.kernels == ("6.1", "6.12")
    assert what.passages == ((Entry("entered"),) * 3,)
    assert breaches(case()) == ()
    assert breaches(case("5.18")) == (
        "migration.backward: refused secondary: enable ENCLS exiting",
    )


def test_kvm_that_does_not_load_is_no_migration() -> None:
    nowhere = replace(PROFILE, msrs={})
    unloaded = replace(case(), destination=replace(case().destination, profile=nowhere))
    assert migrate(unloaded) is None
    assert breaches(unloaded) == ()
    assert migrate(case()) is not None


def test_worlds_are_loaded_when_they_change() -> None:
    loads: list[str] = []

    class Counts(ModelSide):
        def load(self, world: MsrWorld) -> Loaded:
            loads.append(self.kernel)
            return super().load(world)

    @cache
    def side(kernel: str, _number: int) -> Side:
        return Counts(kernel)

    migrator = Migrator(lambda world, number: side(world.kernel, number))
    for _ in range(3):
        migrator.run(case())
    assert loads == ["6.1", "6.12"]
    migrator.run(case("6.12", "6.1"))
    migrator.run(case())
    assert len(loads) == 6


def test_l1_is_one_that_kvm_meets() -> None:
    processor = replace(ATTEMPT.processor, vmxon_pointer=NO_POINTER, current_vmcs=0x1000, cr4=0)
    memory = Memory.of({0x1000: b"x", (4 << 20) - 1: b"xy"})
    strange = replace(ATTEMPT, processor=processor, memory=memory)
    (possible,) = attempts_of(case(attempt=strange), PROFILE)
    assert possible.processor.vmxon_pointer == ATTEMPT.processor.vmxon_pointer
    assert possible.processor.cr4 & 0x2000
    assert all(start + len(data) <= 4 << 20 for start, data in possible.memory.regions)


class Enters(ModelSide):
    """A side on which every VM entry goes."""

    def enter(self, attempt: Attempt) -> Entry:
        """Do it wrong."""
        super().enter(attempt)
        return Entry("entered")


class Stops(ModelSide):
    """A side that does not return."""

    def enter(self, attempt: Attempt) -> Entry:
        """Do it wrong."""
        raise WitnessStoppedError(f"a BUG at {attempt.instruction}")


class NeverLoads(ModelSide):
    """A side on which KVM does not load."""

    def load(self, world: MsrWorld) -> Loaded:
        """Do it wrong."""
        super().load(world)
        self.loaded = replace(self.loaded, errno=-5)
        return self.loaded


def migrator_of(kind: type[ModelSide]) -> Migrator:
    """Return what runs cases on sides of a kind."""

    @cache
    def make(kernel: str, _number: int) -> Side:
        return kind(kernel)

    def side(world: World, number: int) -> Side:
        return make(world.kernel, number)

    return Migrator(side)


@pytest.mark.parametrize(
    ("kind", "site"),
    [(ModelSide, None), (Enters, "passages"), (Stops, "stopped"), (NeverLoads, "loading")],
)
def test_a_difference_to_the_real_kernels_is_found(kind: type[ModelSide], site: str | None) -> None:
    broken = replace(ATTEMPT, vmcs=ATTEMPT.vmcs.replace({"host_cr3": 1 << 63}))
    oracle = agreement(migrator_of(kind), "6.12")
    found = oracle.check(case(attempt=broken), migrate)
    assert (found.site if found else None) == site
    assert oracle.check(case("5.18", "6.1", broken), migrate) is None


def test_a_trace_of_several_checks_is_no_difference_and_another_check_is() -> None:
    ours = migrate(case())
    assert ours is not None
    for check, outcome, same in (
        ("nested_check_vm_execution_controls", "fail-valid 7", True),
        ("execution.eptp.memory-type", "fail-valid 7", True),
        ("execution.eptp.width", "fail-valid 7", False),
        ("", "fail-valid 7", False),
        ("nested_check_vm_execution_controls", "fail-valid 8", False),
    ):
        model, kernel = Entry("fail-valid 7", "execution.eptp.memory-type"), Entry(outcome, check)
        for left, right in (
            (replace(ours, passages=((model,) * 3,)), replace(ours, passages=((kernel,) * 3,))),
            (
                replace(ours, usable=(Usable(entry=model), Usable())),
                replace(ours, usable=(Usable(entry=kernel), Usable())),
            ),
        ):
            assert (difference(left, right) is None) is same


@pytest.mark.parametrize("profile", ["everything", "core-i5-3570"])
def test_the_width_of_addresses_is_that_of_the_world(profile: str) -> None:
    wide = "LA57" in HostCpu.of(load_profile(profile)).features
    for toggled in (frozenset[str](), frozenset({"LA57"})):
        worlds = [replace(world_on(profile, k), toggled=toggled) for k in ("6.12", "6.1")]
        plain = base("guest-64", load_profile(profile))
        attempt = replace(plain, vmcs=plain.vmcs.replace({"host_fs_base": 1 << 47}))
        told = MigrationCase(worlds[0], worlds[1], EntryCase(attempt, "guest-64"))
        what = migrate(told)
        assert what is not None
        before, _, after = what.passages[-1]
        assert before.entered is (wide is not bool(toggled))
        assert after == Entry("fail-valid 8", "host.fs.base")
        try:
            real = {kernel: side(kernel) for kernel in ("6.12", "6.1")}
        except InputError as missing:
            pytest.skip(str(missing))
        assert difference(what, Migrator(lambda w, _, r=real: r[w.kernel]).run(told)) is None  # type: ignore[misc] # a default binds the loop's variable


def test_nothing_and_nothing_are_the_same() -> None:
    assert difference(None, None) is None


def test_a_target_that_carries_no_vm_is_refused() -> None:
    harness = load_harness(ROOT / "fuzz" / "migration.py")
    with pytest.raises(InputError, match=r"the targets of migration are kvm-6\.1, kvm-6\.12"):
        with_target(harness, "kvm-6.12+rules", isolated=False)

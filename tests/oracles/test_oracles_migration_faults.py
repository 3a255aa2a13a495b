# SPDX-License-Identifier: GPL-2.0-only
"""Planted faults in one side of a migration: the harness finds each, by the right oracle."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final

import pytest

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase, MigrationCase
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.migration.carrier import Entry, Saved, Side
from nvmxfuzz.oracles.migration.cases import Migrator
from nvmxfuzz.oracles.migration.model_side import ModelSide
from nvmxfuzz.oracles.migration.oracles import BREACHES

HARNESS: Final = load_harness(harness_file("migration"))
EPT_VPID: Final = 0x48C


def case(source: str, destination: str) -> MigrationCase:
    """Return a migration on one processor."""
    here, there = (world_on("skylake-x", kernel) for kernel in (source, destination))
    attempt = base("guest-64", load_profile("skylake-x"))
    return MigrationCase(here, there, EntryCase(attempt, "guest-64"))


def examined(faulty: type[ModelSide], source: str, destination: str) -> tuple[Finding, ...]:
    """Return what the harness finds where the destination is of that kind."""

    @cache
    def side(kernel: str) -> Side:
        return (faulty if kernel == destination else ModelSide)(kernel)

    def make(world: World, _number: int) -> Side:
        return side(world.kernel)

    planted: Harness = replace(HARNESS, run=Migrator(make).run)
    return planted.examine(case(source, destination))


class RefusesEpt(ModelSide):
    """migration.backward: a newer kernel no longer takes EPT_VPID_CAP as the older one had it."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        for number, (index, _) in enumerate(values):
            if index == EPT_VPID:
                return super().set_msrs(values[:number])
        return super().set_msrs(values)


class Forgets(ModelSide):
    """migration.backward: MISC is taken, and something else is kept."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        taken = super().set_msrs(values)
        self.vcpu.msrs.misc_low &= ~(1 << 6)
        return taken


class WidensInSilence(ModelSide):
    """migration.backward: an MSR that nobody writes offers more than it did."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        taken = super().set_msrs(values)
        self.vcpu.msrs.cr4_fixed1 |= 1 << 40
        return taken


class ChangesWhatHasNoName(ModelSide):
    """migration.backward: a reserved control must be 1 that needed not."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        taken = super().set_msrs(values)
        self.vcpu.msrs.secondary_ctls_low |= 1 << 31
        return taken


class RefusesToEnter(ModelSide):
    """migration.no-new-vmfail: VMRESUME fails."""

    def enter(self, attempt: Attempt) -> Entry:
        """Do it wrong."""
        right = super().enter(attempt)
        return Entry("fail-valid 7") if attempt.instruction == "vmresume" else right


class RefusesToResume(ModelSide):
    """migration.no-new-vmfail: KVM_SET_NESTED_STATE of an L2 fails."""

    def resume(self, saved: Saved) -> Entry:
        """Do it wrong."""
        return Entry("errno 22") if saved.in_l2 else super().resume(saved)


class OffersTheImpossible(ModelSide):
    """nested.usable: a control must be 1, and may not."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        taken = super().set_msrs(values)
        self.vcpu.msrs.pinbased_ctls_low |= 1 << 20
        return taken


class OffersWhatNobodyHas(ModelSide):
    """nested.usable: CR4 must have a bit that no CR4 has."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Do it wrong."""
        taken = super().set_msrs(values)
        self.vcpu.msrs.cr4_fixed0 |= 1 << 40
        return taken


class EntersNothing(ModelSide):
    """nested.usable: KVM refuses every VMCS."""

    def enter(self, attempt: Attempt) -> Entry:
        """Do it wrong."""
        super().enter(attempt)
        return Entry("fail-valid 7", "execution.pin-based.allowed")


FAULTS: Final[tuple[tuple[str, type[ModelSide], str], ...]] = (
    ("migration.backward", RefusesEpt, "refused "),
    ("migration.backward", Forgets, "changed IA32_VMX_MISC"),
    ("migration.backward", WidensInSilence, "gained CR4 bit 40"),
    ("migration.backward", ChangesWhatHasNoName, "changed IA32_VMX_PROCBASED_CTLS2"),
    ("migration.no-new-vmfail", RefusesToEnter, "entry fail-valid 7"),
    ("migration.no-new-vmfail", RefusesToResume, "resume errno 22"),
    ("nested.usable", OffersTheImpossible, "destination: a control must be 1 and may not"),
    ("nested.usable", OffersWhatNobodyHas, "destination: no value of CR4 is legal"),
    (
        "nested.usable",
        EntersNothing,
        "destination: KVM refuses what the rules permit: execution.pin-based.allowed",
    ),
)


@pytest.mark.parametrize(("name", "faulty", "site"), FAULTS, ids=[f[1].__name__ for f in FAULTS])
def test_a_planted_fault_is_found(name: str, faulty: type[ModelSide], site: str) -> None:
    assert examined(ModelSide, "6.1", "6.12") == ()
    found = [each for each in examined(faulty, "6.1", "6.12") if each.oracle == name]
    assert any(each.site.startswith(site) for each in found), found


def test_a_campaign_asks_every_oracle_about_every_input() -> None:
    assert {oracle.name for oracle in HARNESS.always} == set(BREACHES)
    assert HARNESS.oracles == ()


def test_an_older_destination_owes_nothing() -> None:
    assert examined(RefusesEpt, "6.12", "6.1") == ()

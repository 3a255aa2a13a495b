# SPDX-License-Identifier: GPL-2.0-only
"""A migration case, run: on the models of its kernels, or where there are any on the real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Final

from nvmxfuzz.inputs.bases import base, default_base
from nvmxfuzz.inputs.case import MigrationCase
from nvmxfuzz.inputs.repair import repair
from nvmxfuzz.inputs.world import World
from nvmxfuzz.kvm.guest_memory import DEFAULT_SLOTS
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.kvm.l1 import unmet
from nvmxfuzz.oracles.migration.carrier import Carrier, Entry, Side
from nvmxfuzz.oracles.migration.model_side import ModelSide
from nvmxfuzz.oracles.migration.oracles import BREACHES
from nvmxfuzz.oracles.migration.tries import Tried, Usable, plain_way, try_way
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.restore.witness import MsrWorld, WitnessStoppedError
from nvmxfuzz.oracles.restore.worlds import msr_world

AGREEMENT: Final = "agreement.kvm-migration"
_RAM: Final = DEFAULT_SLOTS[0][1]

MakeSide = Callable[[World, int], Side]
"""Returns a side for a world; two numbers give two objects."""


class Migrator:
    """Runs cases, and keeps the sides loaded as long as the worlds are the same."""

    def __init__(self, make: MakeSide) -> None:
        self._make = make
        self._carriers: dict[tuple[Side, Side], Carrier] = {}
        self._ready: tuple[Carrier, MsrWorld, MsrWorld] | None = None
        self._loads = False

    def run(self, case: MigrationCase) -> Tried | None:
        """Return what a case comes to; None where KVM does not load, or has no nested VMX."""
        here, there = msr_world(case.source), msr_world(case.destination)
        carrier = self._carrier(case)
        if self._ready != (carrier, here, there):
            self._ready = None
            self._loads = carrier.load(here, there)
            self._ready = carrier, here, there
        if not self._loads:
            return None
        how = plain_way(carrier, case.order)
        return try_way(carrier, how, lambda profile: attempts_of(case, profile))

    def _carrier(self, case: MigrationCase) -> Carrier:
        source = self._make(case.source, 0)
        destination = self._make(
            case.destination, int(case.source.kernel == case.destination.kernel)
        )
        key = source, destination
        found = self._carriers.get(key)
        if found is None:
            found = self._carriers[key] = Carrier(*key)
        return found


def attempts_of(case: MigrationCase, profile: Profile) -> Sequence[Attempt]:
    """Return the case's VM entry on the processor that L1 finds: repaired, and as it is.

    L1 is one that got as far as VMLAUNCH in KVM: its VMXON region and VMCS are where they can be,
    and of its memory there is what the VM has.
    """
    given = replace(case.entry.attempt, profile=profile)
    made = (_possible(each) for each in (repair(given), given))
    return tuple(attempt for attempt in dict.fromkeys(made) if not unmet(attempt))


def _possible(attempt: Attempt) -> Attempt:
    usual = base(default_base(attempt.profile), attempt.profile).processor
    processor = replace(
        attempt.processor,
        in_smm=False,
        rtit_ctl=0,
        vmxon_pointer=usual.vmxon_pointer,
        current_vmcs=usual.current_vmcs,
        current_vmcs_is_shadow=False,
    )
    regions = attempt.memory.regions
    within = tuple((start, data) for start, data in regions if start + len(data) <= _RAM)
    return replace(attempt, processor=processor, memory=Memory(within))


@cache
def _model(kernel: str, number: int) -> ModelSide:
    del number
    return ModelSide(kernel)


def model_side(world: World, number: int) -> Side:
    """Return the model of a world's kernel."""
    return _model(world.kernel, number)


@cache
def _on_models() -> Migrator:
    return Migrator(model_side)


def migrate(case: MigrationCase) -> Tried | None:
    """Run a case on the models."""
    return _on_models().run(case)


def breaches(case: MigrationCase) -> tuple[str, ...]:
    """Return "ORACLE: SITE" for each breach that a case shows on the models, known or not."""
    tried = migrate(case)
    if tried is None:
        return ()
    said = (f"{name}: {site}" for name, found in BREACHES.items() for site, _ in found(tried))
    return tuple(dict.fromkeys(said))


def agreement(real: Migrator, kernel: str) -> Oracle[MigrationCase, Callable[..., Tried | None]]:
    """Return the oracle that holds the models against the real KVM in cases that have `kernel`."""
    targets = "model", f"kvm-{kernel}"

    def check(case: MigrationCase, run: Callable[[MigrationCase], Tried | None]) -> Finding | None:
        """The models and the real kernels carry a VM alike, and let L1 enter alike."""
        if kernel not in (case.source.kernel, case.destination.kernel):
            return None
        ours = run(case)
        try:
            theirs = real.run(case)
        except WitnessStoppedError as stopped:
            return Finding(AGREEMENT, (AGREEMENT,), targets, "stopped", str(stopped))
        different = difference(ours, theirs)
        if different is None:
            return None
        return Finding(AGREEMENT, (AGREEMENT,), targets, *different)

    return Oracle(AGREEMENT, "a VM with nested VMX that is migrated", check)


def difference(ours: Tried | None, theirs: Tried | None) -> tuple[str, str] | None:
    """Return where two migrations differ and how; None if they do not."""
    if ours is None or theirs is None:
        if ours is theirs:
            return None
        return "loading", f"KVM loads {'only' if ours else 'not'} in the model"
    for name in ("carried", "passages", "usable"):
        left, right = getattr(ours, name), getattr(theirs, name)
        if not _alike(left, right):
            return name, f"{left} in the model, {right} in the kernels"
    return None


def _alike(ours: object, theirs: object) -> bool:
    """Tell whether two parts are the same, as far as the kernels tell which check failed.

    Where a trace is that of several checks, it is told by the function, without a point.
    """
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return len(ours) == len(theirs) and all(map(_alike, ours, theirs))
    if isinstance(ours, Usable) and isinstance(theirs, Usable):
        rest = replace(ours, entry=None) == replace(theirs, entry=None)
        return rest and _alike(ours.entry, theirs.entry)
    if isinstance(ours, Entry) and isinstance(theirs, Entry) and theirs.check:
        return ours.outcome == theirs.outcome and ("." not in theirs.check or ours == theirs)
    return ours == theirs

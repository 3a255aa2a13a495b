# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of the real KVM over restore cases: it agrees with the model, and keeps promises.

The world of a case is loaded when it is another one than that of the case before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from nvmxfuzz.inputs.case import RestoreCase
from nvmxfuzz.inputs.world import World
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.restore import kvm_msrs
from nvmxfuzz.oracles.restore.capability_restore import ORACLES
from nvmxfuzz.oracles.restore.case import Run
from nvmxfuzz.oracles.restore.kvm_msrs import Comparison, compare, compare_loaded
from nvmxfuzz.oracles.restore.witness import Loaded, MsrWitness, Sequence, WitnessStoppedError
from nvmxfuzz.oracles.restore.worlds import msr_world

CaseOracle: TypeAlias = Oracle[RestoreCase, Run]


class RealWorld:
    """The real KVM of one version on the world of the last case."""

    def __init__(self, real: MsrWitness) -> None:
        """Take a witness for itself."""
        self.real = real
        self._world: World | None = None

    def loaded(self, world: World) -> Loaded:
        """Have KVM loaded on a world; WitnessStoppedError if it does not return from that."""
        if self._world != world:
            # Whatever becomes of loading, it is not loaded on the one before any more.
            self._world = None
            self.real.load(msr_world(world))
            self._world = world
        return self.real.loaded


def real_oracles(real: MsrWitness) -> tuple[tuple[CaseOracle, ...], tuple[CaseOracle, ...]]:
    """Return what every input meets and what some do, in cases on the kernel of `real`."""
    place = RealWorld(real)
    return (_agreement(place),), tuple(_on_the_real_one(oracle, place) for oracle in ORACLES)


def _agreement(place: RealWorld) -> CaseOracle:
    def agrees(case: RestoreCase, run: Run) -> Finding | None:
        """After each step the model and the real KVM have the same result and the same MSRs."""
        if case.world.kernel != place.real.kernel:
            return None
        return kvm_msrs.finding(place.real.kernel, _compared(case, run, place))

    return Oracle(kvm_msrs.NAME, "KVM itself, built from the kernel's source", agrees)


def _compared(case: RestoreCase, run: Run, place: RealWorld) -> Comparison:
    lived = run(case)
    model = lived.witness
    try:
        found = compare_loaded(model.loaded, place.loaded(case.world))
        if found.relation != "agreed" or model.module is None:
            return found
        return compare(model, place.real, lived.steps)
    except WitnessStoppedError as stopped:
        return Comparison("stopped", 0, "loading", "", str(stopped))


def _on_the_real_one(oracle: Oracle[Sequence, MsrWitness], place: RealWorld) -> CaseOracle:
    check_steps: Callable[[Sequence, Any], Finding | None] = oracle.check

    def check(case: RestoreCase, run: Run) -> Finding | None:
        if case.world.kernel != place.real.kernel:
            return None
        lived = run(case)
        try:
            if place.loaded(case.world).errno:
                return None
            found = check_steps(lived.steps, place.real)
        except WitnessStoppedError:
            # The comparison with the model, which every input meets, tells of that.
            return None
        if found is None:
            return None
        kernel = place.real.kernel
        return Finding(
            found.oracle, found.rules, (f"kvm-{kernel}", "promise"), found.site, found.message
        )

    check.__doc__ = oracle.check.__doc__
    return Oracle(oracle.name, oracle.source, check)

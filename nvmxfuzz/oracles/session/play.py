# SPDX-License-Identifier: GPL-2.0-only
"""A session on a witness: its world loaded, its steps made, what was seen before and after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.inputs.session_steps import VCPUS, SessionStep
from nvmxfuzz.inputs.world import World
from nvmxfuzz.oracles.restore.witness import WitnessStoppedError
from nvmxfuzz.oracles.session.witness import SessionWitness, StepResult, VcpuView

NOT_MODELLED: Final = "not modelled"
"""How `StepResult.stopped` begins where a model has come to its end, and not KVM."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A step, what it came to, and its vCPU before and after."""

    step: SessionStep
    before: VcpuView
    result: StepResult
    after: VcpuView


class Stage:
    """A witness, and the world that it is loaded on; loading is what costs most."""

    def __init__(self, witness: SessionWitness) -> None:
        """Take a witness for itself."""
        self.witness = witness
        self._world: World | None = None
        self._refusal = ""
        self._views: tuple[VcpuView, ...] = ()
        """The vCPUs of a session as it begins."""

    def refusal(self, world: World) -> str:
        """Load a world if it is not loaded; return why KVM refuses it, "" if it does not."""
        if self._world != world:
            # Whatever becomes of loading, it is not loaded on the one before any more.
            self._world = None
            self._refusal = self.witness.load(world)
            if not self._refusal:
                self._views = tuple(map(self.witness.read, range(VCPUS)))
            self._world = world
        return self._refusal

    def play(self, world: World, steps: Sequence[SessionStep]) -> tuple[Moment, ...]:
        """Make the steps on new vCPUs, up to one that KVM does not return from."""
        life = self.begin(world)
        if life is None:
            return ()
        for step in steps:
            life.make(step)
            if life.stopped:
                break
        return tuple(life.moments)

    def begin(self, world: World) -> Life | None:
        """Return new vCPUs, which end where others begin; None where KVM refuses the world."""
        return None if self.refusal(world) else Life(self.witness, self._views)


class Life:
    """The vCPUs of a session from new on, a step at a time."""

    def __init__(self, witness: SessionWitness, views: Sequence[VcpuView]) -> None:
        """Have everything as it was loaded, which `views` show."""
        witness.renew()
        self._witness = witness
        self.views = list(views)
        """What can be read of the vCPUs now."""
        self.moments: list[Moment] = []
        self.stopped = False
        """Whether KVM did not return from the last step: there can be no more."""

    def make(self, step: SessionStep) -> Moment:
        """Make a step, and keep what was seen of it."""
        before = self.views[step.vcpu]
        result = self._witness.do(step)
        if not result.stopped:
            try:
                self.views[step.vcpu] = self._witness.read(step.vcpu)
            except WitnessStoppedError as stopped:
                # In KVM_GET_MP_STATE events are looked at that the step has left.
                result = replace(result, stopped=str(stopped))
            if late := self._witness.late_warnings():
                result = replace(result, warnings=result.warnings + late)
        moment = Moment(step, before, result, self.views[step.vcpu])
        self.moments.append(moment)
        self.stopped = bool(result.stopped)
        return moment


@dataclass(frozen=True, slots=True)
class Played:
    """A case and what was seen of it; no moments where KVM refuses the world."""

    case: SessionCase
    stage: Stage
    moments: tuple[Moment, ...]

    @property
    def kernel(self) -> str:
        """The version of the KVM that it was played on."""
        return self.stage.witness.kernel

    @property
    def witness(self) -> str:
        """The name of who played it."""
        return self.stage.witness.name

    @property
    def stopped(self) -> bool:
        """Whether KVM did not return from the last step."""
        return bool(self.moments and self.moments[-1].result.stopped)

    def undisturbed(self) -> Iterator[Moment]:
        """Yield the moments before an INIT or SIPI: that one is pending, no view shows."""
        for moment in self.moments:
            if moment.step.kind in ("init", "sipi"):
                return
            yield moment

    def again(self, steps: Sequence[SessionStep], world: World | None = None) -> tuple[Moment, ...]:
        """Play other steps, in the same world or in another one."""
        return self.stage.play(world or self.case.world, steps)


Run: TypeAlias = Callable[[SessionCase], Played]


def play(stage: Stage, case: SessionCase) -> Played:
    """Play a case; one on another kernel than the witness' has no moments."""
    here = case.world.kernel == stage.witness.kernel
    return Played(case, stage, stage.play(case.world, case.steps) if here else ())

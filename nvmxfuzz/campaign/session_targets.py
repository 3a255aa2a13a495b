# SPDX-License-Identifier: GPL-2.0-only
"""Where sessions run: on the model of KVM, on KVM itself, or on KVM of both kernels at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import SESSION_KERNELS, SessionCase, WorldCase
from nvmxfuzz.inputs.world import World, parameters_of, world_on
from nvmxfuzz.machine.profile import DEFAULT_PROFILE
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.session.play import Played, Run, Stage, play

BOTH: Final = "kvm-6.1+kvm-6.12"
"""The target that plays each session on KVM of both kernels."""

_MODELS: Final = {f"kvm-model-{kernel}": kernel for kernel in SESSION_KERNELS}
_KERNELS: Final[dict[str, tuple[str, ...]]] = {
    **{f"kvm-{kernel}": (kernel,) for kernel in SESSION_KERNELS},
    BOTH: SESSION_KERNELS,
}
"""The kernels of a target that is KVM itself."""
REAL_TARGETS: Final = tuple(_KERNELS)
"""The targets that are KVM itself."""
SESSION_TARGETS: Final = (*_MODELS, *_KERNELS)

CAMPAIGN_PROFILES: Final = (DEFAULT_PROFILE, "everything", "sapphire-rapids", "penryn")
"""Processors that a campaign on KVM itself keeps to; others become the first."""
CAMPAIGN_PARAMETERS: Final = ("ept", "unrestricted_guest", "enable_shadow_vmcs", "vpid")
"""Module parameters that sessions depend on; a campaign keeps the others to their defaults."""

_Oracle = Oracle[SessionCase, Run]


def on_sessions(harness: Harness, target: str, *, covered: bool) -> Harness:
    """Return the harness of sessions on a target; `covered` asks for a KVM that counts.

    In this process too: what KVM does not return from is a result. InputError if there is no such
    target or it is not built.
    """
    if target in _MODELS:
        return replace(harness, home=partial(on_kernel, _MODELS[target]))
    if target not in _KERNELS:
        _refuse(target, harness.name)
    kernels = _KERNELS[target]
    counting = _counting(kernels) if covered else None
    stages = {
        kernel: _stage(kernel, "coverage" if kernel == counting else "plain") for kernel in kernels
    }
    first = kernels[0]

    def stage_of(case: SessionCase) -> Stage:
        return stages.get(case.world.kernel, stages[first])

    def run(case: SessionCase) -> Played:
        return play(stage_of(case), case)

    held = [each for kernel in kernels for each in _held_to_model(stages[kernel])]
    always, others = harness.always, (*harness.oracles, *held)
    if len(kernels) > 1:
        elsewhere = Elsewhere(stages)
        always += tuple(map(elsewhere.asked, harness.always))
        others += tuple(map(elsewhere.asked, others))
    played = replace(
        harness,
        run=run,
        stage=stage_of,
        always=always,
        oracles=others,
        home=partial(in_campaign, kernels),
    )
    return played if counting is None else _with_counters(played, stages[counting])


def _refuse(target: str, harness: str) -> None:
    from nvmxfuzz.targets.registry import target_named

    target_named(target)
    raise InputError(
        f"target {target} has no vCPU that userspace could make ioctls of: the targets of "
        f"{harness} are {', '.join(SESSION_TARGETS)}"
    )


def _stage(kernel: str, variant: str) -> Stage:
    from nvmxfuzz.targets.kvm_native.session import session_witness

    return Stage(session_witness(kernel, variant))


def _held_to_model(stage: Stage) -> tuple[_Oracle, ...]:
    from nvmxfuzz.oracles.session.with_model import agreement
    from nvmxfuzz.targets.session_model import ModelSessions

    return (agreement(Stage(ModelSessions(stage.witness.kernel)), stage),)


# ---------------------------------------------------------------------- coverage


def _counting(kernels: tuple[str, ...]) -> str | None:
    """Return the first kernel that is built so that it counts; one can steer a campaign."""
    from nvmxfuzz.targets.kvm_native.target import has_coverage

    return next(filter(has_coverage, kernels), None)


def _with_counters(harness: Harness, stage: Stage) -> Harness:
    from nvmxfuzz.targets.kvm_native.nested_counters import nested_counters
    from nvmxfuzz.targets.kvm_native.session import KvmSessions

    witness = stage.witness
    assert isinstance(witness, KvmSessions)
    library = witness.library
    return replace(
        harness,
        counters=library.counters,
        nested_counters=partial(nested_counters, library, witness.kernel),
    )


# ---------------------------------------------------------------------- both at once


@dataclass(slots=True)
class Elsewhere:
    """Asks oracles about a session on the kernel that it is not on; the last one is kept."""

    stages: dict[str, Stage]
    _last: Played | None = None

    def asked(self, oracle: _Oracle) -> _Oracle:
        """Return the oracle that asks this one about the other kernel."""

        def check(case: SessionCase, _run: Run) -> Finding | None:
            there = on_kernel(self._other(case), case)
            assert isinstance(there, SessionCase)
            return oracle.check(there, self._run)

        check.__doc__ = oracle.check.__doc__
        return Oracle(oracle.name, oracle.source, check)

    def _other(self, case: SessionCase) -> str:
        return next(kernel for kernel in self.stages if kernel != case.world.kernel)

    def _run(self, case: SessionCase) -> Played:
        if self._last is None or self._last.case != case:
            self._last = play(self.stages[case.world.kernel], case)
        return self._last


# ---------------------------------------------------------------------- worlds


def on_kernel(kernel: str, case: WorldCase) -> WorldCase:
    """Return a session on that kernel, its world otherwise as it was."""
    if not isinstance(case, SessionCase) or case.world.kernel == kernel:
        return case
    return replace(case, world=replace(case.world, kernel=kernel))


def in_campaign(kernels: tuple[str, ...], case: WorldCase) -> WorldCase:
    """Return a session in one of the worlds that a campaign on KVM itself keeps to.

    Making a world costs as much as several sessions: of some dozens the last ones are ready.
    """
    if not isinstance(case, SessionCase):
        return case
    world = case.world
    base = world.base if world.base in CAMPAIGN_PROFILES else DEFAULT_PROFILE
    kernel = world.kernel if world.kernel in kernels else kernels[0]
    kept = tuple(pair for pair in world.parameters if pair[0] in CAMPAIGN_PARAMETERS)
    home = _world(base, kernel, kept)
    return case if world is home else replace(case, world=home)


@cache
def _world(base: str, kernel: str, parameters: tuple[tuple[str, int], ...]) -> World:
    return replace(world_on(base, kernel), parameters=parameters_of(dict(parameters)))

# SPDX-License-Identifier: GPL-2.0-only
"""Sessions as a Hypothesis state machine: each rule is a step that is made at once.

What comes next depends on what the witness shows after the last step, not on what it should show.
Steps, operands and the case that comes of them are those of all engines. Who watches is told of
each step and of the end; the invariants are the oracles that he asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final, Protocol, TypeAlias

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    get_state_machine_test,
    initialize,
    invariant,
    precondition,
    rule,
)

from nvmxfuzz.campaign.harness import WITNESS_ERRORS, error_finding
from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.inputs.course import REGIONS, Phase
from nvmxfuzz.inputs.random_operands import random_number
from nvmxfuzz.inputs.session_steps import (
    MOST_STEPS,
    STEP_KINDS,
    VCPUS,
    Operand,
    SessionStep,
    StepKind,
    session_step,
)
from nvmxfuzz.inputs.text import dump_text
from nvmxfuzz.inputs.world import World
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.session.play import Life, Played, Run, Stage
from nvmxfuzz.oracles.session.witness import VcpuView

STEP_COUNT: Final = 30
"""Rules that Hypothesis tries in each session, of which some make no step."""

_SEEDS: Final = st.integers(0, 1 << 33)
_PREPARED: Final = "vm_entry_controls"
"""A field that a valid VMCS has, and an empty one not."""
_IOCTLS: Final = tuple(
    kind.name
    for kind in STEP_KINDS
    if kind.actor == "userspace" and kind.name not in ("save", "restore", "set-nested-state")
)
_SIGNALS: Final = ("init", "sipi", "nmi", "memory-write")
_WAY: Final = ("vmxon", "vmclear", "vmptrld", "prepare", "vmlaunch")
"""What a hypervisor does until L2 runs."""
_GOOD: Final = ("mode", "operand", "base")
"""Operands whose first choice is what a hypervisor takes."""


class Watcher(Protocol):
    """Who is told what happens; an exception fails the example."""

    def before_step(self, case: SessionCase) -> None:
        """Learn of a session with the step that is about to be made."""

    def after_step(self, played: Played) -> None:
        """Learn of a session up to now, which no other one may be played in between of."""

    def at_end(self, played: Played) -> None:
        """Learn of a session that is over."""

    def failed(self, case: SessionCase, error: Exception) -> None:
        """Learn of a defect of the witness: the session ends with the last step of the case."""


class BrokenPromiseError(AssertionError):
    """A session that breaks a promise; `case` is the session, the message its text."""

    def __init__(self, case: SessionCase, findings: Sequence[Finding]) -> None:
        self.case = case
        self.findings = tuple(findings)
        found = "; ".join(f"{each.identity}: {each.message}" for each in findings)
        super().__init__(f"{found}\n{dump_text(case)}")


class Promises:
    """A watcher that fails an example: some oracles after each step, others at the end."""

    def __init__(
        self,
        invariants: Sequence[Oracle[SessionCase, Run]],
        others: Sequence[Oracle[SessionCase, Run]],
    ) -> None:
        """`invariants` must not play a session again."""
        self._invariants = tuple(invariants)
        self._others = tuple(others)

    def before_step(self, case: SessionCase) -> None:
        """Let it be made."""

    def after_step(self, played: Played) -> None:
        """Ask the invariants."""
        _ask(self._invariants, played)

    def at_end(self, played: Played) -> None:
        """Ask the others."""
        _ask(self._others, played)

    def failed(self, case: SessionCase, error: Exception) -> None:
        """A witness that fails keeps no promise."""
        raise BrokenPromiseError(case, [error_finding(error, case.harness)]) from error


def _ask(oracles: Sequence[Oracle[SessionCase, Run]], played: Played) -> None:
    found = [oracle.check(played.case, lambda _: played) for oracle in oracles]
    if any(found):
        raise BrokenPromiseError(played.case, [each for each in found if each is not None])


# ---------------------------------------------------------------------- what is drawn


def _number(kind: StepKind, operand: Operand, before: tuple[int, ...], seed: int) -> int:
    """Return a number: 0 of 0, then one bit, then one near what KVM checks."""
    if seed <= operand.bits:
        return 1 << seed - 1 if seed else 0
    return random_number(Random(seed), kind.name, operand, before)


def _drawn(operand: Operand) -> st.SearchStrategy[int]:
    if not operand.choices:
        return _SEEDS
    every = st.integers(0, len(operand.choices) - 1)
    if operand.name in _GOOD:
        return st.integers(0, 15).flatmap(lambda odd: every if odd == 1 else st.just(0))
    return every


def _steps(names: Sequence[str]) -> st.SearchStrategy[SessionStep]:
    """Return steps of these kinds, of which the first is the simplest."""
    return st.one_of([_STEPS[name] for name in names])


def _of_kind(kind: StepKind) -> st.SearchStrategy[SessionStep]:
    def make(numbers: tuple[int, ...]) -> SessionStep:
        made: tuple[int, ...] = ()
        for operand, number in zip(kind.operands, numbers, strict=True):
            made += (number if operand.choices else _number(kind, operand, made, number),)
        return SessionStep(kind.name, 0, made)

    return st.tuples(*map(_drawn, kind.operands)).map(make)


_STEPS: Final[Mapping[str, st.SearchStrategy[SessionStep]]] = {
    kind.name: _of_kind(kind) for kind in STEP_KINDS
}


def phase_of(view: VcpuView) -> Phase:
    """Return what makes sense next, by what is seen of a vCPU."""
    nested = dict(view.nested)
    if view.in_smm:
        return "smm"
    if view.in_l2:
        return "l2"
    if nested["vmxon_pa"] == NO_POINTER:
        return "off"
    if nested["vmcs12_pa"] == NO_POINTER:
        return "root"
    return "ready" if dict(view.vmcs12).get(_PREPARED) else "current"


def _in(*phases: Phase) -> Callable[[SessionMachine], bool]:
    return lambda machine: machine.phase in phases


# ---------------------------------------------------------------------- the machine


class SessionMachine(RuleBasedStateMachine):
    """A session on a witness; the vCPU that most happens to is the first."""

    cleared = Bundle("cleared")
    """Regions with a VMCS that L1 has executed VMCLEAR for."""
    kept = Bundle("kept")
    """Slots with what was saved."""

    def __init__(
        self, stage: Callable[[SessionCase], Stage], worlds: st.SearchStrategy[World], who: Watcher
    ) -> None:
        """Play on what `stage` gives for a world, one of `worlds`, and tell `who`."""
        super().__init__()
        self._stage_of, self._worlds, self._who = stage, worlds, who
        self._case: SessionCase | None = None
        self._stage: Stage | None = None
        self._life: Life | None = None
        self._told = 0

    @property
    def phase(self) -> Phase:
        """What makes sense on the first vCPU."""
        return phase_of(self._life.views[0]) if self._life is not None else "off"

    @initialize(data=st.data(), far=st.sampled_from((0, 1, 2, 3, 4, *(len(_WAY),) * 5)))
    def begin(self, data: st.DataObject, far: int) -> None:
        """Load KVM in a world, and go some way: mostly as far as L2, which all rules lead to."""
        self._case = SessionCase(data.draw(self._worlds, "world"))
        self._stage = self._stage_of(self._case)
        self._life = self._stage.begin(self._case.world)
        for name in _WAY[:far]:
            self._make(session_step(name))

    @precondition(_in("off"))
    @rule(step=_steps(("vmxon",)))
    def enter_vmx_operation(self, step: SessionStep) -> None:
        """L1 begins."""
        self._make(step)

    @precondition(_in("root", "current", "ready"))
    @rule(target=cleared, region=st.sampled_from(REGIONS))
    def clear(self, region: str) -> str:
        """L1 makes a region a VMCS."""
        self._make(session_step("vmclear", region=region))
        return region

    @precondition(_in("root", "current", "ready"))
    @rule(region=cleared | st.just(REGIONS[0]))
    def load(self, region: str) -> None:
        """L1 makes one current."""
        self._make(session_step("vmptrld", region=region))

    @precondition(_in("current"))
    @rule(step=_steps(("prepare", "vmwrite", "vmread")))
    def fill(self, step: SessionStep) -> None:
        """L1 writes its fields."""
        self._make(step)

    @precondition(_in("ready"))
    @rule(step=_steps(("vmwrite", "vmread", "prepare", "invept", "invvpid")))
    def edit(self, step: SessionStep) -> None:
        """L1 writes some of them again."""
        self._make(step)

    @precondition(_in("ready"))
    @rule()
    def enter(self) -> None:
        """L1 enters L2."""
        assert self._life is not None
        launched = dict(self._life.views[0].vmcs12).get("launch_state", 0)
        self._make(session_step("vmresume" if launched else "vmlaunch"))

    @precondition(_in("l2"))
    @rule(step=_steps(("run", "l2-exit")))
    def leave(self, step: SessionStep) -> None:
        """L2 runs, and leaves."""
        self._make(step)

    @precondition(_in("l2"))
    @rule(step=_steps(("set-segment", "set-sregs", "set-regs")))
    def stuff(self, step: SessionStep) -> None:
        """Userspace edits L2."""
        self._make(step)

    @precondition(_in("l2", "ready", "off"))
    @rule()
    def interrupt(self) -> None:
        """An SMI arrives."""
        self._make(session_step("smi"))

    @precondition(_in("smm"))
    @rule(step=_steps(("rsm", "smram-write", "run")))
    def manage(self, step: SessionStep) -> None:
        """SMM edits what was saved, or ends."""
        self._make(step)

    @rule(step=_steps((*_IOCTLS, *_SIGNALS)))
    def ioctl(self, step: SessionStep) -> None:
        """Userspace or the platform does something."""
        self._make(step)

    @rule(target=kept, slot=st.sampled_from(("a", "b")))
    def save(self, slot: str) -> str:
        """Userspace saves the vCPU."""
        self._make(session_step("save", slot=slot))
        return slot

    @rule(slot=kept, vcpu=st.integers(0, VCPUS - 1))
    def restore(self, slot: str, vcpu: int) -> None:
        """Userspace brings it back, here or there."""
        self._make(session_step("restore", vcpu, slot=slot))

    @rule(slot=kept, step=_steps(("set-nested-state",)))
    def restore_nested(self, slot: str, step: SessionStep) -> None:
        """Userspace brings an edited nested state."""
        self._make(SessionStep(step.kind, 0, (("a", "b").index(slot), *step.operands[1:])))

    @rule(step=_steps([kind.name for kind in STEP_KINDS]), vcpu=st.integers(0, VCPUS - 1))
    def anything(self, step: SessionStep, vcpu: int) -> None:
        """Any step, on any vCPU."""
        self._make(SessionStep(step.kind, vcpu, step.operands))

    @invariant()
    def holds(self) -> None:
        """Who watches has nothing against it."""
        if self._life is not None and len(self._life.moments) > self._told:
            self._who.after_step(self._played())
            self._told = len(self._life.moments)

    def teardown(self) -> None:
        """The session is over, unless an invariant has failed."""
        if self._life is not None and self._told == len(self._life.moments):
            self._who.at_end(self._played())

    def _make(self, step: SessionStep) -> None:
        assert self._case is not None
        if self._life is None or self._life.stopped or len(self._case.steps) == MOST_STEPS:
            return
        self._case = SessionCase(self._case.world, (*self._case.steps, step))
        self._who.before_step(self._case)
        try:
            self._life.make(step)
        except WITNESS_ERRORS as error:
            self._life = None
            self._who.failed(self._case, error)

    def _played(self) -> Played:
        assert self._case is not None
        assert self._stage is not None
        assert self._life is not None
        return Played(self._case, self._stage, tuple(self._life.moments))


Machines: TypeAlias = Callable[[], SessionMachine]


def machine_test(machines: Machines, how: settings) -> Callable[[], None]:
    """Return the test that runs such machines."""
    test: Callable[[], None] = get_state_machine_test(machines, settings=how)  # type: ignore[arg-type] # any factory does
    return test

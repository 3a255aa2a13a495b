# SPDX-License-Identifier: GPL-2.0-only
"""What minimising leaves of sessions with a planted fault: what it needs, and one step at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TypeAlias

import pytest

from nvmxfuzz.inputs.case import Case, SessionCase
from nvmxfuzz.inputs.random_session import random_session
from nvmxfuzz.inputs.session_steps import STEP_BY_NAME, SessionStep, session_step
from nvmxfuzz.inputs.world import world_on
from nvmxfuzz.oracles.session.play import Moment, Stage
from nvmxfuzz.targets.session_model import ModelSessions
from nvmxfuzz.triage.minimise import Budget, minimise

BUDGET = Budget(runs=3000, seconds=60)
PADDING = 12
Shows: TypeAlias = Callable[[Moment], bool]


def steps(*kinds: str) -> tuple[SessionStep, ...]:
    return tuple(map(session_step, kinds))


CURRENT = steps("vmxon", "vmptrld")
L2 = (*CURRENT, *steps("prepare", "vmlaunch"))


def does(kind: str, *, in_l2: bool | None = None, outcome: str = "") -> Shows:
    def shows(moment: Moment) -> bool:
        where = in_l2 is None or moment.before.in_l2 == in_l2
        return moment.step.kind == kind and where and outcome in moment.result.outcome

    return shows


def stuffs_ss(moment: Moment) -> bool:
    return does("set-segment", in_l2=True)(moment) and moment.step.chosen("segment") == "ss"


def edits_cr4(moment: Moment) -> bool:
    step = moment.step
    edits = step.kind == "set-sregs" and step.chosen("register") == "cr4"
    in_vmx = dict(moment.before.nested)["vmxon_pa"] != (1 << 64) - 1
    return edits and in_vmx and step.number("flip") >> 2 & 1 == 1


def writes_rsp(moment: Moment) -> bool:
    writes = does("vmwrite", outcome="done")(moment)
    return writes and moment.step.chosen("field") == "guest_rsp" and moment.step.number("value") > 9


def has_no_vmcs_any_more(moment: Moment) -> bool:
    before, after = (dict(view.nested)["vmcs12_pa"] for view in (moment.before, moment.after))
    return moment.step.kind == "vmclear" and before != after


def changes_vmcs(moment: Moment) -> bool:
    before, after = (dict(view.nested)["vmcs12_pa"] for view in (moment.before, moment.after))
    return (1 << 64) - 1 not in (before, after) and before != after


@dataclass(frozen=True, slots=True)
class Fault:
    """What KVM is wrong in, and the steps that it takes to see it."""

    shows: Shows
    needed: tuple[SessionStep, ...]


FAULTS = {
    "L2 runs": Fault(does("run", in_l2=True), (*L2, session_step("run"))),
    "an SMI in L2": Fault(does("smi", in_l2=True), (*L2, session_step("smi"))),
    "RSM to L2": Fault(does("rsm", outcome="entered"), (*L2, *steps("smi", "rsm"))),
    "L2 is resumed": Fault(does("vmresume", outcome="entered"), (*L2, *steps("run", "vmresume"))),
    "SS of L2": Fault(stuffs_ss, (*L2, session_step("set-segment", segment="ss"))),
    "CR4 in VMX operation": Fault(
        edits_cr4, (*steps("vmxon"), session_step("set-sregs", register="cr4", flip=4))
    ),
    "VMWRITE of RSP": Fault(
        writes_rsp, (*CURRENT, session_step("vmwrite", field="guest_rsp", value=0x1234))
    ),
    "VMCLEAR of the current VMCS": Fault(has_no_vmcs_any_more, (*CURRENT, session_step("vmclear"))),
    "another VMCS": Fault(changes_vmcs, (*CURRENT, session_step("vmptrld", region="vmcs-1"))),
    "an NMI in SMM": Fault(
        lambda moment: moment.step.kind == "nmi" and moment.before.in_smm, steps("smi", "nmi")
    ),
    "VMXON on the other vCPU": Fault(
        lambda moment: does("vmxon", outcome="done")(moment) and moment.step.vcpu == 1,
        (session_step("vmxon", 1),),
    ),
}


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage(ModelSessions("6.12"))


def padded(fault: Fault, holds: Callable[[SessionCase], bool]) -> SessionCase:
    """Return a session that shows a fault among random steps, in a world that is not plain."""
    world = replace(world_on("everything", "6.12"), parameters=(("vpid", 0),))
    for seed in range(400):
        rng = Random(seed)
        made = list(random_session(rng, PADDING))
        places = sorted(rng.randint(0, len(made)) for _ in fault.needed)
        for place, step in reversed(list(zip(places, fault.needed, strict=True))):
            made.insert(place, step)
        case = SessionCase(world, tuple(made))
        if holds(case):
            return case
    raise AssertionError("no session shows it")


@pytest.mark.parametrize("name", FAULTS)
def test_little_is_left_that_a_fault_does_not_need(stage: Stage, name: str) -> None:
    fault = FAULTS[name]

    def holds(case: Case) -> bool:
        assert isinstance(case, SessionCase)
        return any(map(fault.shows, stage.play(case.world, case.steps)))

    case = padded(fault, holds)
    assert len(case.steps) > len(fault.needed) + 3
    found = minimise(case, holds, BUDGET)
    assert isinstance(found, SessionCase)
    assert holds(found)
    assert found.world == world_on("skylake-x", "6.12")
    assert len(found.steps) <= len(fault.needed) + 1
    needed = sum(number.bit_count() for step in fault.needed for number in step.operands)
    assert sum(number.bit_count() for step in found.steps for number in step.operands) <= needed + 1
    for step in found.steps:
        assert step.kind in STEP_BY_NAME
        assert step.vcpu == 0 or name.endswith("vCPU")

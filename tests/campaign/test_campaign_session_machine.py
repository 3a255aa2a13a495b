# SPDX-License-Identifier: GPL-2.0-only
"""The state machine of sessions finds a planted fault, shrinks it, and gives a session for it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st

from nvmxfuzz.campaign.engines.session_machine import (
    BrokenPromiseError,
    Promises,
    SessionMachine,
    machine_test,
    phase_of,
)
from nvmxfuzz.campaign.plan import load_harness
from nvmxfuzz.cli.command_line import run
from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.inputs.session_steps import MOST_STEPS, STEP_KINDS, SessionStep
from nvmxfuzz.inputs.text import load_text
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.oracles.session.oracles import ALWAYS, REPLAYING, SEEN
from nvmxfuzz.oracles.session.play import Played, Stage
from nvmxfuzz.oracles.session.witness import StepResult, VcpuView
from nvmxfuzz.targets.session_model import ModelSessions

FAULTY = Path(__file__).parent / "harnesses" / "deaf_in_l2.py"
WORLDS: st.SearchStrategy[World] = st.just(world_on("skylake-x", "6.12"))
HOW = settings(
    max_examples=60,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    stateful_step_count=12,
    report_multiple_bugs=False,
    print_blob=False,
)

QUICK = settings(HOW, phases=[Phase.generate])


class Emulates(ModelSessions):
    """KVM emulates an L2 that userspace has stuffed."""

    def do(self, step: SessionStep) -> StepResult:
        """Do it, and tell of an emulation."""
        result = super().do(step)
        stuffed = step.kind == "set-regs" and self.read(step.vcpu).in_l2
        return StepResult(result.errno, emulated=True) if stuffed else result


class Fails(ModelSessions):
    """A witness with a defect."""

    def do(self, step: SessionStep) -> StepResult:
        """Fail at the first VMXON."""
        if step.kind == "vmxon":
            raise ValueError("a defect")
        return super().do(step)


def broken_by(stage: Stage, promises: Promises, how: settings = HOW) -> BrokenPromiseError:
    test = machine_test(lambda: SessionMachine(lambda _: stage, WORLDS, promises), how)
    with pytest.raises(BrokenPromiseError) as raised:
        seed(5)(test)()
    return raised.value


def test_a_fault_that_an_invariant_shows_is_shrunk_to_a_session() -> None:
    found = broken_by(Stage(Emulates("6.12")), Promises(ALWAYS, ()))
    assert {finding.oracle for finding in found.findings} == {"session.l2-never-emulated"}
    assert found.case.steps[-1].kind == "set-regs"
    assert len(found.case.steps) <= 7
    text = str(found)[str(found).index("format = 1") :]
    assert load_text(text.encode(), "").case == found.case


class RsmShows(ModelSessions):
    """After RSM, RAX of L1 is another one."""

    back = 0

    def renew(self) -> None:
        """Begin anew."""
        self.back = 0
        super().renew()

    def do(self, step: SessionStep) -> StepResult:
        """Do it, and count what shows."""
        self.back += step.kind == "rsm"
        return super().do(step)

    def read(self, vcpu: int) -> VcpuView:
        """Read, and let it show."""
        view = super().read(vcpu)
        regs = dict(view.regs)
        return replace(view, regs=tuple(sorted((regs | {"rax": regs["rax"] + self.back}).items())))


def test_a_fault_that_only_another_session_shows_is_found_at_the_end() -> None:
    found = broken_by(Stage(RsmShows("6.12")), Promises(ALWAYS, REPLAYING), QUICK)
    assert {finding.oracle for finding in found.findings} == {"session.smm-round-trip"}
    assert found.case.steps


def test_a_fault_of_ioctls_is_shrunk_as_well() -> None:
    stage = load_harness(FAULTY).stage
    assert stage is not None
    found = broken_by(stage(SessionCase(world_on("skylake-x", "6.12"))), Promises(SEEN, ()))
    assert {finding.oracle for finding in found.findings} == {"session.ioctl-accepts"}
    assert len(found.case.steps) <= 7
    assert found.case.steps[-1].kind in ("set-segment", "set-regs")


def test_a_defect_of_the_witness_is_a_finding() -> None:
    found = broken_by(Stage(Fails("6.12")), Promises(ALWAYS, ()))
    assert {finding.oracle for finding in found.findings} == {"no-error"}
    assert [step.kind for step in found.case.steps] == ["vmxon"]


class Notes:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.kinds = Counter[str]()
        self.phases = Counter[str]()
        self.told = 0

    def before_step(self, case: SessionCase) -> None:
        """Learn of the session."""
        assert case.steps
        assert len(case.steps) <= MOST_STEPS

    def after_step(self, played: Played) -> None:
        """Learn what came of it, once."""
        self.told += 1
        moment = played.moments[-1]
        self.kinds[moment.step.kind] += 1
        self.phases[phase_of(moment.before)] += 1

    def at_end(self, played: Played) -> None:
        """Learn of all of it."""
        steps = tuple(moment.step for moment in played.moments)
        assert steps == played.case.steps

    def failed(self, case: SessionCase, error: Exception) -> None:
        """Nothing is to fail."""
        raise AssertionError(case) from error


def test_sessions_get_everywhere() -> None:
    notes, stage = Notes(), Stage(ModelSessions("6.12"))
    test = machine_test(lambda: SessionMachine(lambda _: stage, WORLDS, notes), HOW)
    seed(5)(test)()
    assert set(notes.phases) == {"off", "root", "current", "ready", "l2", "smm"}
    assert len(notes.kinds) > len(STEP_KINDS) * 0.7
    assert notes.phases["l2"] > notes.told / 10


def test_a_campaign_stores_what_it_finds_as_a_session(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "found.db"
    arguments = ["--engine", "hypothesis", "--runs", "80", "--seed", "1", "--json"]
    assert run(["fuzz", str(FAULTY), "--store", str(store), *arguments]) == 1
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert any(each.startswith("session.ioctl-accepts-") for each in summary["findings"])
    assert run(["replay", str(store), "--json"]) == 1
    replayed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert any("still there" in line["complaints"][0] for line in replayed)

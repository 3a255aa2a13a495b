# SPDX-License-Identifier: GPL-2.0-only
"""The model against itself, and against itself with a fault planted."""

from __future__ import annotations

import errno
from dataclasses import replace
from random import Random

import pytest

from nvmxfuzz.inputs.session_steps import STEP_BY_NAME, SessionStep
from nvmxfuzz.inputs.world import world_on
from nvmxfuzz.oracles.session.agreement import AGREEMENT, compare_session
from nvmxfuzz.oracles.session.witness import StepResult, VcpuView
from nvmxfuzz.targets.kvm_native.agreement.random_session import random_session
from nvmxfuzz.targets.session_model import NOT_MODELLED, ModelSessions


def step(kind: str, **operands: int | str) -> SessionStep:
    """Return a step whose operands are named, the others the first choice or 0."""
    numbers = []
    for operand in STEP_BY_NAME[kind].operands:
        value = operands.get(operand.name, 0)
        numbers.append(operand.choices.index(value) if isinstance(value, str) else value)
    return SessionStep(kind, 0, tuple(numbers))


VMXON = step("vmxon")
START = (
    VMXON,
    step("vmclear", region="vmcs-0"),
    step("vmptrld", region="vmcs-0"),
    step("prepare"),
    step("vmlaunch"),
)


def loaded(kind: type[ModelSessions] = ModelSessions, kernel: str = "6.12") -> ModelSessions:
    model = kind(kernel)
    assert model.load(world_on("skylake-x", kernel)) == ""
    return model


@pytest.fixture(scope="module")
def model() -> ModelSessions:
    return loaded()


class WrongFlag(ModelSessions):
    """VMXON clears what it should set."""

    def read(self, vcpu: int) -> VcpuView:
        """Read, and clear the header."""
        view = super().read(vcpu)
        return replace(view, nested=tuple((name, 0) for name, _ in view.nested))


class WrongOutcome(ModelSessions):
    """Every step fails."""

    def do(self, step: SessionStep) -> StepResult:
        """Do it, and tell something else."""
        return replace(super().do(step), outcome="vmfail-invalid")


class Warning_(ModelSessions):  # noqa: N801 # not the exception
    """Every step warns."""

    def do(self, step: SessionStep) -> StepResult:
        """Do it, and tell something else."""
        return replace(super().do(step), warnings=("x.c:1",))


class WrongCheck(ModelSessions):
    """Every step fails a check."""

    def do(self, step: SessionStep) -> StepResult:
        """Do it, and tell of a check."""
        return replace(super().do(step), checks=("host.cr3.valid",))


class Broken(ModelSessions):
    """The VM dies in the first step."""

    def do(self, step: SessionStep) -> StepResult:
        """Do it, and tell something else."""
        super().do(step)
        return StepResult(-errno.EIO)


class Stops(ModelSessions):
    """KVM does not return."""

    def do(self, step: SessionStep) -> StepResult:
        """Do it, and tell something else."""
        super().do(step)
        return StepResult(stopped="BUG in x()")


class Ends(ModelSessions):
    """The model knows nothing."""

    def do(self, step: SessionStep) -> StepResult:
        """Say so."""
        return StepResult(stopped=f"{NOT_MODELLED}: {step.kind}")


def test_a_session_of_l2_is_the_same_twice(model: ModelSessions) -> None:
    steps = (*START, step("run"), step("smi"), step("rsm"), step("vmresume"))
    compared = compare_session(steps, model, loaded())
    assert (compared.steps, compared.ended, compared.finding) == (len(steps), "", None)


@pytest.mark.parametrize(
    ("fault", "site"),
    [
        (WrongFlag, "vmxon: nested.size"),
        (WrongOutcome, "vmxon: outcome"),
        (Warning_, "vmxon: warnings"),
        (WrongCheck, "vmxon: checks"),
        (Broken, "vmxon: errno"),
        (Stops, "vmxon: stopped"),
    ],
)
def test_planted_faults_are_found(
    model: ModelSessions, fault: type[ModelSessions], site: str
) -> None:
    found = compare_session((VMXON,), model, loaded(fault)).finding
    assert found is not None
    assert (found.oracle, found.site) == (AGREEMENT, site)


def test_where_the_model_ends_the_comparison_does(model: ModelSessions) -> None:
    compared = compare_session((VMXON,), model, loaded(Stops))
    assert compared.finding is not None
    compared = compare_session((VMXON,), loaded(Ends), loaded(Stops))
    assert compared.ended.startswith(NOT_MODELLED)
    assert compared.finding is None


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_random_sessions_never_break_the_model(kernel: str) -> None:
    one, other = loaded(kernel=kernel), loaded(kernel=kernel)
    source = Random(5)
    assert all(
        compare_session(random_session(source), one, other).finding is None for _ in range(15)
    )


def test_the_model_tells_what_it_warns_of_while_it_is_read() -> None:
    """An INIT behind an RSM that has failed: KVM leaves L2 with its entry pending."""
    witness = ModelSessions("6.1")
    witness.load(world_on("skylake-x", "6.1"))
    edit = step("smram-write", field="dr7", flip=1 << 45)
    for each in (*START, step("smi"), edit, step("init"), step("rsm")):
        assert witness.do(each).warnings == ()
        witness.read(0)
    assert witness.late_warnings() == ("nested_vmx_vmexit.nested_run_pending",)
    witness.do(step("run"))
    assert "nested_vmx_vmexit.nested_run_pending" not in witness.late_warnings()

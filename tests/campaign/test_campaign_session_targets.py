# SPDX-License-Identifier: GPL-2.0-only
"""Where a campaign plays sessions: the names, the worlds, and both kernels at once."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.campaign.harness import Harness, is_sampled
from nvmxfuzz.campaign.plan import ROOT, load_harness
from nvmxfuzz.campaign.second_witness import compares, with_target
from nvmxfuzz.campaign.session_targets import (
    BOTH,
    CAMPAIGN_PROFILES,
    SESSION_TARGETS,
    Elsewhere,
    in_campaign,
)
from nvmxfuzz.cli.command_line import run
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.inputs.session_steps import SessionStep, session_step
from nvmxfuzz.inputs.world import world_on
from nvmxfuzz.oracles.session.oracles import ALWAYS
from nvmxfuzz.oracles.session.play import Stage, play
from nvmxfuzz.oracles.session.witness import StepResult
from nvmxfuzz.targets.kvm_native.build.objects import usable
from nvmxfuzz.targets.session_model import ModelSessions

SESSION: Harness = load_harness(ROOT / "fuzz" / "session.py")
PLAIN = SessionCase(world_on("skylake-x", "6.12"), (session_step("vmxon"), session_step("run")))


class Warns(ModelSessions):
    """Each run warns."""

    def do(self, step: SessionStep) -> StepResult:
        """Do it, and warn."""
        result = super().do(step)
        return replace(result, warnings=("x.c:1",)) if step.kind == "run" else result


def test_the_names() -> None:
    models, real = ("kvm-model-6.1", "kvm-model-6.12"), ("kvm-6.1", "kvm-6.12")
    assert set(SESSION_TARGETS) == {*models, *real, BOTH}
    assert "+".join(real) == BOTH
    assert all(compares(name, "session") for name in SESSION_TARGETS)
    assert not compares("bochs", "session")


@pytest.mark.parametrize("name", ["bochs", "kvm-6.12+rules", "kvm-model-5.18", "kvm-9.9"])
def test_what_plays_no_sessions_is_refused_with_those_that_do(name: str) -> None:
    with pytest.raises(InputError) as raised:
        with_target(SESSION, name, isolated=False)
    assert "kvm-6.1" in str(raised.value)


def test_the_model_of_a_kernel_is_a_target() -> None:
    harness = with_target(SESSION, "kvm-model-6.1", isolated=False)
    case = harness.at_home(PLAIN)
    assert isinstance(case, SessionCase)
    assert case.world.kernel == "6.1"
    assert harness.run(case).kernel == "6.1"  # type: ignore[attr-defined] # a Played
    assert harness.examine(case) == ()


def test_a_fault_of_the_other_kernel_is_found_at_once() -> None:
    stages = {"6.12": Stage(ModelSessions("6.12")), "6.1": Stage(Warns("6.1"))}
    elsewhere = Elsewhere(stages)

    def here(case: SessionCase) -> object:
        return play(stages["6.12"], case)

    no_warn = ALWAYS[0]
    assert no_warn.check(PLAIN, here) is None  # type: ignore[arg-type] # a Run
    found = elsewhere.asked(no_warn).check(PLAIN, here)  # type: ignore[arg-type] # as above
    assert found is not None
    assert found.targets == ("kvm-model-6.1", "promise")
    assert elsewhere.asked(no_warn).sentence == no_warn.sentence


@pytest.mark.skipif(bool(usable("6.1") or usable("6.12")), reason="KVM is not built")
def test_both_at_once_on_kvm_itself() -> None:
    harness = with_target(SESSION, BOTH, isolated=False)
    names = [oracle.name for oracle in (*harness.always, *harness.oracles)]
    assert names.count("session.no-warn") == 2
    assert names.count("agreement.kvm-session") == 4
    assert harness.examine(PLAIN) == ()
    assert harness.run(PLAIN).witness == "kvm-6.12"  # type: ignore[attr-defined] # a Played
    there = replace(PLAIN, world=world_on("skylake-x", "6.1"))
    assert harness.run(there).witness == "kvm-6.1"  # type: ignore[attr-defined] # as above


@pytest.mark.skipif(bool(usable("6.12", "coverage")), reason="KVM that counts is not built")
def test_a_campaign_is_guided_by_what_kvm_executes() -> None:
    assert with_target(SESSION, "kvm-6.12", isolated=False).counters is None
    assert with_target(SESSION, "kvm-6.12", isolated=True, covered=True).counters is None
    for name in ("kvm-6.12", BOTH):
        harness = with_target(SESSION, name, isolated=False, covered=True)
        assert harness.counters is not None
        start, _, number = harness.counters()
        before = ctypes.string_at(start, number)
        harness.run(PLAIN)
        assert ctypes.string_at(start, number) != before


def test_a_campaign_keeps_to_worlds_that_are_soon_ready() -> None:
    plain = in_campaign(("6.12", "6.1"), PLAIN)
    assert plain == PLAIN
    assert in_campaign(("6.12", "6.1"), plain) is plain
    worlds = set()
    for profile in ("penryn", "haswell", "everything"):
        for parameters in ((("ept", 0),), (("pml", 0),), (("ept", 0), ("vpid", 0))):
            for kernel in ("6.1", "5.18"):
                world = replace(world_on(profile, kernel), parameters=parameters, evmcs=True)
                case = in_campaign(("6.12", "6.1"), replace(PLAIN, world=world))
                assert isinstance(case, SessionCase)
                worlds.add((case.world.base, case.world.parameters, case.world.kernel))
                assert not case.world.evmcs
    assert {base for base, _, _ in worlds} == {"penryn", "skylake-x", "everything"}
    assert {base for base, _, _ in worlds} <= set(CAMPAIGN_PROFILES)
    assert {kept for _, kept, _ in worlds} == {(), (("ept", 0),), (("ept", 0), ("vpid", 0))}
    assert {kernel for _, _, kernel in worlds} == {"6.1", "6.12"}


def test_vectors_are_held_by_kvm_itself_and_not_by_the_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(ROOT, "corpus", "vectors", "session", "session.smm-round-trip")
    assert run(["replay", str(folder), "--target", "kvm-model-6.12"]) == 0
    assert "4 hold" in capsys.readouterr().out


def test_a_breach_of_no_oracle_does_not_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = 'format = 1\nharness = "session"\n'
    file = tmp_path / "misspelt.toml"
    file.write_text(
        f'{header}[[steps]]\ndo = "run"\n[expect]\nbreaches = ["session.orders: run"]\n'
    )
    assert run(["replay", str(file)]) == 1
    assert "there is no oracle session.orders" in capsys.readouterr().out


def test_the_seed_of_two_orders_meets_the_oracle_of_them() -> None:
    """Without news only a sample is asked about orders: the seed is in it, on every target."""
    file = ROOT / "corpus" / "seeds" / "session" / "registers-in-either-order.toml"
    case = load_vector(file.read_bytes(), file.name).case
    assert is_sampled(SESSION.encode(case), SESSION.sample_of)

# SPDX-License-Identifier: GPL-2.0-only
"""The model of KVM in sessions, against KVM itself, and with faults planted in the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TypeAlias

import pytest

from nvmxfuzz.inputs.world import world_on
from nvmxfuzz.kvm import entry_behaviour, nested_vmexit
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx
from nvmxfuzz.oracles.session.agreement import compare_session
from nvmxfuzz.oracles.session.witness import StepResult
from nvmxfuzz.targets.kvm_native.agreement.random_session import random_session
from nvmxfuzz.targets.kvm_native.session import KvmSessions
from nvmxfuzz.targets.session_model import ModelSessions

SESSIONS = 60
Play: TypeAlias = Callable[..., StepResult]


def _differences(sessions: KvmSessions, count: int, **parameters: int) -> list[str]:
    """Return what differs in random sessions in a world."""
    world = replace(world_on("skylake-x", sessions.kernel), parameters=tuple(parameters.items()))
    model = ModelSessions(sessions.kernel)
    assert (sessions.load(world), model.load(world)) == ("", "")
    source = Random(1)
    compared = (compare_session(random_session(source), model, sessions) for _ in range(count))
    return [each.finding.message for each in compared if each.finding is not None]


@pytest.mark.parametrize("unrestricted", [1, 0])
def test_random_sessions_are_the_same(sessions: KvmSessions, unrestricted: int) -> None:
    assert _differences(sessions, SESSIONS, unrestricted_guest=unrestricted) == []


def test_a_state_that_kvm_would_emulate_is_noticed(
    sessions: KvmSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(vmx: VcpuVmx) -> bool:
        del vmx
        return False

    monkeypatch.setattr(nested_vmexit, "vmx_emulation_required", never)
    monkeypatch.setattr("nvmxfuzz.kvm.set_registers.vmx_emulation_required", never)
    assert _differences(sessions, SESSIONS, unrestricted_guest=0)


def test_the_versions_are_not_the_same(
    sessions: KvmSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "6.12" if sessions.kernel == "6.1" else "6.1"
    wrong = entry_behaviour.entry_behaviour(other)
    monkeypatch.setattr("nvmxfuzz.targets.session_model.entry_behaviour", lambda _: wrong)
    assert _differences(sessions, SESSIONS)


def test_a_state_restored_over_l2_loses_segments(play: Play, sessions: KvmSessions) -> None:
    """docs/findings/restored-over-l2.md: the model does the same, as random sessions show."""
    for kind in ("vmxon", "vmclear", "vmptrld", "prepare", "vmlaunch"):
        play(kind)
    assert dict(sessions.read(0).vmcs12)["guest_cs_limit"] == 0xFFFF_FFFF
    assert play("set-nested-state", part="flags", unset=3).errno == 0
    assert "guest_cs_limit" not in dict(sessions.read(0).vmcs12)
    assert play("vmlaunch").outcome == "exit 33 qualification 0"


def test_reading_in_smm_brings_back_an_older_l2(play: Play, sessions: KvmSessions) -> None:
    """docs/findings/nested-state-in-smm.md."""
    for kind in ("vmxon", "vmclear", "vmptrld", "prepare", "vmlaunch", "run", "vmresume"):
        play(kind)
    play("l2-exit", exit="external-interrupt")
    play("set-regs", register="rip", value=0x1234)
    assert play("smi").outcome == "smm"
    assert dict(sessions.read(0).vmcs12)["guest_rip"] != 0x1234

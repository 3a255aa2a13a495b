# SPDX-License-Identifier: GPL-2.0-only
"""SMM in a session: SMI and RSM from L1 and L2, and what was edited in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from nvmxfuzz.inputs.session_steps import session_step
from nvmxfuzz.oracles.session.witness import StepResult, VcpuView
from nvmxfuzz.targets.kvm_native.session import KvmSessions

Play: TypeAlias = Callable[..., StepResult]
Entered: TypeAlias = Callable[..., None]
InWorld: TypeAlias = Callable[..., None]

_RUN_PENDING = 1 << 1


def _without(view: VcpuView, *names: str) -> VcpuView:
    """Return the view without these of the events, nested state and MSRs."""
    parts: dict[str, Any] = {
        part: tuple(pair for pair in getattr(view, part) if pair[0] not in names)
        for part in ("events", "nested", "msrs")
    }
    return replace(view, **parts)


@pytest.mark.parametrize("unrestricted", [1, 0])
def test_a_round_trip_from_l1_is_invisible(
    play: Play, entered: Entered, sessions: KvmSessions, in_world: InWorld, unrestricted: int
) -> None:
    in_world(unrestricted_guest=unrestricted)
    entered(until="prepare")
    before = sessions.read(0)
    assert play("smi").outcome == "smm"
    inside = sessions.read(0)
    assert inside.in_smm
    assert dict(inside.nested)["smm_flags"] == 2  # VMXON
    assert play("rsm").outcome in ("done", "l1")
    after = sessions.read(0)
    assert _without(after, "IA32_TSC") == _without(before, "IA32_TSC")


def test_a_round_trip_from_l2_is_invisible(
    play: Play, entered: Entered, sessions: KvmSessions
) -> None:
    entered()
    play("l2-exit", exit="external-interrupt")
    before = sessions.read(0)
    assert play("smi").outcome == "smm"
    inside = sessions.read(0)
    assert not inside.in_l2
    assert dict(inside.nested)["smm_flags"] == 3  # VMXON and L2
    assert play("rsm").outcome == "entered"
    after = sessions.read(0)
    # KVM enters L2 anew, and cannot be interrupted in between.
    assert dict(after.nested)["flags"] == dict(before.nested)["flags"] | _RUN_PENDING
    changed = ("IA32_TSC", "flags")
    assert _without(after, *changed) == _without(before, *changed)


def test_an_smi_waits_for_the_entry_of_l2(
    play: Play, entered: Entered, sessions: KvmSessions
) -> None:
    entered()
    assert dict(sessions.read(0).nested)["flags"] & _RUN_PENDING
    assert play("smi").outcome == "smm"
    assert not dict(sessions.read(0).events)["smi.pending"]


def test_rsm_brings_back_what_was_edited(play: Play, sessions: KvmSessions) -> None:
    play("smi")
    play("smram-write", field="rax", unset=(1 << 64) - 1, flip=0x1234)
    play("smram-write", field="rip", unset=(1 << 64) - 1, flip=0x5000)
    play("smram-write", field="smbase", unset=(1 << 64) - 1, flip=0x5_0000)
    assert play("rsm").outcome
    view = sessions.read(0)
    assert not view.in_smm
    assert (dict(view.regs)["rax"], dict(view.regs)["rip"]) == (0x1234, 0x5000)
    assert dict(view.msrs)["IA32_SMBASE"] == 0x5_0000
    assert play("smi").outcome == "smm"
    assert dict(sessions.read(0).sregs)["cs.base"] == 0x5_0000
    assert play("rsm").outcome


def test_rsm_outside_smm_is_undefined(play: Play, entered: Entered) -> None:
    assert play("rsm").outcome == "fault 6"
    entered()
    result = play("rsm")
    assert result.outcome == "l2"
    assert not result.emulated


def test_vmx_instructions_are_undefined_in_smm(play: Play, entered: Entered) -> None:
    entered(until="prepare")
    play("smi")
    assert play("vmlaunch").outcome == "fault 6"


@pytest.mark.parametrize(
    "ioctls",
    [
        (("set-nested-state", {"slot": "a", "part": "vmxon_pa"}),),
        (
            ("set-events", {"part": "smi.smm", "value": 0}),
            ("set-events", {"part": "smi.smm", "value": 1}),
        ),
        (("set-events", {"part": "smi.smm", "value": 2}),),
    ],
)
def test_rsm_to_an_l2_that_is_no_more(
    play: Play,
    entered: Entered,
    sessions: KvmSessions,
    ioctls: tuple[tuple[str, dict[str, int | str]], ...],
) -> None:
    """docs/findings/rsm-to-freed-l2.md: in slot a is a vCPU that has not executed VMXON."""
    play("save", slot="a")
    entered()
    assert play("smi").outcome == "smm"
    for kind, operands in ioctls:
        assert play(kind, **operands).errno == 0
    assert sessions.do(session_step("rsm")).stopped.startswith("BUG: VMPTRLD of")

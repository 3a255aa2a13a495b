# SPDX-License-Identifier: GPL-2.0-only
"""The ioctls of a session: each changes one part, errors are results, a whole vCPU can move."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pytest

from nvmxfuzz.inputs.session_steps import STEP_KINDS, session_step
from nvmxfuzz.oracles.session.witness import SessionWitness, StepResult, VcpuView
from nvmxfuzz.targets.kvm_native.session import KvmSessions

Play: TypeAlias = Callable[..., StepResult]
Entered: TypeAlias = Callable[..., None]

_ALL = (1 << 64) - 1
_TWICE = """
from random import Random
from nvmxfuzz.inputs.random_session import random_session
from nvmxfuzz.inputs.world import world_on
from nvmxfuzz.targets.kvm_native.session import session_witness
witness = session_witness({kernel!r})
witness.load(world_on("skylake-x", {kernel!r}))
for number in range(20):
    witness.renew()
    for step in random_session(Random(number)):
        result = witness.do(step)
        print(result)
        if result.stopped:
            break
        print(witness.read(0), witness.read(1))
"""


def test_the_witness_is_one(sessions: KvmSessions) -> None:
    witness: SessionWitness = sessions
    assert witness.kernel in ("6.1", "6.12")


def test_each_kind_of_step_is_carried_out(play: Play) -> None:
    for kind in STEP_KINDS:
        for vcpu in (0, 1):
            play(kind.name, vcpu)


def test_one_part_changes(play: Play, sessions: KvmSessions) -> None:
    play("set-regs", register="r9", value=0x99)
    play("set-sregs", register="cr2", flip=0x22)
    play("set-sregs", register="gdt_limit", unset=_ALL, flip=0x33)
    play("set-segment", segment="fs", part="base", value=0x44)
    play("set-msr", msr="IA32_SYSENTER_ESP", flip=0x55)
    play("set-events", part="nmi.masked", value=1)
    view = sessions.read(0)
    assert dict(view.regs)["r9"] == 0x99
    sregs = dict(view.sregs)
    assert (sregs["cr2"], sregs["gdt.limit"], sregs["fs.base"]) == (0x22, 0x33, 0x44)
    assert dict(view.msrs)["IA32_SYSENTER_ESP"] == 0x55
    assert dict(view.events)["nmi.masked"] == 1


def test_errors_are_results(play: Play) -> None:
    assert play("set-sregs", register="cr4", flip=1 << 63).errno == -22
    assert play("set-msr", msr="IA32_EFER", flip=1 << 63).outcome == "refused"
    assert play("set-events", part="flags", value=1 << 31).errno == -22
    assert play("set-nested-state", part="format", flip=7).errno == -22
    assert play("memory-write", region="unbacked").outcome == "unbacked"
    assert play("restore").outcome == "refused"
    assert play("run-immediate").errno == -4


def test_cpuid_cannot_change_once_the_vcpu_ran(play: Play) -> None:
    assert play("set-cpuid", feature="VMX").errno == 0
    assert play("vmxon").outcome == "fault 13"
    assert play("set-cpuid", feature="VMX").errno == -22


def test_init_and_sipi(play: Play, sessions: KvmSessions) -> None:
    play("init", 1)
    assert sessions.read(1).mp_state == 2  # INIT received
    play("sipi", 1, vector=0x12)
    view = sessions.read(1)
    assert view.mp_state == 0
    assert dict(view.sregs)["cs.base"] == 0x1_2000


def test_init_waits_in_vmx_root_operation(
    play: Play, entered: Entered, sessions: KvmSessions
) -> None:
    entered()
    play("l2-exit", exit="external-interrupt")
    play("init")
    assert play("run").outcome == "exit 3"
    assert sessions.read(0).mp_state == 0


def test_an_nmi_is_pending(play: Play, sessions: KvmSessions) -> None:
    play("nmi")
    assert play("run").outcome == "l1"
    assert dict(sessions.read(0).events)["nmi.masked"] == 1


def test_a_vcpu_moves_in_l2(play: Play, entered: Entered, sessions: KvmSessions) -> None:
    entered()
    play("l2-exit", exit="external-interrupt")
    play("save", slot="a")
    assert play("restore", 1, slot="a") == StepResult()
    assert _comparable(sessions.read(1)) == _comparable(sessions.read(0))
    for vcpu in (0, 1):
        assert play("l2-exit", vcpu, exit="cpuid").outcome == "exit 10"
    assert _comparable(sessions.read(1)) == _comparable(sessions.read(0))


def _comparable(view: VcpuView) -> VcpuView:
    """Return the view without what differs by vCPU: bit 8 of IA32_APIC_BASE says which is first."""
    sregs = tuple(
        (name, value & ~0x100 if name == "apic_base" else value) for name, value in view.sregs
    )
    return replace(
        view, sregs=sregs, msrs=tuple(pair for pair in view.msrs if pair[0] != "IA32_TSC")
    )


def test_nested_state_can_be_edited(play: Play, entered: Entered, sessions: KvmSessions) -> None:
    entered(until="prepare")
    play("save")
    assert play("set-nested-state", part="vmcs12_pa", unset=_ALL, flip=0x10_0000).errno == 0
    assert dict(sessions.read(0).nested)["vmcs12_pa"] == 0x10_0000
    assert play("set-nested-state", part="vmcs12_pa", unset=_ALL, flip=0x1001).errno == -22


def test_a_session_begins_anew(play: Play, entered: Entered, sessions: KvmSessions) -> None:
    before = [sessions.read(vcpu) for vcpu in (0, 1)]
    entered()
    play("save")
    sessions.renew()
    assert [sessions.read(vcpu) for vcpu in (0, 1)] == before
    assert play("restore").outcome == "refused"


def test_what_stops_is_a_result(play: Play, entered: Entered, sessions: KvmSessions) -> None:
    entered()
    sessions.library.step_limit = 10
    try:
        result = sessions.do(session_step("run"))
    finally:
        sessions.library.step_limit = 200_000
    assert result.stopped == "no end after 11 steps"
    sessions.renew()
    assert play("vmxon").outcome == "done"


@pytest.mark.usefixtures("play")
def test_two_processes_see_the_same(sessions: KvmSessions) -> None:
    program = _TWICE.format(kernel=sessions.kernel)
    first, second = (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, check=True, timeout=60
        ).stdout
        for _ in range(2)
    )
    assert first == second
    assert b"entered" in first

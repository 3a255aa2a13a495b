# SPDX-License-Identifier: GPL-2.0-only
"""What each instruction of L1 comes to in a session, by the SDM's table of VMX instructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from nvmxfuzz.oracles.session.witness import StepResult
from nvmxfuzz.targets.kvm_native.session import KvmSessions

Play: TypeAlias = Callable[..., StepResult]
Entered: TypeAlias = Callable[..., None]

KINDS_WITH_OPERAND = ("vmxon", "vmclear", "vmptrld", "vmptrst", "invept", "invvpid")


def test_outside_vmx_operation_everything_but_vmxon_is_undefined(play: Play) -> None:
    for kind in ("vmxoff", "vmclear", "vmptrld", "vmptrst", "vmread", "vmwrite", "vmlaunch"):
        assert play(kind).outcome == "fault 6", kind


def test_vmxon(play: Play) -> None:
    assert play("vmxon", region="unaligned").outcome == "vmfail-invalid"
    assert play("vmxon", region="beyond-width").outcome == "vmfail-invalid"
    assert play("vmxon", region="wrong-revision").outcome == "vmfail-invalid"
    assert play("vmxon", region="vmxon-region").outcome == "done"
    assert play("vmxon", region="vmxon-region").outcome == "vmfail-invalid"
    play("vmptrld", region="vmcs-0")
    assert play("vmxon", region="other-vmxon-region").outcome == "vmfail-valid 15"
    assert play("vmxoff").outcome == "done"
    assert play("vmxoff").outcome == "fault 6"


def test_vmptrld_and_vmclear(play: Play) -> None:
    play("vmxon")
    assert play("vmptrld", region="unaligned").outcome == "vmfail-invalid"
    assert play("vmptrld", region="vmcs-0").outcome == "done"
    assert play("vmptrld", region="unaligned").outcome == "vmfail-valid 9"
    assert play("vmptrld", region="vmxon-region").outcome == "vmfail-valid 10"
    assert play("vmptrld", region="wrong-revision").outcome == "vmfail-valid 11"
    assert play("vmclear", region="unaligned").outcome == "vmfail-valid 2"
    assert play("vmclear", region="vmxon-region").outcome == "vmfail-valid 3"
    assert play("vmclear", region="vmcs-0").outcome == "done"
    assert play("vmread", field="guest_rip").outcome == "vmfail-invalid"


def test_vmread_and_vmwrite(play: Play, sessions: KvmSessions) -> None:
    play("vmxon")
    play("vmptrld", region="vmcs-0")
    assert play("vmwrite", field="guest_rip", value=0x1234).outcome == "done"
    assert play("vmread", field="guest_rip").outcome == "done"
    assert dict(sessions.read(0).regs)["rax"] == 0x1234
    assert play("vmwrite", field="guest_es_base", value=0x5678).outcome == "done"
    assert play("vmread", field="guest_es_base").outcome == "done"
    view = sessions.read(0)
    assert dict(view.regs)["rax"] == 0x5678
    assert dict(view.vmcs12)["guest_rip"] == 0x1234
    assert dict(view.vmcs12)["guest_es_base"] == 0x5678
    assert play("vmread", field="guest_ssp").outcome == "vmfail-valid 12"


def test_launch_states(play: Play) -> None:
    for kind in ("vmxon", "vmptrld", "prepare"):
        play(kind)
    assert play("vmresume").outcome == "vmfail-valid 5"
    assert play("vmlaunch").outcome == "entered"
    assert play("run").outcome == "exit 18"
    assert play("vmlaunch").outcome == "vmfail-valid 4"
    assert play("vmresume").outcome == "entered"


def test_what_vm_entry_checks(play: Play, entered: Entered) -> None:
    entered(until="prepare")
    play("vmwrite", field="vmx_preemption_timer_value", value=0)
    play("vmwrite", field="cr3_target_count", value=5)
    assert play("vmlaunch").outcome == "vmfail-valid 7"
    play("vmwrite", field="cr3_target_count", value=0)
    play("vmwrite", field="host_cr0", value=0)
    assert play("vmlaunch").outcome == "vmfail-valid 8"
    play("prepare", base="guest-64")
    play("vmwrite", field="guest_cr0", value=0)
    result = play("vmlaunch")
    assert result.outcome == "exit 33 qualification 0"
    assert result.checks


@pytest.mark.parametrize("kind", KINDS_WITH_OPERAND)
def test_memory_operands(play: Play, kind: str) -> None:
    if kind != "vmxon":  # in VMX operation it does not look at the operand
        play("vmxon")
        play("vmptrld", region="vmcs-0")
    operands = {"type": 1} if kind.startswith("inv") else {}
    assert play(kind, operand="unmapped", **operands).outcome == "fault 14"
    assert play(kind, operand="non-canonical", **operands).outcome == "fault 13"
    assert play(kind, operand="stack", **operands).outcome == "fault 12"
    faults = play(kind, operand="read-only", **operands).outcome == "fault 14"
    assert faults == (kind == "vmptrst")


def test_modes(play: Play, sessions: KvmSessions) -> None:
    assert play("vmxon", mode="compatibility").outcome == "fault 6"
    assert play("vmxon", mode="real").outcome == "fault 6"
    assert play("vmxon", mode="virtual-8086").outcome == "fault 6"
    assert play("vmxon", mode="user").outcome == "fault 13"
    assert play("vmxon", mode="no-vmxe").outcome == "fault 6"
    before = sessions.read(0).sregs
    assert play("vmxon").outcome == "done"
    assert sessions.read(0).sregs == before
    assert play("vmxon", mode="no-vmxe").errno == -22  # CR4.VMXE is fixed in VMX operation


def test_invept_and_invvpid(play: Play) -> None:
    play("vmxon")
    play("vmptrld", region="vmcs-0")
    assert play("invept", type=2).outcome == "done"
    assert play("invept", type=4).outcome == "vmfail-valid 28"
    assert play("invvpid", type=2).outcome == "done"
    assert play("invvpid", type=1, vpid=0).outcome == "vmfail-valid 28"
    assert play("invvpid", type=0, vpid=1, address=1 << 63).outcome == "vmfail-valid 28"


def test_vmptrst_stores_the_pointer(play: Play, sessions: KvmSessions) -> None:
    play("vmxon")
    play("vmptrld", region="vmcs-1")
    assert play("vmptrst", operand="good").outcome == "done"
    vm = sessions.vm
    assert vm is not None
    assert vm.memory.read_int(0x12_0000) == 0x10_0000


def test_in_l2_an_instruction_is_an_exit(play: Play, entered: Entered) -> None:
    entered()
    play("run-immediate")
    assert play("vmxon", mode="real").outcome == "exit 27"

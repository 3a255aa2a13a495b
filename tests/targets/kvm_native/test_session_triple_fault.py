# SPDX-License-Identifier: GPL-2.0-only
"""L2 whose state became invalid behind KVM's back ends in a triple fault to L1, unless mended."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeAlias

import pytest

from nvmxfuzz.oracles.session.witness import StepResult
from nvmxfuzz.targets.kvm_native import l1
from nvmxfuzz.targets.kvm_native.port import VMCALL
from nvmxfuzz.targets.kvm_native.session import KvmSessions
from nvmxfuzz.targets.kvm_native.session_exits import script

Play: TypeAlias = Callable[..., StepResult]
Entered: TypeAlias = Callable[..., None]
InWorld: TypeAlias = Callable[..., None]

_BUSY_TSS = 11
_AVAILABLE_TSS = 9


@pytest.fixture(params=[1, 0])
def in_l2(request: pytest.FixtureRequest, play: Play, in_world: InWorld, entered: Entered) -> Play:
    """Return a session in which L2 has run, with and without unrestricted guests."""
    in_world(unrestricted_guest=request.param)
    entered()
    assert play("l2-exit", exit="external-interrupt").outcome == "l2"
    return play


def test_invalid_state_is_a_triple_fault(in_l2: Play, sessions: KvmSessions) -> None:
    stuffed = in_l2("set-segment", segment="tr", part="type", value=_AVAILABLE_TSS)
    assert stuffed.errno == 0
    assert sessions.read(0).in_l2
    result = in_l2("l2-exit", exit="cpuid")
    assert (result.outcome, result.emulated, result.warnings) == ("triple-fault", False, ())
    view = sessions.read(0)
    assert dict(view.vmcs12)["vm_exit_reason"] == 2
    assert dict(view.regs)["rip"] == dict(view.vmcs12)["host_rip"]  # CPUID was not executed


def test_what_is_mended_runs(in_l2: Play) -> None:
    in_l2("set-segment", segment="tr", part="type", value=_AVAILABLE_TSS)
    in_l2("set-segment", segment="tr", part="type", value=_BUSY_TSS)
    assert in_l2("l2-exit", exit="cpuid").outcome == "exit 10"


def test_no_triple_fault_without_a_run(in_l2: Play, sessions: KvmSessions) -> None:
    in_l2("set-segment", segment="tr", part="type", value=_AVAILABLE_TSS)
    assert in_l2("run-immediate").errno == -errno.EINTR
    assert sessions.read(0).in_l2


def test_while_the_entry_is_pending_it_is_a_warning(play: Play, entered: Entered) -> None:
    """docs/findings/pending-entry.md: nothing of L2 has run since VMLAUNCH."""
    entered()
    play("set-segment", segment="tr", part="type", value=_AVAILABLE_TSS)
    result = play("run")
    assert (result.errno, len(result.warnings)) == (-errno.EIO, 1)
    assert "vmx/vmx.c" in result.warnings[0]
    assert play("run").errno == -errno.EIO  # the VM is dead


def test_an_smi_handler_can_bring_that_about(
    play: Play, entered: Entered, sessions: KvmSessions
) -> None:
    """The same page, the second way: RSM and the entry are in one KVM_RUN."""
    entered()
    assert play("smi").outcome == "smm"
    assert play("smram-write", field="tr_attributes", flip=2).errno == 0
    assert sessions.vm is not None
    error, _ = sessions.vm.vcpus[0].run(script(l1.UNDEFINED_OPCODE, VMCALL))
    assert error == -errno.EIO
    assert len(sessions.vm.warnings) == 1


def test_a_triple_fault_while_the_entry_is_pending(play: Play, entered: Entered) -> None:
    """The same page, the third way."""
    entered()
    assert play("set-events", part="triple_fault_pending", value=1).errno == 0
    _two_warnings(play)


def _two_warnings(play: Play) -> None:
    """L1 is told of the triple fault, with a WARN; the entry is still pending, its exit fatal."""
    first, second = play("run"), play("run")
    assert (first.outcome, len(first.warnings)) == ("triple-fault", 1)
    assert "vmx/nested.c" in first.warnings[0]
    assert (second.errno, len(second.warnings)) == (-errno.EIO, 1)
    assert "vmx/vmx.c" in second.warnings[0]


def test_with_an_exception_pending_it_is_an_internal_error(in_l2: Play) -> None:
    """The same page, beside the three: L1 is told nothing."""
    in_l2("set-segment", segment="tr", part="type", value=_AVAILABLE_TSS)
    in_l2("set-events", part="exception.nr", value=6)
    in_l2("set-events", part="exception.injected", value=1)
    result = in_l2("l2-exit", exit="cpuid")
    assert (result.outcome, result.left, result.warnings) == ("l2", "internal-error 1", ())


def test_emulation_of_l2_is_seen(
    play: Play, entered: Entered, sessions: KvmSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an L2 that KVM cannot enter; what is planted is a counter that goes on."""
    entered()
    assert not play("l2-exit", exit="io", qualification=0x10).emulated
    play("set-segment", segment="tr", part="type", value=_AVAILABLE_TSS)
    counts = iter(range(10))
    assert sessions.vm is not None
    monkeypatch.setattr(sessions.vm.vcpus[0], "_emulated", lambda _: next(counts))
    assert play("l2-exit", exit="cpuid").emulated


@pytest.mark.parametrize(
    ("field", "flip"), [("efer", 1 << 45), ("cr4", 1 << 13), ("cr0", 1), ("cr3", 1 << 62)]
)
def test_what_rsm_cannot_load(
    play: Play, entered: Entered, sessions: KvmSessions, field: str, flip: int
) -> None:
    """The fourth way, of 6.1; 6.12 has not gone back to L2 by then."""
    entered()
    play("smi")
    play("smram-write", field=field, flip=flip)
    outcome = play("rsm").outcome
    if sessions.kernel == "6.1":
        assert outcome == "entered"
        _two_warnings(play)
    else:
        result = play("run")
        assert (outcome, result.left, result.warnings) == ("l1", "shutdown", ())


def test_a_root_without_memory(play: Play, sessions: KvmSessions, in_world: InWorld) -> None:
    """docs/findings/no-memory.md: no nesting is needed, but a KVM without EPT."""
    in_world(ept=0)
    play("set-sregs", register="cr3", flip=0x1000_0000)
    play("set-events", part="exception.nr", value=6)
    play("set-events", part="exception.injected", value=1)
    result = play("run")
    if sessions.kernel == "6.1":
        assert (result.left, len(result.warnings)) == ("shutdown", 1)
    else:
        assert (result.left, result.warnings) == ("intr", ())

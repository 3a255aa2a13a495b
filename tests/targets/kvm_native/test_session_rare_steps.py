# SPDX-License-Identifier: GPL-2.0-only
"""The rarer steps of a session: other exits, operands in memory, interrupts, no memory, Hyper-V."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeAlias

import pytest

from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.inputs.session_steps import FORMS
from nvmxfuzz.oracles.session.witness import StepResult
from nvmxfuzz.targets.kvm_native.session import KvmSessions

Play: TypeAlias = Callable[..., StepResult]

_PRIMARY = 0x0400_6172
_PIN = 0x16
_EXIT = 0x3_6FFB
_FIELD = "io_bitmap_a"
"""A field that KVM has no shadow VMCS for."""


def _ready(play: Play) -> None:
    for kind in ("vmxon", "vmptrld", "prepare"):
        play(kind)


def _vmcs12(sessions: KvmSessions, name: str) -> int:
    return dict(sessions.read(0).vmcs12).get(name, 0)


# ---------------------------------------------------------------------- exits of L2


def test_the_processor_makes_no_exit_that_nobody_asked_for(play: Play) -> None:
    _ready(play)
    play("vmlaunch")
    assert play("l2-other-exit", exit="rdtsc").outcome == "exit 18"
    play("vmwrite", field="cpu_based_vm_exec_control", value=_PRIMARY | Primary.RDTSC_EXITING)
    play("vmresume")
    assert play("l2-other-exit", exit="rdtsc").outcome == "exit 16"


def test_what_l1_does_not_want_stays_in_l2(play: Play) -> None:
    _ready(play)
    play("vmlaunch")
    assert play("l2-other-exit", exit="mwait").outcome == "l2"
    assert play("l2-other-exit", exit="vmclear").outcome == "exit 19"


@pytest.mark.parametrize(
    ("delivered", "information"),
    [
        ("nothing", 0),
        ("fault", 0x8000_0300),
        ("fault-with-code", 0x8000_0B0D),
        ("nmi", 0x8000_0202),
        ("interrupt", 0x8000_0040),
        ("software-interrupt", 0x8000_0440),
    ],
)
def test_l1_finds_what_was_being_delivered(
    play: Play, sessions: KvmSessions, delivered: str, information: int
) -> None:
    _ready(play)
    play("vmwrite", field="exception_bitmap", value=1 << 14)
    play("vmlaunch")
    result = play("l2-other-exit", exit="page-fault", qualification=2, delivered=delivered)
    assert result.outcome == "exit 0"
    assert _vmcs12(sessions, "idt_vectoring_info_field") == information


def test_eptp_switching(play: Play, sessions: KvmSessions) -> None:
    _ready(play)
    primary = _PRIMARY | Primary.ACTIVATE_SECONDARY_CONTROLS
    play("vmwrite", field="cpu_based_vm_exec_control", value=primary)
    secondary = Secondary.ENABLE_EPT | Secondary.ENABLE_VM_FUNCTIONS
    play("vmwrite", field="secondary_vm_exec_control", value=secondary)
    play("vmwrite", field="vm_function_control", value=1)
    play("vmwrite", field="eptp_list_address", value=0x10_1000)
    play("memory-write", region="vmcs-2", offset=8, value=0x10_201E)
    play("vmlaunch")
    assert play("l2-other-exit", exit="vmfunc", qualification=1).outcome == "l2"
    assert _vmcs12(sessions, "ept_pointer") == 0x10_201E
    beyond = play("l2-other-exit", exit="vmfunc", qualification=1 | 64 << 32)
    assert (beyond.outcome, beyond.warnings) == ("l2", ())
    assert play("l2-other-exit", exit="vmfunc", qualification=2).outcome == "exit 59"


# ---------------------------------------------------------------------- operands in memory


@pytest.mark.parametrize("mode", ["kernel", "protected"])
def test_each_form_of_an_operand_leads_somewhere(
    play: Play, sessions: KvmSessions, mode: str
) -> None:
    _ready(play)
    faults = {"unmapped": "fault 14", "non-canonical": "fault 13", "stack": "fault 12"}
    if mode == "protected":
        # There an address is cut to its lower half.
        faults = {"unmapped": "fault 14"}
    for number, form in enumerate(FORMS):
        value = 0x1000 * (number + 1)
        wanted = faults.get(form, "done")
        step = {"field": _FIELD, "operand": form, "mode": mode}
        assert play("vmwrite-memory", value=value, **step).outcome == wanted, form
        known = wanted == "done" and form not in ("non-canonical", "stack")
        if known:
            assert _vmcs12(sessions, _FIELD) == value, form
        wanted = "fault 14" if form == "read-only" else wanted
        assert play("vmread-memory", **step).outcome == wanted, form


def test_vmread_writes_to_memory(play: Play, sessions: KvmSessions) -> None:
    _ready(play)
    play("vmwrite", field=_FIELD, value=0x4321_0000)
    play("vmread-memory", field=_FIELD, operand="indexed")
    assert sessions.vm is not None
    assert sessions.vm.memory.read_int(0x12_0000, 8) == 0x4321_0000


# ---------------------------------------------------------------------- interrupts


def test_an_interrupt_needs_an_apic_that_is_enabled(play: Play) -> None:
    assert play("interrupt", vector=0x41).outcome == "refused"
    play("set-lapic", register="svr", value=0x1FF)
    assert play("interrupt", vector=0x41).outcome == ""


def test_an_interrupt_ends_l2(play: Play, sessions: KvmSessions) -> None:
    play("set-lapic", register="svr", value=0x1FF)
    _ready(play)
    play("vmwrite", field="pin_based_vm_exec_control", value=_PIN | 1)
    play("vmwrite", field="vm_exit_controls", value=_EXIT | 1 << 15)
    play("vmlaunch")
    play("l2-exit", exit="external-interrupt")
    play("interrupt", vector=0x41)
    assert play("run").outcome == "exit 1"
    assert _vmcs12(sessions, "vm_exit_intr_info") == 0x8000_0041


# ---------------------------------------------------------------------- L0


def test_l0_without_memory_refuses_and_goes_on(play: Play) -> None:
    play("no-memory", allocation=1)
    assert play("vmxon").errno == -errno.ENOMEM
    assert play("vmxon").outcome == "done"
    assert play("vmxoff").outcome == "done"
    play("no-memory", allocation=1)
    play("save")
    assert play("vmxon").outcome == "done", "only the next step lacks it"


# ---------------------------------------------------------------------- Hyper-V


def _enlightened(play: Play) -> None:
    play("enlighten")
    assert play("assist-page", region="vmcs-1").outcome == "done"
    play("vmxon")


def test_the_enlightened_vmcs_is_laid_out_as_kvm_reads_it(
    play: Play, sessions: KvmSessions
) -> None:
    _enlightened(play)
    play("prepare-enlightened", region="vmcs-1")
    assert play("vmlaunch").outcome == "entered"
    assert sessions.vm is not None
    values = sessions.vm.bases.attempt("guest-64").vmcs.items()
    found = dict(sessions.read(0).vmcs12)
    # What KVM has written for L2 to run, or does not read from there.
    own = {"guest_activity_state", "vmcs_link_pointer", "ept_pointer"}
    different = {
        name
        for name, value in found.items()
        if name.startswith(("guest_", "host_")) and values.get(name, 0) != value
    }
    assert different <= own
    assert {"guest_rip", "host_rip", "guest_cs_ar_bytes", "host_cr3", "guest_gdtr_limit"} <= (
        found.keys()
    )
    assert play("run").outcome == "exit 18"


def test_without_it_the_assist_page_names_nothing(play: Play) -> None:
    play("enlighten", evmcs="not-enabled")
    play("assist-page", region="vmcs-1")
    play("vmxon")
    play("prepare-enlightened", region="vmcs-1")
    assert play("vmlaunch").outcome == "vmfail-invalid"

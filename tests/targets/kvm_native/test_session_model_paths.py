# SPDX-License-Identifier: GPL-2.0-only
"""Paths that random sessions seldom take, on the model and on KVM: to their end, and the same."""

from __future__ import annotations

import errno
from dataclasses import replace
from functools import cache
from typing import TypeAlias

import pytest

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.inputs.session_steps import session_step as step
from nvmxfuzz.inputs.world import world_on
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx
from nvmxfuzz.kvm.vmcs12 import OFFSETS
from nvmxfuzz.oracles.session.agreement import Compared, compare_session
from nvmxfuzz.oracles.session.witness import PLACE_ADDRESSES
from nvmxfuzz.targets.kvm_native.session import KvmSessions
from nvmxfuzz.targets.session_model import ModelSessions

Path: TypeAlias = tuple[SessionStep, ...]

CURRENT = (step("vmxon"), step("vmclear"), step("vmptrld"))
READY = (*CURRENT, step("prepare"))
L2 = (*READY, step("vmlaunch"))
_SS_DPL_3 = step("set-segment", segment="ss", part="dpl", value=3)
_COMPATIBILITY = step("set-segment", segment="cs", part="l", value=0)


def written(name: str, value: int) -> SessionStep:
    """Return VMWRITE of a field."""
    return step("vmwrite", field=name, value=value)


def exit_of_l2(name: str, qualification: int = 0) -> SessionStep:
    """Return an exit of L2."""
    return step("l2-exit", exit=name, qualification=qualification)


def compare(sessions: KvmSessions, path: Path, **parameters: int) -> Compared:
    """Go a path on both."""
    world = replace(world_on("skylake-x", sessions.kernel), parameters=tuple(parameters.items()))
    model = _model(sessions.kernel, world.parameters)
    assert sessions.load(world) == ""
    return compare_session(path, model, sessions)


@cache
def _model(kernel: str, parameters: tuple[tuple[str, int], ...]) -> ModelSessions:
    model = ModelSessions(kernel)
    assert model.load(replace(world_on("skylake-x", kernel), parameters=parameters)) == ""
    return model


def assert_same(sessions: KvmSessions, path: Path, **parameters: int) -> None:
    """Compare a path to its end."""
    compared = compare(sessions, path, **parameters)
    assert compared.finding is None
    assert (compared.steps, compared.ended) == (len(path), "")


# ---------------------------------------------------------------------- exits of L2

EXITS = {
    "an instruction that L2 does not have": (exit_of_l2("exception-ud"),),
    "a trap of L2": (exit_of_l2("exception-db", 0x4001),),
    "an NMI of the host": (exit_of_l2("nmi"), exit_of_l2("nmi")),
    "HLT that L1 leaves to KVM": (exit_of_l2("hlt"),),
    "CR0 without a bit of L1's": (exit_of_l2("cr0-write", 0x8005_0031),),
    "CR0 that cannot be": (exit_of_l2("cr0-write", 0x8000_0000),),
    "CR4 with PGE": (exit_of_l2("cr4-write", 0x2020 | 1 << 7),),
    "CR4 with a reserved bit": (exit_of_l2("cr4-write", 1 << 15 | 0x2020),),
    "RDMSR without a bitmap": (exit_of_l2("rdmsr", 0x1B),),
}


@pytest.mark.parametrize("name", EXITS)
def test_exits_of_l2(sessions: KvmSessions, name: str) -> None:
    assert_same(sessions, (*L2, *EXITS[name]))


def test_l1_gets_what_it_asked_for(sessions: KvmSessions) -> None:
    owned = (written("cr0_guest_host_mask", 1 << 3), written("cr0_read_shadow", 1 << 3))
    entered = (*READY, *owned, step("vmlaunch"))
    assert_same(sessions, (*entered, exit_of_l2("cr0-write", 0x8005_0033)))
    assert_same(sessions, (*entered, exit_of_l2("cr0-write", 0x8005_003B), step("smi")))


def test_a_wrong_idea_of_whose_an_exit_is_shows(
    sessions: KvmSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def always(vmx: VcpuVmx, guest: object) -> bool:
        del vmx, guest
        return True

    monkeypatch.setattr("nvmxfuzz.kvm.vmx_handle_exit.nested_vmx_reflects", always)
    assert compare(sessions, (*L2, exit_of_l2("nmi"))).finding is not None


@pytest.mark.parametrize("bit", [0, 1])
@pytest.mark.parametrize("link", ["shadow-vmcs", "all-ones"])
def test_a_vmcs_that_l1_gives_l2(sessions: KvmSessions, bit: int, link: str) -> None:
    field = step("vmread", field="guest_rip")
    path = (*READY, *_shadowing(sessions, bit, link), step("vmlaunch"), field)
    assert_same(sessions, path)
    assert sessions.read(0).in_l2 == (not bit)
    assert_same(sessions, (*path, step("vmwrite", field="guest_rip", value=5), field, step("run")))


def _shadowing(sessions: KvmSessions, bit: int, link: str) -> Path:
    """Return what turns shadowing on, with bitmaps that have that bit for GUEST_RIP."""
    assert sessions.load(world_on("skylake-x", sessions.kernel)) == ""
    attempt = sessions.vm.bases.attempt("guest-64") if sessions.vm else None
    assert attempt is not None
    secondary = attempt.vmcs.secondary_vm_exec_control | Secondary.VMCS_SHADOWING
    bitmap = PLACE_ADDRESSES["vmcs-2"]
    byte = FIELD_BY_NAME["guest_rip"].encoding >> 3
    return (
        written("cpu_based_vm_exec_control", attempt.vmcs.cpu_based_vm_exec_control | 1 << 31),
        written("secondary_vm_exec_control", secondary),
        written("vmread_bitmap", bitmap),
        written("vmwrite_bitmap", bitmap),
        written("vmcs_link_pointer", PLACE_ADDRESSES[link]),
        step("memory-write", region="vmcs-2", offset=byte, value=0xFF if bit else 0),
    )


# ---------------------------------------------------------------------- modes

MODES = {
    "no VMX instructions in compatibility mode": (_COMPATIBILITY,),
    "VMREAD from the shadow VMCS at CPL 3": (_SS_DPL_3,),
    "no VMX instructions in SMM": (step("smi"),),
}


@pytest.mark.parametrize("name", MODES)
def test_vmx_instructions_in_other_modes(sessions: KvmSessions, name: str) -> None:
    for last in (step("vmread", field="guest_rip"), step("vmptrst"), step("prepare")):
        assert_same(sessions, (*READY, *MODES[name], last))


def test_the_shadow_vmcs_is_out_of_reach_above_cpl_0(sessions: KvmSessions) -> None:
    model = _model(sessions.kernel, ())
    assert sessions.load(world_on("skylake-x", sessions.kernel)) == ""
    compare_session((*READY, _SS_DPL_3), model, sessions)
    before = sessions.read(0).vmcs12
    result = sessions.do(step("vmwrite", field="guest_rip", value=0x77))
    assert result.outcome == "fault 13"
    assert sessions.read(0).vmcs12 == before


# ---------------------------------------------------------------------- what ends the VM


def test_ept_in_smm_warns(sessions: KvmSessions) -> None:
    """Which KVM is not meant to come to: `ept-in-smm` of the known breaches."""
    smm = step("set-events", part="smi.smm", value=1)
    path = (smm, *CURRENT, step("prepare", base="guest-real"), step("vmlaunch"))
    assert_same(sessions, path)
    assert sessions.do(step("run-immediate")).errno == -errno.EINTR


def test_rsm_to_impossible_paging(sessions: KvmSessions) -> None:
    """6.12 ends the VM, 6.1 enters L2: `rsm-to-impossible-paging` of the known breaches."""
    place = OFFSETS["guest_cr4"] // 4
    path = (
        *L2,
        exit_of_l2("external-interrupt"),
        step("smi"),
        step("set-nested-state", part="vmcs12", place=place, unset=1 << 5),
        step("rsm"),
    )
    compared = compare(sessions, path)
    assert compared.finding is None
    assert compared.steps == len(path)
    assert bool(compared.ended) == (sessions.kernel == "6.12")


def test_a_triple_fault_waits_for_an_invalid_guest(sessions: KvmSessions) -> None:
    invalid = step("set-segment", segment="ldt", part="type", value=0)
    fault = step("set-events", part="triple_fault_pending", value=1)
    entered = (*CURRENT, step("prepare"), step("vmlaunch"))
    assert_same(sessions, (*entered, invalid, fault, step("run")))


# ---------------------------------------------------------------------- MSR-store lists

_LIST = PLACE_ADDRESSES["vmcs-2"]
_INDICES = (0xC000_0080, 0x277, 0x1D9, 0x174, 0xC000_0100, 0xC000_0082, 0x480, 0x3A, 0x1B)
STORED = {
    "values of L2": (len(_INDICES), _INDICES),
    "an MSR that is not stored": (2, (0xC000_0080, 0x9E)),
    "an MSR that nobody has": (1, (0x1234_5678,)),
}


@pytest.mark.parametrize("name", STORED)
def test_what_a_vm_exit_stores(sessions: KvmSessions, name: str) -> None:
    count, indices = STORED[name]
    entries = tuple(
        step("memory-write", region="vmcs-2", offset=16 * number, value=index)
        for number, index in enumerate(indices)
    )
    lists = (written("vm_exit_msr_store_count", count), written("vm_exit_msr_store_addr", _LIST))
    path = (*READY, *entries, *lists, step("vmlaunch"), step("run"))
    assert_same(sessions, path)
    model = _model(sessions.kernel, ())
    assert sessions.vm is not None
    assert model._machine is not None
    stored = sessions.vm.memory.read(_LIST, 16 * len(indices))
    assert stored == model._machine.memory.read(_LIST, 16 * len(indices))
    failed = name != "values of L2"
    assert model._machine.vcpus[0].events.triple_fault == failed


def test_a_list_that_is_too_long(sessions: KvmSessions) -> None:
    lists = (written("vm_exit_msr_store_count", 513), written("vm_exit_msr_store_addr", 0x18_0000))
    assert_same(sessions, (*READY, *lists, step("vmlaunch"), step("run"), step("run")))


# ---------------------------------------------------------------------- what an exit leaves


def test_a_late_vmfail_with_tf_is_single_stepped(sessions: KvmSessions) -> None:
    stepped = step("set-regs", register="rflags", value=0x102)
    assert_same(sessions, (*READY, stepped, step("vmlaunch"), exit_of_l2("vmfail")))


def test_an_l1_in_shutdown_writes_no_shadow_vmcs(sessions: KvmSessions) -> None:
    fault = step("set-events", part="triple_fault_pending", value=1)
    left = (*L2, step("run"), fault)
    assert_same(sessions, (*left, step("prepare", base="guest-32"), step("run")))
    assert_same(sessions, (*left, written("guest_cr4", 0x77), step("run")))

# SPDX-License-Identifier: GPL-2.0-only
"""Every check of KVM_SET_NESTED_STATE and its errno, on KVM itself and on the model.

What is left behind a refusal must be the same, too: some checks come after VMX operation has ended.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

import pytest

from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.inputs.session_steps import session_step as step
from nvmxfuzz.inputs.world import world_on
from nvmxfuzz.kvm import nested_state as ns
from nvmxfuzz.kvm.nested_msrs import VMCS12_REVISION
from nvmxfuzz.kvm.vmcs12 import SHADOW_VMCS, VMCS12_STRUCT_SIZE, unpack, write_fields, write_word
from nvmxfuzz.oracles.session.witness import PLACE_ADDRESSES, VcpuView
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.session import KvmSessions
from nvmxfuzz.targets.session_model import ModelSessions

NONE: Final = (1 << 64) - 1
VMXON = PLACE_ADDRESSES["vmxon-region"]
READY = (step("vmxon"), step("vmclear"), step("vmptrld"), step("prepare"))
L2 = (*READY, step("vmlaunch"))
IN_SMM = (step("set-events", part="smi.smm", value=1),)
_EMPTY = {"vmxon_pa": NONE, "vmcs12_pa": NONE, "flags": 0}
_SHADOWING = {
    "cpu_based_vm_exec_control": int(Primary.ACTIVATE_SECONDARY_CONTROLS),
    "secondary_vm_exec_control": int(Secondary.VMCS_SHADOWING),
}
_PAGE: Final = 4096


@dataclass(frozen=True)
class Case:
    """What comes first, how the state of an L2 is edited, and what the ioctl returns.

    `fields` replace those of vmcs12, but for controls, which are added to its own.
    """

    header: Mapping[str, int] = field(default_factory=dict)
    fields: Mapping[str, int] = field(default_factory=dict)
    revision: int = VMCS12_REVISION
    shadow_revision: int = VMCS12_REVISION | SHADOW_VMCS
    link: int = NONE
    before: tuple[SessionStep, ...] = ()
    result: int = -errno.EINVAL


CASES: Final[Mapping[str, Case]] = {
    # The ioctl itself.
    "size below the header's": Case({"size": 127}),
    "a flag that KVM does not know": Case({"flags": 1 | 0x10}),
    "a pending entry of no L2": Case({"flags": ns.RUN_PENDING}),
    # What changes nothing.
    "SVM's format": Case({"format": 1}),
    "no VMXON region, but flags of SMM": Case({**_EMPTY, "smm_flags": ns.SMM_VMXON}),
    "no VMXON region, but a VMCS": Case({**_EMPTY, "vmcs12_pa": 0x2000}),
    "no VMXON region, but L2": Case({**_EMPTY, "flags": ns.GUEST_MODE}),
    "no VMXON region, but a pending MTF": Case({**_EMPTY, "flags": ns.MTF_PENDING}),
    "no VMX in CPUID": Case(before=(step("set-cpuid", feature="VMX"),)),
    "a VMXON region that is not aligned": Case({"vmxon_pa": VMXON | 8}),
    "a VMXON region beyond the width": Case({"vmxon_pa": 1 << 52}),
    "L2 active in SMM and behind it": Case({"smm_flags": ns.SMM_GUEST_MODE | ns.SMM_VMXON}),
    "a flag of SMM that KVM does not know": Case({"smm_flags": 4, "flags": 0}, before=IN_SMM),
    "a flag of VMX that KVM does not know": Case({"vmx_flags": 2}),
    "L2 active in SMM": Case(before=IN_SMM),
    "a pending entry in SMM": Case({"flags": ns.GUEST_MODE | ns.RUN_PENDING}, before=IN_SMM),
    "flags of SMM outside": Case({"flags": 0, "smm_flags": ns.SMM_VMXON}),
    "L2 behind SMM without VMX operation": Case(
        {"flags": 0, "smm_flags": ns.SMM_GUEST_MODE}, before=IN_SMM
    ),
    "an enlightened VMCS": Case({"flags": ns.EVMCS}),
    "an enlightened VMCS without VMXON": Case({**_EMPTY, "flags": ns.EVMCS}),
    # What ends VMX operation, and begins it anew.
    "L2 without a VMCS": Case({"size": ns.HEADER_SIZE + VMCS12_STRUCT_SIZE - 1}),
    "a VMCS that is not there": Case({"size": ns.HEADER_SIZE, "flags": 0}),
    "a VMCS at the VMXON region": Case({"vmcs12_pa": VMXON}),
    "a VMCS that is not aligned": Case({"vmcs12_pa": 0x2008}),
    "a VMCS beyond the width": Case({"vmcs12_pa": 1 << 52}),
    "data of a VMCS without its address": Case({"vmcs12_pa": NONE, "flags": 0}),
    "a wrong revision": Case(revision=VMCS12_REVISION ^ 1),
    "a shadow VMCS that is cut off": Case(
        {"size": ns.HEADER_SIZE + 4096 + VMCS12_STRUCT_SIZE - 1}, _SHADOWING, link=0x10_4000
    ),
    "a shadow VMCS with a wrong revision": Case(
        {"size": ns.HEADER_SIZE + 8192},
        _SHADOWING,
        shadow_revision=VMCS12_REVISION ^ 1 | SHADOW_VMCS,
        link=0x10_4000,
    ),
    "a shadow VMCS without the indicator": Case(
        {"size": ns.HEADER_SIZE + 8192},
        _SHADOWING,
        shadow_revision=VMCS12_REVISION,
        link=0x10_4000,
    ),
    "controls that cannot be": Case(fields={"pin_based_vm_exec_control": 0}),
    "host state that cannot be": Case(fields={"host_cr4": 0}),
    "guest state that cannot be": Case(fields={"guest_cr0": 0}),
    "an entry that fails": Case(fields={"guest_cr3": 1 << 62}, result=2),
    # What is taken.
    "nothing": Case(_EMPTY, result=0),
    "VMXON alone": Case({"vmcs12_pa": NONE, "flags": 0, "size": ns.HEADER_SIZE}, result=0),
    "a VMCS": Case({"flags": 0}, result=0),
    "a flag of SVM": Case({"flags": ns.GUEST_MODE | ns.GIF_SET}, result=0),
    "L2": Case(result=0),
    "L2 with everything pending": Case(
        {"flags": ns.GUEST_MODE | ns.RUN_PENDING | ns.MTF_PENDING}, result=0
    ),
    "L2 with a shadow VMCS": Case(
        {"size": ns.HEADER_SIZE + 8192}, _SHADOWING, link=0x10_4000, result=0
    ),
    "the least that has a VMCS": Case({"size": ns.HEADER_SIZE + VMCS12_STRUCT_SIZE}, result=0),
    "the least that has a shadow VMCS": Case(
        {"size": ns.HEADER_SIZE + 4096 + VMCS12_STRUCT_SIZE}, _SHADOWING, link=0x10_4000, result=0
    ),
    "a deadline of the timer": Case(
        {"vmx_flags": ns.PREEMPTION_TIMER_DEADLINE, "preemption_timer_deadline": 5}, result=0
    ),
    "L2 behind SMM": Case(
        {"flags": 0, "smm_flags": ns.SMM_GUEST_MODE | ns.SMM_VMXON}, before=IN_SMM, result=0
    ),
    "an entry that fails behind L2": Case(
        fields={"guest_cr3": 1 << 62},
        before=(*L2, step("run"), step("set-regs", register="rip", value=0x77)),
        result=2,
    ),
    "an entry that fails over L2": Case(fields={"guest_cr3": 1 << 62}, before=L2, result=2),
    "an entry that fails behind other registers": Case(
        fields={"guest_cr3": 1 << 62},
        before=(
            *READY,
            step("set-sregs", register="cr3", flip=0x1000),
            step("set-sregs", register="cr0", flip=8),
            step("set-sregs", register="cr4", flip=1 << 7),
            step("set-regs", register="rflags", value=0x246),
        ),
        result=2,
    ),
    "over an L2 that is active": Case({"format": 1}, before=L2),
    "a refusal that ends an L2": Case({"vmcs12_pa": VMXON}, before=L2),
}


@cache
def _model(kernel: str) -> ModelSessions:
    model = ModelSessions(kernel)
    assert model.load(world_on("skylake-x", kernel)) == ""
    return model


@cache
def _l2(kernel: str) -> ns.NestedStateImage:
    """Return the state of an L2 that L1 has entered, and that has run."""
    model = _model(kernel)
    model.renew()
    for each in (*L2, step("l2-exit", exit="external-interrupt")):
        assert not model.do(each).stopped
    machine = model._machine
    assert machine is not None
    return ns.vmx_get_nested_state(machine.vcpus[0])


def _edited(kernel: str, case: Case) -> ns.NestedStateImage:
    state = _l2(kernel)
    image, values = bytearray(state.vmcs12), unpack(state.vmcs12).__dict__
    controls = {name: values[name] | bits for name, bits in _added(case).items()}
    replaced = {name: value for name, value in case.fields.items() if name not in controls}
    write_fields(image, {**replaced, **controls, "vmcs_link_pointer": case.link})
    write_word(image, 0, case.revision)
    shadow = bytearray(_PAGE)
    write_word(shadow, 0, case.shadow_revision)
    edited = replace(state, vmcs12=bytes(image), shadow_vmcs12=bytes(shadow))
    return replace(edited, **case.header)  # type: ignore[arg-type]


def _added(case: Case) -> Mapping[str, int]:
    return case.fields if case.fields is _SHADOWING else {}


def _structure(state: ns.NestedStateImage) -> s.NestedState:
    found = s.NestedState()
    for name in ("flags", "format", "size", "vmxon_pa", "vmcs12_pa", "smm_flags", "vmx_flags"):
        setattr(found, name, getattr(state, name))
    found.preemption_timer_deadline = state.preemption_timer_deadline
    ctypes.memmove(found.vmcs12, state.vmcs12, len(state.vmcs12))
    ctypes.memmove(found.shadow_vmcs12, state.shadow_vmcs12, len(state.shadow_vmcs12))
    return found


def _set(sessions: KvmSessions, case: Case) -> tuple[int, int, VcpuView, VcpuView]:
    """Return what the ioctl returns on the model and on KVM, and what can be read then."""
    assert sessions.load(world_on("skylake-x", sessions.kernel)) == ""
    state = _edited(sessions.kernel, case)
    model = _model(sessions.kernel)
    model.renew()
    for each in case.before:
        model.do(each)
        sessions.do(each)
    machine, vm = model._machine, sessions.vm
    assert machine is not None
    assert vm is not None
    expected = ns.kvm_set_nested_state(machine.vcpus[0], state)
    seen = vm.vcpus[0].set(io.KVM_SET_NESTED_STATE, _structure(state))
    return expected, seen, model.read(0), sessions.read(0)


@pytest.mark.parametrize("name", CASES)
def test_each_check(sessions: KvmSessions, name: str) -> None:
    case = CASES[name]
    expected, seen, model, real = _set(sessions, case)
    assert (expected, seen) == (case.result, case.result)
    for part in ("regs", "sregs", "events", "nested", "vmcs12", "shadow_vmcs12", "mp_state"):
        assert getattr(model, part) == getattr(real, part), part


def test_a_check_that_the_model_lacks_shows(
    sessions: KvmSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvmxfuzz.kvm.nested_state.page_address_valid", lambda *_: True)
    expected, seen, _, _ = _set(sessions, CASES["a VMXON region that is not aligned"])
    assert (expected, seen) == (0, -errno.EINVAL)


# ---------------------------------------------------------------------- memory of userspace


@pytest.mark.parametrize("pages", [1, 2])
def test_memory_of_userspace_that_is_not_there(sessions: KvmSessions, pages: int) -> None:
    """-EFAULT behind the header, and behind vmcs12 for its shadow: KVM alone has such memory."""
    assert sessions.load(world_on("skylake-x", sessions.kernel)) == ""
    case = Case({"size": ns.HEADER_SIZE + 8192}, _SHADOWING if pages > 1 else {}, link=0x10_4000)
    data = bytes(_structure(_edited(sessions.kernel, case)))
    size = ns.HEADER_SIZE + (pages - 1) * _PAGE
    memory = mmap.mmap(-1, 4 * _PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[pages * _PAGE - size : pages * _PAGE] = data[:size]
    libc = ctypes.CDLL(None, use_errno=True)
    protect = libc.mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert protect(start + pages * _PAGE, _PAGE, 0) == 0
    assert sessions.vm is not None
    vcpu = sessions.vm.vcpus[0]
    found = vcpu.call(io.KVM_SET_NESTED_STATE, start + pages * _PAGE - size)
    protect(start + pages * _PAGE, _PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
    assert found == -errno.EFAULT
    assert dict(sessions.read(0).nested)["vmxon_pa"] == VMXON

# SPDX-License-Identifier: GPL-2.0-only
"""That KVM_GET_NESTED_STATE gives what KVM_SET_NESTED_STATE has just taken, and L2 as it is."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeAlias

from nvmxfuzz.arch.controls import Pin
from nvmxfuzz.inputs.session_steps import SETS_NESTED_STATE, SessionStep
from nvmxfuzz.oracles.restore.offer import Found
from nvmxfuzz.oracles.session.play import Moment, Played
from nvmxfuzz.oracles.session.witness import VcpuView

_Words: TypeAlias = Mapping[str, int]
_BITS: Final[Mapping[str, int]] = MappingProxyType(
    {"flags": 16, "smm_flags": 16, "vmx_flags": 32, "vmxon_pa": 64, "vmcs12_pa": 64}
    | {"preemption_timer_deadline": 64}
)
"""The parts of the header that are read back, and their widths."""
_GUEST_MODE: Final = 1
_RUN_PENDING: Final = 2
_EVMCS: Final = 4
_MTF_PENDING: Final = 8
_OF_L2: Final = _GUEST_MODE | _RUN_PENDING | _MTF_PENDING
_DEADLINE: Final = 1
_TIMER: Final = Pin.ACTIVATE_VMX_PREEMPTION_TIMER
_BY_MP_STATE: Final = ("guest_activity_state",)
"""What KVM_GET_NESTED_STATE makes of the state that KVM_SET_MP_STATE brings."""
_MOST_NAMES: Final = 8


@dataclass(frozen=True, slots=True)
class _State:
    """A nested state as userspace writes it; the VMCSs are None where that cannot be told."""

    header: _Words
    vmcs12: _Words | None
    shadow_vmcs12: _Words | None
    in_smm: bool


def nested_state_reads_back(played: Played) -> Iterator[Found]:
    """A nested state that KVM takes is the one that it gives then."""
    slots: dict[str, _State] = {}
    for moment in played.moments:
        step = moment.step
        if step.kind == "save" and not moment.result.stopped:
            slots[step.chosen("slot")] = _state(moment.after)
        elif step.kind in SETS_NESTED_STATE and _is_taken(moment):
            wanted = _written(step, slots.get(step.chosen("slot")), moment.before)
            # With KVM_SET_VCPU_EVENTS a vCPU that enters or leaves SMM loses its nested state.
            if wanted is not None and wanted.in_smm == moment.before.in_smm:
                yield from _lost(moment, wanted)


def nested_state_current(played: Played) -> Iterator[Found]:
    """The VMCS of an active L2 that KVM gives to userspace has the RIP and RSP that L2 has."""
    for moment in played.moments:
        result, view = moment.result, moment.after
        if result.stopped or result.warnings or result.errno == -errno.EIO:
            # A VM that KVM has given up takes registers, and no more.
            return
        if not view.in_l2 or not view.vmcs12:
            continue
        regs, vmcs12 = dict(view.regs), dict(view.vmcs12)
        for name, field in (("rip", "guest_rip"), ("rsp", "guest_rsp")):
            if regs[name] != vmcs12.get(field, 0):
                said = f"{vmcs12.get(field, 0):#x}, and L2 has {regs[name]:#x}"
                yield f"{field} after {moment.step.kind}", f"{field} is given as {said}"


def _is_taken(moment: Moment) -> bool:
    result = moment.result
    return not (result.errno or result.outcome or result.stopped or result.warnings)


def _state(view: VcpuView) -> _State:
    return _State(dict(view.nested), dict(view.vmcs12), dict(view.shadow_vmcs12), view.in_smm)


def _written(step: SessionStep, kept: _State | None, before: VcpuView) -> _State | None:
    """Return what a step writes; None if it writes nothing, or a header that says another size."""
    if step.kind == "restore":
        return kept
    state, part = kept or _state(before), step.chosen("part")
    if part in ("vmcs12", "shadow_vmcs12"):
        return replace(state, vmcs12=None, shadow_vmcs12=None)
    if part not in _BITS:
        return None
    old = state.header[part]
    new = (old & ~step.number("unset") ^ step.number("flip")) & (1 << _BITS[part]) - 1
    return replace(state, header={**state.header, part: new})


def _lost(moment: Moment, wanted: _State) -> Iterator[Found]:
    read = _state(moment.after)
    timed = (read.vmcs12 or {}).get("pin_based_vm_exec_control", 0) & _TIMER != 0
    header = _others(_meant(wanted.header, timed=timed), _meant(read.header, timed=timed))
    names = [f"nested.{name}" for name in header]
    # What L1 has in an enlightened VMCS is in its memory, from where KVM reads it anew.
    if not wanted.header["flags"] & _EVMCS:
        names += _vmcs_names("vmcs12", wanted.vmcs12, read.vmcs12, _BY_MP_STATE)
        names += _vmcs_names("shadow_vmcs12", wanted.shadow_vmcs12, read.shadow_vmcs12)
    if names:
        before = moment.before
        where = ("SMM over " if before.in_smm else "") + ("L2" if before.in_l2 else "L1")
        said = ", ".join(names[:_MOST_NAMES])
        yield f"{where}: {names[0]}", f"{moment.step.kind} in {where} is taken, with another {said}"


def _meant(words: _Words, *, timed: bool) -> _Words:
    """Return a header without what means nothing: that is only of an active L2, or of its timer."""
    header = dict(words)
    in_l2 = header["flags"] & _GUEST_MODE
    header["flags"] &= _EVMCS | _OF_L2 if in_l2 else _EVMCS
    if not (in_l2 and timed and header["vmx_flags"] & _DEADLINE):
        header["vmx_flags"] = header["preemption_timer_deadline"] = 0
    return {name: header.get(name, 0) for name in _BITS}


def _vmcs_names(
    part: str, one: _Words | None, other: _Words | None, ignored: tuple[str, ...] = ()
) -> list[str]:
    if one is None or other is None:
        return []
    return [f"{part}.{name}" for name in _others(one, other) if name not in ignored]


def _others(one: _Words, other: _Words) -> list[str]:
    """Return the names of what two hold differently; what is not there is 0."""
    names = dict.fromkeys((*one, *other))
    return [name for name in names if one.get(name, 0) != other.get(name, 0)]

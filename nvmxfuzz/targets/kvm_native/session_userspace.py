# SPDX-License-Identifier: GPL-2.0-only
"""The steps of a session that are ioctls of userspace: each edits one part of what the vCPU has."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from nvmxfuzz.inputs.session_steps import MP_STATES, MSRS, SessionStep
from nvmxfuzz.kvm.guest_cpuid import CPUID_BITS
from nvmxfuzz.oracles.session.witness import StepResult
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.session_vcpu import Saved, SessionVcpu

_WORDS: Final = (1 << 64) - 1
_MOST_CPUID: Final = 256
_REGISTERS: Final = ("eax", "ebx", "ecx", "edx")
_INIT: Final = 5 << 8
_SIPI: Final = 6 << 8
_MSI: Final = 0xFEE0_0000
_FLAGS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "sipi_vector": io.VCPU_EVENTS_SIPI_VECTOR,
        "nmi.pending": io.VCPU_EVENTS_NMI_PENDING,
        "interrupt.shadow": io.VCPU_EVENTS_SHADOW,
        "triple_fault_pending": io.VCPU_EVENTS_TRIPLE_FAULT,
        "exception_has_payload": io.VCPU_EVENTS_PAYLOAD,
        "exception_payload": io.VCPU_EVENTS_PAYLOAD,
    }
)
"""Parts of struct kvm_vcpu_events that KVM takes only with a flag."""


def _edited(step: SessionStep, old: int) -> int:
    return old & ~step.number("unset") ^ step.number("flip")


def set_regs(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """KVM_SET_REGS."""
    regs = vcpu.get_regs()
    setattr(regs, step.chosen("register"), step.number("value"))
    return StepResult(vcpu.set(io.KVM_SET_REGS, regs))


def set_sregs(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """KVM_SET_SREGS, or KVM_SET_SREGS2 for a PDPTE."""
    name = step.chosen("register")
    if name.startswith("pdptr"):
        sregs2 = vcpu.get_sregs2()
        number = int(name.removeprefix("pdptr"))
        sregs2.pdptrs[number] = _edited(step, sregs2.pdptrs[number])
        sregs2.flags |= s.SREGS2_PDPTRS_VALID
        return StepResult(vcpu.set(io.KVM_SET_SREGS2, sregs2))
    sregs = vcpu.get_sregs()
    holder, _, part = name.partition("_")
    if holder in ("gdt", "idt"):
        table = getattr(sregs, holder)
        setattr(table, part, _edited(step, getattr(table, part)))
    else:
        setattr(sregs, name, _edited(step, getattr(sregs, name)))
    return StepResult(vcpu.set(io.KVM_SET_SREGS, sregs))


def set_segment(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """KVM_SET_SREGS."""
    sregs = vcpu.get_sregs()
    setattr(getattr(sregs, step.chosen("segment")), step.chosen("part"), step.number("value"))
    return StepResult(vcpu.set(io.KVM_SET_SREGS, sregs))


def set_msr(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """KVM_SET_MSRS; an MSR that cannot be read counts as 0."""
    index = MSRS[step.chosen("msr")]
    value = _edited(step, vcpu.get_msr(index) or 0) & _WORDS
    return _written(vcpu.set_msrs(((index, value),)), 1)


def _written(value: int, count: int) -> StepResult:
    if value < 0:
        return StepResult(value)
    return StepResult(outcome="" if value == count else "refused")


def set_cpuid(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """KVM_SET_CPUID2."""
    table = s.counted(s.CpuidEntry, (), _MOST_CPUID)
    vcpu.call(io.KVM_GET_CPUID2, ctypes.byref(table))
    while table.count and not any(bytes(table.items[table.count - 1])):
        # Not every kernel says how many there are.
        table.count -= 1
    leaf, subleaf, register, position = CPUID_BITS[step.chosen("feature")]
    for entry in table.items[: table.count]:
        if (entry.function, entry.index) == (leaf, subleaf):
            name = _REGISTERS[register]
            setattr(entry, name, getattr(entry, name) ^ 1 << position)
    vcpu.readable = {}
    return StepResult(vcpu.call(io.KVM_SET_CPUID2, ctypes.byref(table)))


def set_events(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """KVM_SET_VCPU_EVENTS, with the flag that the part needs."""
    events = vcpu.get_events()
    part = step.chosen("part")
    holder, _, name = part.rpartition(".")
    setattr(getattr(events, holder) if holder else events, name, step.number("value"))
    events.flags |= _FLAGS.get(part, 0)
    return StepResult(vcpu.set(io.KVM_SET_VCPU_EVENTS, events))


def set_mp_state(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """KVM_SET_MP_STATE."""
    state = s.MpState(MP_STATES.index(step.chosen("state")))
    return StepResult(vcpu.set(io.KVM_SET_MP_STATE, state))


def nmi(vcpu: SessionVcpu, step: SessionStep) -> StepResult:  # noqa: ARG001 # as all steps
    """KVM_NMI."""
    return StepResult(vcpu.call(io.KVM_NMI))


def init(vcpu: SessionVcpu, step: SessionStep) -> StepResult:  # noqa: ARG001 # as all steps
    """KVM_SIGNAL_MSI, which is an INIT for the vCPU's APIC."""
    return signal(vcpu, _INIT)


def sipi(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """KVM_SIGNAL_MSI, which is a SIPI."""
    return signal(vcpu, _SIPI | step.number("vector"))


def signal(vcpu: SessionVcpu, data: int) -> StepResult:
    """KVM_SIGNAL_MSI to the vCPU's APIC."""
    message = s.Msi(address_lo=_MSI | vcpu.number << 12, data=data)
    value = vcpu.vm.call(vcpu.vm.file, io.KVM_SIGNAL_MSI, ctypes.byref(message))
    return StepResult(min(value, 0), "" if value > 0 else "refused")


# ---------------------------------------------------------------------- migration


def save(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """Keep all that can be read, but for the capability MSRs, the CPUID and the local APIC."""
    vcpu.vm.slots[step.chosen("slot")] = saved(vcpu)
    return StepResult()


def saved(vcpu: SessionVcpu) -> Saved:
    """Return what userspace keeps of a vCPU."""
    mp_state = vcpu.get_mp_state()
    table = vcpu.get_msrs(vcpu.vm.kept_msrs)
    return Saved(
        max(mp_state, 0),
        bytes(vcpu.get_regs()),
        bytes(vcpu.get_sregs2()),
        bytes(vcpu.get_events()),
        tuple(zip(table.indices, table.values(), strict=True)),
        bytes(vcpu.get_nested()),
    )


def restore(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """Write what was kept, in the order in which QEMU does; the first error ends it."""
    kept = vcpu.vm.slots.get(step.chosen("slot"))
    if kept is None:
        return StepResult(outcome="refused")
    control = tuple(pair for pair in kept.msrs if pair[0] == MSRS["IA32_FEATURE_CONTROL"])
    vcpu.set_msrs(control)
    for command, data in (
        (io.KVM_SET_SREGS2, kept.sregs),
        (io.KVM_SET_NESTED_STATE, kept.nested),
        (io.KVM_SET_REGS, kept.regs),
    ):
        error = vcpu.call(command, data)
        if error:
            return StepResult(error)
    refused = vcpu.set_msrs(kept.msrs) != len(kept.msrs)
    error = vcpu.call(io.KVM_SET_VCPU_EVENTS, kept.events)
    if not error:
        error = vcpu.set(io.KVM_SET_MP_STATE, s.MpState(kept.mp_state))
    return StepResult(error, "refused" if refused else "")


def set_nested_state(vcpu: SessionVcpu, step: SessionStep) -> StepResult:
    """KVM_SET_NESTED_STATE of what was kept, or what the vCPU has if nothing was."""
    kept = vcpu.vm.slots.get(step.chosen("slot"))
    data = bytearray(kept.nested if kept else bytes(vcpu.get_nested()))
    part = step.chosen("part")
    member: Any = getattr(s.NestedState, part)
    size = 4 if part.endswith("vmcs12") else member.size
    start = member.offset + (step.number("place") * 4 % s.VMCS_SIZE if size != member.size else 0)
    old = int.from_bytes(data[start : start + size], "little")
    new = (old & ~step.number("unset") ^ step.number("flip")) & (1 << 8 * size) - 1
    data[start : start + size] = new.to_bytes(size, "little")
    return StepResult(vcpu.call(io.KVM_SET_NESTED_STATE, bytes(data)))


Handler = Callable[[SessionVcpu, SessionStep], StepResult]

USERSPACE: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        "set-regs": set_regs,
        "set-sregs": set_sregs,
        "set-segment": set_segment,
        "set-msr": set_msr,
        "set-cpuid": set_cpuid,
        "set-events": set_events,
        "set-mp-state": set_mp_state,
        "nmi": nmi,
        "init": init,
        "sipi": sipi,
        "save": save,
        "restore": restore,
        "set-nested-state": set_nested_state,
    }
)
"""What carries each of these steps out."""

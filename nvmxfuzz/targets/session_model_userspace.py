# SPDX-License-Identifier: GPL-2.0-only
"""The steps of a session that are ioctls of userspace, on the model of KVM."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from nvmxfuzz.inputs.session_steps import MP_STATES, MSRS, SessionStep
from nvmxfuzz.kvm.event_ioctls import (
    EXTRA_FLAGS,
    accept_init,
    accept_sipi,
    kvm_get_mp_state,
    kvm_get_vcpu_events,
    kvm_inject_nmi,
    kvm_set_mp_state,
    kvm_set_vcpu_events,
)
from nvmxfuzz.kvm.guest_memory import PagedMemory
from nvmxfuzz.kvm.nested_state import (
    NestedStateImage,
    kvm_set_nested_state,
    vmx_get_nested_state,
)
from nvmxfuzz.kvm.vcpu_cpuid import flip_cpuid
from nvmxfuzz.kvm.vcpu_ioctls import (
    Sregs,
    kvm_get_msr,
    kvm_get_regs,
    kvm_get_sregs,
    kvm_get_sregs2,
    kvm_set_one_msr,
    kvm_set_regs,
    kvm_set_sregs,
)
from nvmxfuzz.kvm.vcpu_vmx import VcpuVmx
from nvmxfuzz.kvm.vmcs12 import read_word
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.oracles.session.witness import StepResult

Handler = Callable[["SessionMachine", VcpuVmx, SessionStep], StepResult]

_ALL: Final = (1 << 64) - 1
_APIC_ENABLED: Final = 1 << 11


@dataclass(frozen=True, slots=True)
class Saved:
    """What userspace keeps of a vCPU; of the MSRs those that a session looks at, and `others`."""

    mp_state: int
    regs: Mapping[str, int]
    sregs: Sregs
    events: dict[str, int]
    msrs: tuple[tuple[int, int], ...]
    others: Mapping[int, int]
    nested: NestedStateImage


class SessionMachine:
    """The vCPUs of a VM, its memory, and the VMCSs that an L1 knows how to make."""

    def __init__(
        self,
        vcpus: list[VcpuVmx],
        memory: PagedMemory,
        attempts: Callable[[str], Attempt],
        *,
        shadowing: bool,
    ) -> None:
        """Take them; `shadowing`: the processor executes some VMREADs and VMWRITEs of L1 alone."""
        self.shadowing = shadowing
        self.vcpus = vcpus
        self.memory = memory
        self.attempts = attempts
        self.slots: dict[str, Saved] = {}


def _edited(step: SessionStep, old: int) -> int:
    return (old & ~step.number("unset") ^ step.number("flip")) & _ALL


def set_regs(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_SET_REGS."""
    del machine
    regs = {**kvm_get_regs(vmx), step.chosen("register"): step.number("value")}
    return StepResult(kvm_set_regs(vmx, regs))


def set_sregs(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_SET_SREGS, or KVM_SET_SREGS2 for a PDPTE."""
    del machine
    name = step.chosen("register")
    if name.startswith("pdptr"):
        sregs = kvm_get_sregs2(vmx)
        number = int(name.removeprefix("pdptr"))
        pdptrs = list(sregs.pdptrs or (0, 0, 0, 0))
        pdptrs[number] = _edited(step, pdptrs[number])
        sregs.pdptrs = tuple(pdptrs)
        return StepResult(kvm_set_sregs(vmx, sregs))
    sregs = kvm_get_sregs(vmx)
    mask = 0xFFFF if name.endswith("limit") else _ALL
    setattr(sregs, name, _edited(step, getattr(sregs, name)) & mask)
    return StepResult(kvm_set_sregs(vmx, sregs))


_PART_BITS: Final[Mapping[str, int]] = MappingProxyType({"base": 64, "limit": 32, "selector": 16})


def set_segment(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_SET_SREGS."""
    del machine
    sregs = kvm_get_sregs(vmx)
    part = step.chosen("part")
    value = step.number("value") & (1 << _PART_BITS.get(part, 8)) - 1
    setattr(sregs.segments[step.chosen("segment")], part, value)
    return StepResult(kvm_set_sregs(vmx, sregs))


def set_msr(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_SET_MSRS; an MSR that cannot be read counts as 0."""
    del machine
    index = MSRS[step.chosen("msr")]
    if step.chosen("msr") == "IA32_TSC":
        return StepResult()
    value = _edited(step, kvm_get_msr(vmx, index) or 0)
    return StepResult(outcome=kvm_set_one_msr(vmx, index, value))


def set_cpuid(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_SET_CPUID2."""
    del machine
    return StepResult(flip_cpuid(vmx, step.chosen("feature"), vmx.vcpu.kvm.virtual))


_EVENT_BITS: Final[Mapping[str, int]] = MappingProxyType(
    {"exception.error_code": 32, "sipi_vector": 32, "flags": 32, "exception_payload": 64}
)


def set_events(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_SET_VCPU_EVENTS."""
    del machine
    part = step.chosen("part")
    value = step.number("value") & (1 << _EVENT_BITS.get(part, 8)) - 1
    events = {**kvm_get_vcpu_events(vmx), part: value}
    events["flags"] |= EXTRA_FLAGS.get(part, 0)
    return StepResult(kvm_set_vcpu_events(vmx, events))


def set_mp_state(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_SET_MP_STATE."""
    del machine
    return StepResult(kvm_set_mp_state(vmx, MP_STATES.index(step.chosen("state"))))


def nmi(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_NMI."""
    del machine, step
    kvm_inject_nmi(vmx)
    return StepResult()


def init(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_SIGNAL_MSI, which is an INIT."""
    del machine, step
    return StepResult(outcome="" if _has_apic(vmx) and accept_init(vmx) else "refused")


def sipi(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_SIGNAL_MSI, which is a SIPI."""
    del machine
    taken = _has_apic(vmx) and accept_sipi(vmx, step.number("vector"))
    return StepResult(outcome="" if taken else "refused")


def _has_apic(vmx: VcpuVmx) -> bool:
    return vmx.vcpu.apic_base & _APIC_ENABLED != 0


_NESTED_PLACES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "flags": 16,
        "format": 16,
        "size": 32,
        "vmxon_pa": 64,
        "vmcs12_pa": 64,
        "smm_flags": 16,
        "vmx_flags": 32,
        "preemption_timer_deadline": 64,
    }
)


def set_nested_state(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """KVM_SET_NESTED_STATE of what was kept, or what the vCPU has if nothing was."""
    slot = machine.slots.get(step.chosen("slot"))
    kept = slot.nested if slot else vmx_get_nested_state(vmx)
    part = step.chosen("part")
    unset, flip = step.number("unset"), step.number("flip")
    if part in _NESTED_PLACES:
        mask = (1 << _NESTED_PLACES[part]) - 1
        edited = replace(kept, **{part: (getattr(kept, part) & ~unset ^ flip) & mask})
    else:
        image = bytearray(getattr(kept, part).ljust(4096, b"\0"))
        at = step.number("place") * 4 % 4096
        word = (read_word(image, at) & ~unset ^ flip) & 0xFFFF_FFFF
        image[at : at + 4] = word.to_bytes(4, "little")
        edited = (
            replace(kept, vmcs12=bytes(image))
            if part == "vmcs12"
            else replace(kept, shadow_vmcs12=bytes(image))
        )
    return StepResult(kvm_set_nested_state(vmx, edited))


# ---------------------------------------------------------------------- migration


def save(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """Keep all that can be read, but for the capability MSRs, the CPUID and the local APIC."""
    listed = (index for index in _KEPT_MSRS if index != _DEBUGCTL or _lists_debugctl(vmx))
    values = ((index, kvm_get_msr(vmx, index)) for index in listed)
    machine.slots[step.chosen("slot")] = Saved(
        kvm_get_mp_state(vmx),
        kvm_get_regs(vmx),
        kvm_get_sregs2(vmx),
        kvm_get_vcpu_events(vmx),
        tuple((index, value) for index, value in values if value is not None),
        dict(vmx.vcpu.msrs),
        vmx_get_nested_state(vmx),
    )
    return StepResult()


_DEBUGCTL: Final = MSRS["IA32_DEBUGCTL"]
_FEATURE_CONTROL: Final = MSRS["IA32_FEATURE_CONTROL"]
_KEPT_MSRS: Final = (
    *(MSRS["IA32_SYSENTER_CS"], MSRS["IA32_SYSENTER_ESP"], MSRS["IA32_SYSENTER_EIP"]),
    *(MSRS["IA32_PAT"], _FEATURE_CONTROL, _DEBUGCTL, MSRS["IA32_SMBASE"]),
)
"""In the order of KVM_GET_MSR_INDEX_LIST."""


def _lists_debugctl(vmx: VcpuVmx) -> bool:
    return vmx.vcpu.behaviour.lists_debugctl


def restore(machine: SessionMachine, vmx: VcpuVmx, step: SessionStep) -> StepResult:
    """Write what was kept, in the order in which QEMU does; the first error ends it."""
    kept = machine.slots.get(step.chosen("slot"))
    if kept is None:
        return StepResult(outcome="refused")
    if vmx.bugged:
        return StepResult(-errno.EIO)
    for index, value in kept.msrs:
        if index == _FEATURE_CONTROL:
            kvm_set_one_msr(vmx, index, value)
    error = (
        kvm_set_sregs(vmx, kept.sregs)
        or kvm_set_nested_state(vmx, kept.nested)
        or kvm_set_regs(vmx, dict(kept.regs))
    )
    if error:
        return StepResult(error)
    refused = any(kvm_set_one_msr(vmx, index, value) for index, value in kept.msrs)
    vmx.vcpu.msrs = dict(kept.others)
    error = kvm_set_vcpu_events(vmx, kept.events) or kvm_set_mp_state(vmx, kept.mp_state)
    return StepResult(error, "refused" if refused else "")


USERSPACE_STEPS: Final[Mapping[str, Handler]] = MappingProxyType(
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
        "set-nested-state": set_nested_state,
        "save": save,
        "restore": restore,
    }
)
"""What carries each of these steps out."""

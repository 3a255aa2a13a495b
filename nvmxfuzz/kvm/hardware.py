# SPDX-License-Identifier: GPL-2.0-only
"""The port to the processor below KVM: what runs vmcs02.

The kvm model knows no rule of the processor. Whoever has one (the CPU rules, Bochs) is handed an
attempt on the host's profile and answers with an outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nvmxfuzz.arch.controls import Primary
from nvmxfuzz.kvm.vcpu import Vcpu
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outcome import ENTERED, Outcome
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.vmcs import Vmcs

_APIC_TASKPRI = 0x80
_MSR_ENTRY = 16


class Hardware(Protocol):
    """A processor in VMX root operation with vmcs02 current."""

    def enter(self, attempt: Attempt) -> Outcome:
        """Execute VMLAUNCH or VMRESUME; the outcome is a VMfail, a VM exit or "entered"."""
        ...  # pragma: no cover


class WillingHardware:
    """A processor that enters whatever it is given, and a guest that does not stop."""

    def enter(self, attempt: Attempt) -> Outcome:
        """Return that the guest was entered."""
        del attempt
        return ENTERED


@dataclass(frozen=True, slots=True)
class HardwareEntry:
    """One VM entry that KVM asked of the processor below."""

    attempt: Attempt
    outcome: Outcome
    dry_run: bool


def enter_hardware(vcpu: Vcpu, hardware: Hardware, dry_run: bool) -> HardwareEntry:
    """Hand the loaded VMCS to the processor."""
    kvm = vcpu.kvm
    host = kvm.host
    attempt = Attempt(
        profile=kvm.hardware,
        vmcs=Vmcs(vcpu.vmcs),
        processor=Processor(
            cr0=host.cr0,
            cr3=host.cr3,
            cr4=host.cr4,
            efer=host.efer,
            rflags=0x2,
            current_vmcs=kvm.places.vmcs02,
            vmxon_pointer=kvm.places.vmxon_region,
        ),
        memory=host_memory(vcpu),
        instruction="vmresume" if vcpu.vmcs02_launched else "vmlaunch",
        launch_state="launched" if vcpu.vmcs02_launched else "clear",
    )
    return HardwareEntry(attempt, hardware.enter(attempt), dry_run)


def host_memory(vcpu: Vcpu) -> Memory:
    """Return host-physical memory, as far as VM entry reads it.

    Of the guest's that is what memslots back; fresh memory there is zero, which is told only where
    the processor looks: at the virtual TPR. The rest is L0's: lists of MSRs, the linked VMCS aside,
    and a root of page tables whose first four entries are not present.
    """
    places = vcpu.kvm.places
    offset = places.guest_memory
    vmcs = vcpu.vmcs
    parts: dict[int, bytes] = {}
    if vmcs["cpu_based_vm_exec_control"] & Primary.USE_TPR_SHADOW:
        parts[vmcs["virtual_apic_page_addr"] + _APIC_TASKPRI] = bytes([vcpu.memory.unwritten]) * 4
    for start, data in (*vcpu.memory.memory.regions, *vcpu.memory.written.items()):
        if vcpu.memory.is_backed(start):
            parts[start + offset] = data
    parts[places.ept02] = bytes(32)
    for at, number in enumerate(vcpu.msr_autoload):
        guest, host = vcpu.msr_autoload[number]
        parts[places.autoload_guest + _MSR_ENTRY * at] = _msr_entry(number, guest)
        parts[places.autoload_host + _MSR_ENTRY * at] = _msr_entry(number, host)
    return Memory.of(parts)


def _msr_entry(number: int, value: int) -> bytes:
    return number.to_bytes(8, "little") + value.to_bytes(8, "little")

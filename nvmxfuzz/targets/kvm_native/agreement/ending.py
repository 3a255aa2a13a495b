# SPDX-License-Identifier: GPL-2.0-only
"""How a VM entry of L1's ended on KVM itself, and what the processor below did to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from nvmxfuzz.arch.events import InterruptionInfo, Vector
from nvmxfuzz.arch.registers import Cr4, Efer, Rflags
from nvmxfuzz.kvm.entry_run import FAIL_ENTRY, INTERNAL_ERROR, TRIPLE_FAULT, VM_BUGGED
from nvmxfuzz.machine.outcome import (
    ENTERED,
    FAIL_INVALID,
    Outcome,
    exit_on_entry,
    fail_valid,
    fault,
)
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.targets.kvm_native.agreement.loaded import Loaded
from nvmxfuzz.targets.kvm_native.direct import Ran
from nvmxfuzz.targets.kvm_native.judged import refused
from nvmxfuzz.targets.kvm_native.port import VMCALL, Answer
from nvmxfuzz.targets.kvm_native.vm import RAM

_TRIPLE_FAULT_REQUEST: Final = 1 << 10
_PENDING: Final = 0x100
BASIC_REASON: Final = 0xFFFF

DEATHS: Final = {
    "shutdown": TRIPLE_FAULT,
    "internal-error": INTERNAL_ERROR,
    "fail-entry": FAIL_ENTRY,
    VM_BUGGED: VM_BUGGED,
}


def answer(outcome: Outcome, vmcs: Vmcs) -> Answer:
    """Return what the processor does where a VM entry ends so; L2, if entered, calls L1."""
    if outcome != ENTERED:
        return refused(outcome)
    # The event is injected, and the VM exit says so.
    injected = vmcs.vm_entry_intr_info_field & ~InterruptionInfo.VALID
    return replace(VMCALL, fields={"vm_entry_intr_info_field": injected})


def how_it_ended(ran: Ran) -> tuple[Outcome | None, str]:
    """Return what nested_vmx_run() came to; where L1 sees no outcome, how the VM died instead."""
    if ran.in_l2:
        return ENTERED, ""
    if ran.value == 0:
        return None, INTERNAL_ERROR
    if ran.requests & _TRIPLE_FAULT_REQUEST:
        return None, TRIPLE_FAULT
    if ran.exception & _PENDING and ran.exception & 0xFF != Vector.DB:
        return fault(ran.exception & 0xFF), ""
    if ran.rflags & Rflags.CF:
        return FAIL_INVALID, ""
    if ran.rflags & Rflags.ZF:
        return fail_valid(ran.instruction_error), ""
    return exit_on_entry(ran.exit_reason & BASIC_REASON, ran.exit_qualification), ""


def lacks_root(loaded: Loaded) -> bool:
    """Whether L1's page tables begin beyond its memory: KVM without EPT needs them to run L1."""
    if loaded.kvm.params.ept:
        return False
    sregs = loaded.made.vcpu.get_sregs2()
    roots: tuple[int, ...] = (sregs.cr3,)
    if sregs.cr4 & Cr4.PAE and not sregs.efer & Efer.LMA:
        roots = tuple(pdpte for pdpte in sregs.pdptrs if pdpte & 1)
    return any(root >= RAM for root in roots)


def registers(loaded: Loaded) -> Mapping[str, int]:
    """Return the registers of L1 that a VM exit loads, and its flags."""
    sregs = loaded.made.vcpu.get_sregs()
    regs = loaded.made.vcpu.get_regs()
    found = {name: getattr(sregs, name) for name in ("cr0", "cr3", "cr4", "efer")}
    return {**found, "rflags": regs.rflags, "rsp": regs.rsp}

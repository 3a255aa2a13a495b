# SPDX-License-Identifier: GPL-2.0-only
"""One VMLAUNCH or VMRESUME by L1 while it runs, and what is left of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from nvmxfuzz.arch.registers import Cr0, Cr4, Efer
from nvmxfuzz.kvm.hardware import Hardware, HardwareEntry
from nvmxfuzz.kvm.vcpu import HostState, NestedState, Vcpu
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.machine.vmcs import Vmcs

INTERNAL_ERROR = "internal-error"
TRIPLE_FAULT = "triple-fault"
FAIL_ENTRY = "fail-entry"
VM_BUGGED = "vm-bugged"

UNTRACED = frozenset(
    {
        "basic.mode.supported",
        "basic.vmx-operation.on",
        "basic.cpl.zero",
        "evmcs.pointer.memory",
        "evmcs.vm-functions.width",
        "execution.apic-access.memory",
        "exit.preemption-timer.active",
        "guest.perf-global-ctrl.msr",
        "msr-load.list.length",
        "msr-load.list.memory",
        "msr-load.msr.writable",
        "entry.root.memory",
        "hardware.entry.exit",
        "hardware.entry.machine-check",
    }
)
"""Reasons to fail that the kernel has no trace event for: no condition of it is printed."""


@dataclass(frozen=True, slots=True)
class L1Registers:
    """L1's registers as KVM has them after the instruction."""

    cr0: int
    cr3: int
    cr4: int
    efer: int
    rflags: int
    rip: int
    rsp: int
    dr7: int
    pat: int

    @classmethod
    def of(cls, vcpu: Vcpu) -> L1Registers:
        """Return the registers of a vCPU that runs L1 again."""
        return cls(
            vcpu.cr0,
            vcpu.cr3,
            vcpu.cr4,
            vcpu.efer,
            vcpu.rflags,
            vcpu.rip,
            vcpu.rsp,
            vcpu.dr7,
            vcpu.pat,
        )


@dataclass(frozen=True, slots=True)
class NestedEntry:
    """What a VMLAUNCH or VMRESUME by L1 came to.

    `outcome` is what L1 sees, None where L1 never sees one: `died` is then INTERNAL_ERROR or
    FAIL_ENTRY (KVM gives up and exits to userspace), VM_BUGGED (it declares the VM broken) or
    TRIPLE_FAULT (a VMX abort). `check` is the check that
    decided, "" where none failed; `fired` every check that failed on the way, in order, as the
    kernel traces them. `vmcs02` is None where KVM did not get to write it.
    """

    outcome: Outcome | None
    check: str = ""
    died: str = ""
    fired: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    vmcs02: Vmcs | None = None
    """As nested_vmx_run() left it; what hardware was given is in `hardware`."""
    vmcs01: Vmcs | None = None
    vmcs12_writes: tuple[tuple[str, int], ...] = ()
    """Fields of vmcs12 that KVM wrote, with their last value."""
    l1: L1Registers | None = None
    """Once L1 runs again; None in L2."""
    host: HostState = field(default_factory=HostState)
    hardware: tuple[HardwareEntry, ...] = ()
    """Every VM entry that the processor below was asked for, the dry run first."""
    nested: NestedState = field(default_factory=NestedState)
    written_memory: tuple[tuple[int, bytes], ...] = ()


class Over(Exception):  # noqa: N818 - how the run ends, not an error
    """The instruction is over without having entered L2."""

    def __init__(self, check: str, outcome: Outcome | None, died: str = "") -> None:
        super().__init__(check)
        self.check = check
        self.outcome = outcome
        self.died = died


def kvm_init_mmu(vcpu: Vcpu) -> None:
    """End the VM where EFER and CR4 are such as no processor has together."""
    if (
        vcpu.behaviour.bugs_without_pae
        and vcpu.cr0 & Cr0.PG
        and vcpu.efer & Efer.LMA
        and not vcpu.cr4 & Cr4.PAE
    ):
        vcpu.warn("kvm_calc_cpu_role.pae")
        raise Over(vcpu.fired[-1] if vcpu.fired else "", None, VM_BUGGED)


class EntryRun:
    """One run: the vCPU, the processor below it, and what went to it."""

    __slots__ = ("entries", "hardware", "prepared", "vcpu")

    def __init__(self, vcpu: Vcpu, hardware: Hardware) -> None:
        self.vcpu = vcpu
        self.hardware = hardware
        self.entries: list[HardwareEntry] = []
        self.prepared: Vmcs | None = None

    def result(self, outcome: Outcome | None, check: str, died: str = "") -> NestedEntry:
        """Return everything that is left of the run."""
        vcpu = self.vcpu
        last = Vmcs(vcpu.vmcs02) if vcpu.vmcs02 else None
        if vcpu.aborted:
            outcome, died = None, TRIPLE_FAULT
        fired: tuple[str, ...] = ()
        if vcpu.behaviour.traces_checks:
            fired = tuple(name for name in vcpu.fired if name not in UNTRACED)
        return NestedEntry(
            outcome=outcome,
            check=check,
            died=died,
            fired=fired,
            warnings=tuple(vcpu.warnings),
            vmcs02=self.prepared or last,
            vmcs01=Vmcs(vcpu.vmcs01) if vcpu.vmcs01 else None,
            vmcs12_writes=tuple(vcpu.vmcs12_writes.items()),
            l1=None if vcpu.guest_mode else L1Registers.of(vcpu),
            host=vcpu.host,
            hardware=tuple(self.entries),
            nested=NestedState(
                last or vcpu.request.nested.vmcs02,
                vcpu.vmcs02_launched,
                vcpu.dirty_vmcs12,
                vcpu.shadow_vmcs12_cache,
            ),
            written_memory=tuple(vcpu.memory.written.items()),
        )

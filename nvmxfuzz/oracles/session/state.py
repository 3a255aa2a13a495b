# SPDX-License-Identifier: GPL-2.0-only
"""The view of a vCPU by name, and what an oracle asks of it."""

from __future__ import annotations

from functools import cached_property
from typing import Final

from nvmxfuzz.arch.controls import Primary, Secondary
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.inputs.session_steps import MSRS
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.oracles.session.witness import VcpuView

_PENDING: Final = (
    *("exception.injected", "exception.pending", "interrupt.injected", "nmi.injected"),
    *("nmi.pending", "smi.pending", "smi.latched_init", "triple_fault_pending"),
    "exception_has_payload",
)
_CANONICAL: Final = 1 << 46
"""Addresses below are canonical, and what follows an instruction there is so too."""
_LONG: Final = Efer.LMA | Efer.LME
_PAGED: Final = Cr0.PE | Cr0.PG


class State:
    """A view as dictionaries."""

    def __init__(self, view: VcpuView) -> None:
        """Look at a view."""
        self.view = view

    @cached_property
    def regs(self) -> dict[str, int]:
        """The general-purpose registers, RIP and RFLAGS."""
        return dict(self.view.regs)

    @cached_property
    def sregs(self) -> dict[str, int]:
        """The special registers and segments."""
        return dict(self.view.sregs)

    @cached_property
    def events(self) -> dict[str, int]:
        """The events."""
        return dict(self.view.events)

    @cached_property
    def nested(self) -> dict[str, int]:
        """The header of the nested state."""
        return dict(self.view.nested)

    @cached_property
    def vmcs12(self) -> dict[str, int]:
        """The fields of the current VMCS that are not 0."""
        return dict(self.view.vmcs12)

    def msr(self, name: str) -> int:
        """Return an MSR by its name, 0 if it cannot be read."""
        return self.msrs.get(name, 0)

    @cached_property
    def msrs(self) -> dict[str, int]:
        """The MSRs by name."""
        return dict(self.view.msrs)

    @property
    def capabilities(self) -> dict[int, int]:
        """The VMX capability MSRs by index, as L1 reads them."""
        found = {MSRS[name]: value for name, value in self.view.msrs if name in MSRS}
        return {index: value for index, value in found.items() if 0x480 <= index < 0x4A0}

    @property
    def in_vmx(self) -> bool:
        """Whether L1 is in VMX operation."""
        return self.nested["vmxon_pa"] != NO_POINTER

    @property
    def current(self) -> int:
        """The current-VMCS pointer."""
        return self.nested["vmcs12_pa"]

    @property
    def has_ept(self) -> bool:
        """Whether the current VMCS enables EPT."""
        primary = self.vmcs12.get("cpu_based_vm_exec_control", 0)
        secondary = self.vmcs12.get("secondary_vm_exec_control", 0)
        activated = primary & Primary.ACTIVATE_SECONDARY_CONTROLS != 0
        return activated and secondary & Secondary.ENABLE_EPT != 0

    @property
    def is_at_rest(self) -> bool:
        """Whether the vCPU runs when it is let, and no event comes first."""
        return self.view.mp_state == 0 and not any(self.events.get(name, 0) for name in _PENDING)

    @property
    def is_plain_l1(self) -> bool:
        """Whether L1 is about to execute 64-bit code at CPL 0, as in a new session."""
        words = self.sregs
        return (
            self.is_at_rest
            and not self.view.in_l2
            and not self.view.in_smm
            and words["cr0"] & _PAGED == _PAGED
            and words["cr4"] & Cr4.PAE != 0
            and words["efer"] & _LONG == _LONG
            and words["cs.l"] == 1
            and words["cs.dpl"] == words["ss.dpl"] == 0
            and not self.regs["rflags"] & (Rflags.VM | Rflags.TF)
            and self.regs["rip"] < _CANONICAL
        )

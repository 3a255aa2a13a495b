# SPDX-License-Identifier: GPL-2.0-only
"""What L1 sees on a vCPU, and what L0 has on the processor below it, as values."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.targets.kvm_native.structures import Regs, Segment, Sregs
from nvmxfuzz.targets.kvm_native.vcpu import Vcpu
from nvmxfuzz.targets.kvm_native.vmcs02 import vmcs_at
from nvmxfuzz.targets.kvm_native.vmcs12 import LAUNCH_STATE, Vmcs12Layout
from nvmxfuzz.targets.passage import L0State, L1View

ENDS: Final = ("vm_exit_reason", "exit_qualification", "vm_instruction_error")
"""Fields of vmcs12 that say how VM entry ended: they are 0 before."""

_GENERAL: Final = tuple(name for name, *_ in Regs._fields_)
_SEGMENTS: Final = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
_SEGMENT: Final = tuple(name for name, *_ in Segment._fields_ if name != "padding")
_TABLES: Final = ("gdt", "idt")
_CONTROL: Final = ("cr0", "cr3", "cr4", "cr8", "efer")
_MSRS: Final = (
    msr.MSR_IA32_SYSENTER_CS,
    msr.MSR_IA32_SYSENTER_ESP,
    msr.MSR_IA32_SYSENTER_EIP,
    msr.MSR_IA32_DEBUGCTLMSR,
    msr.MSR_IA32_CR_PAT,
    msr.MSR_CORE_PERF_GLOBAL_CTRL,
    msr.MSR_IA32_BNDCFGS,
    msr.MSR_KERNEL_GS_BASE,
)
"""MSRs of L1 that VM entry or VM exit may load, whatever the lists say."""
_CLOCKS: Final = frozenset({msr.MSR_IA32_TSC})
_MOST_LISTED: Final = 32
_SLOT: Final = 16
_OWN_MSRS: Final = {"efer": msr.MSR_EFER, "pat": msr.MSR_IA32_CR_PAT}


class Looker:
    """Looks at a vCPU before and after a VM entry; `attempt` names the MSRs that matter."""

    def __init__(self, vcpu: Vcpu, layout: Vmcs12Layout, attempt: Attempt) -> None:
        self._vcpu = vcpu
        self._library = vcpu.library
        self._layout = layout
        self._indices = tuple(dict.fromkeys((*_MSRS, *_listed(attempt))))

    def l1(self, image: bytes | None = None) -> L1View:
        """Return what L1 finds; `image` is vmcs12, if it is not with KVM yet."""
        vmcs = self._layout.unpack(image or self._cached())
        if image is not None:
            vmcs = vmcs.replace(dict.fromkeys(ENDS, 0))
        launched = (image or self._cached())[LAUNCH_STATE] != 0
        return L1View(tuple(self._registers()), tuple(self._msrs()), vmcs, launched)

    def l0(self) -> L0State:
        """Return what KVM has on the processor, and in the VMCS of L1."""
        functions = self._library.functions
        current, vmcs01, vmcs02 = (functions.nvmx_vmcs(self._vcpu.address, at) for at in range(3))
        names = {vmcs01: "vmcs01", vmcs02: "vmcs02"}
        registers = (
            *((f"cr{number}", functions.nvmx_get_cr(number)) for number in (0, 3, 4)),
            ("dr7", functions.nvmx_get_dr(7)),
            ("rflags.if", functions.nvmx_get_rflags_if()),
            *((name, self._library.get_msr(index) or 0) for name, index in _OWN_MSRS.items()),
        )
        return L0State(registers, names.get(current, "other"), vmcs_at(functions, vmcs01))

    def _cached(self) -> bytes:
        address = self._library.functions.nvmx_cached_vmcs12(self._vcpu.address)
        return ctypes.string_at(address, self._layout.size)

    def _registers(self) -> Iterator[tuple[str, int]]:
        general, special = self._vcpu.get_regs(), self._vcpu.get_sregs()
        yield from ((name, getattr(general, name)) for name in _GENERAL)
        yield from ((name, getattr(special, name)) for name in _CONTROL)
        yield from _segments(special)

    def _msrs(self) -> Iterator[tuple[int, int]]:
        for index in self._indices:
            value = self._vcpu.get_msr(index)
            if value is not None:
                yield index, value


def _segments(special: Sregs) -> Iterator[tuple[str, int]]:
    for name in _SEGMENTS:
        segment = getattr(special, name)
        yield from ((f"{name}.{part}", getattr(segment, part)) for part in _SEGMENT)
    for name in _TABLES:
        table = getattr(special, name)
        yield from ((f"{name}.{part}", getattr(table, part)) for part in ("base", "limit"))


def _listed(attempt: Attempt) -> Iterator[int]:
    """Yield the first MSRs that VM entry loads by the list."""
    for number in range(min(attempt.vmcs.vm_entry_msr_load_count, _MOST_LISTED)):
        address = attempt.vmcs.vm_entry_msr_load_addr + number * _SLOT
        index = attempt.memory.read_int(address, 4)
        if index not in _CLOCKS:
            yield index

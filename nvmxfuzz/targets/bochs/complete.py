# SPDX-License-Identifier: GPL-2.0-only
"""The complete path: a hypervisor in guest code executes every VMX instruction up to the last.

VMXON, VMCLEAR, VMPTRLD and a VMWRITE of every field that the model has run in the hypervisor's own
mode; only then does the processor get the mode of the attempt. A VMCS that is to be launched
already is launched first with a state that enters. Once the guest would run, or the VM exit is
over, VMREAD tells what became of it. No guest code runs, and no handler of the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nvmxfuzz.arch.fields import FIELD_BY_NAME, Field
from nvmxfuzz.arch.registers import Efer, Rflags
from nvmxfuzz.inputs.bases import base, default_base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, FAIL_INVALID, Outcome, fail_valid, fault
from nvmxfuzz.machine.processor import NO_POINTER, Processor
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.targets.base import Observation, no_opinion, not_representable
from nvmxfuzz.targets.bochs import modes, patches
from nvmxfuzz.targets.bochs.capabilities import restrict
from nvmxfuzz.targets.bochs.cpu import Cpu, Saved
from nvmxfuzz.targets.bochs.guest_code import (
    FIRST,
    GDT,
    MOST_ROWS,
    PLACE,
    SIZE,
    GuestCode,
    is_own,
    page_table,
    upper_half,
)
from nvmxfuzz.targets.bochs.guest_memory import PAGE
from nvmxfuzz.targets.bochs.image import own_fields
from nvmxfuzz.targets.bochs.native import private
from nvmxfuzz.targets.bochs.registers import DATA_SELECTOR, State
from nvmxfuzz.targets.bochs.verdicts import ENTRY_FAILURE, concluded, failed_entry, gave_up

_LOOP: Final = "cpu_loop"
_LOAD_PDPTES: Final = "_ZN8BX_CPU_C10CheckPDPTREm"
_FLAGS: Final = "_ZN8BX_CPU_C11force_flagsEv"
_SHADOW: Final = 1 << 31
"""Bit of the revision identifier that makes a VMCS a shadow VMCS."""
_REACHED: Final = frozenset({6, 13})
"""Vectors of the exceptions that VMLAUNCH and VMRESUME raise themselves."""
_RESULTS: Final = tuple(
    FIELD_BY_NAME[name].encoding
    for name in ("vm_instruction_error", "vm_exit_reason", "exit_qualification")
)


class CompleteEngine:
    """A CPU of one model with the harness's pages; several profiles share it."""

    def __init__(self, cpu: Cpu, *, wide: bool) -> None:
        self.cpu = cpu
        self.wide = wide
        self.code = GuestCode(cpu.memory.keep(FIRST, SIZE), wide=wide)
        self.vmxon_region = private(PAGE)
        self.vmcs_region = private(PAGE)
        self._fields = [field for field in own_fields(cpu) if field.type != "exit-info"]

    def run(self, start: int, registers: State) -> int:
        """Run guest code at `start`; return the kind of its end."""
        registers.rip = start
        registers.rsp = PLACE["stack"] + PAGE - 64
        self.cpu.set_registers(registers)
        self.cpu.native.call(self.cpu.library.address(_LOAD_PDPTES), registers.cr3)
        self.cpu.native.call(self.cpu.library.address(_LOOP))
        return self.cpu.native.end().kind

    def run_own(self, start: int, processor: Processor, rows: int = 0) -> None:
        """Run a part of the harness's own code that works on the first `rows` of the table."""
        registers = modes.registers(processor, page_table(processor))
        registers.rbx, registers.rsi, registers.rcx = PLACE["operands"], PLACE["fields"], rows
        kind = self.run(start, registers)
        if kind != patches.MARK or self.code.failed:
            raise AssertionError(f"the harness's own guest code ended in an unforeseen way: {kind}")

    def rows(self, vmcs: Vmcs) -> list[tuple[int, int]]:
        """Return encodings and values for VMWRITE of every field."""
        values = vmcs.__dict__
        return [row for field in self._fields for row in self._rows(field, values[field.name])]

    def _rows(self, field: Field, value: int) -> Sequence[tuple[int, int]]:
        """Return one VMWRITE, or two for what the registers of a 32-bit processor do not hold."""
        if self.wide or not field.has_high:
            return ((field.encoding, value),)
        return ((field.encoding, value & 0xFFFF_FFFF), (field.encoding + 1, value >> 32))


class CompletePath:
    """Attempts on one profile."""

    def __init__(self, engine: CompleteEngine, profile: Profile, model: str) -> None:
        self._engine = engine
        self._profile = profile
        self._base = base(default_base(profile), profile)
        cpu = engine.cpu
        cpu.restore(cpu.power_on)
        self._reason = restrict(cpu, profile, model) or self._without_64_bit_host()
        self._reset = cpu.save()

    def _without_64_bit_host(self) -> str:
        """Return why the VMCS cannot be written as on this model, in 64-bit mode, or ""."""
        if not self._engine.wide or self._base.processor.efer & Efer.LMA:
            return ""
        return "the complete path needs a 64-bit host, which these capability MSRs do not allow"

    def run(self, attempt: Attempt) -> Observation:
        """Return what comes of the attempt."""
        reason = (
            self._reason
            or modes.objection(attempt.processor, self._profile)
            or modes.wide_field(attempt)
            or _overlap(attempt)
        )
        if reason:
            return not_representable(reason)
        cpu = self._engine.cpu
        cpu.restore(self._reset)
        cpu.memory.hide()
        processor = attempt.processor
        if processor.vmxon_pointer != NO_POINTER:
            self._enter_vmx_operation(processor)
            if processor.current_vmcs != NO_POINTER:
                self._set_up_vmcs(attempt)
        cpu.memory.show(attempt.memory)
        observation = self._attempt(attempt)
        # What Bochs wrote to memory must not be there for the next attempt.
        cpu.memory.hide()
        cpu.memory.forget_missing()
        return observation

    def _enter_vmx_operation(self, processor: Processor) -> None:
        engine = self._engine
        code, memory = engine.code, engine.cpu.memory
        revision = self._profile.caps.revision
        shadow = _SHADOW if processor.current_vmcs_is_shadow else 0
        for region, header in (
            (engine.vmxon_region, revision),
            (engine.vmcs_region, revision | shadow),
        ):
            region[:] = header.to_bytes(4, "little").ljust(PAGE, b"\0")
        code.set_operands(processor.vmxon_pointer, processor.current_vmcs)
        own = self._base.processor
        with memory.borrowed(processor.vmxon_pointer, engine.vmxon_region):
            engine.run_own(code.vmxon, own)
        if processor.current_vmcs != NO_POINTER:
            # Bochs keeps the host's address of the region: the page is needed for this only.
            with memory.borrowed(processor.current_vmcs, engine.vmcs_region):
                engine.run_own(code.vmptrld, own)

    def _set_up_vmcs(self, attempt: Attempt) -> None:
        if attempt.launch_state == "launched":
            root = self._engine.cpu.save()
            self._write(self._base.vmcs)
            self._execute(self._base)
            if not self._in_guest():
                raise AssertionError(f"the base of {self._profile.name} does not enter on Bochs")
            # Stands for a VM exit: the launch state is in the VMCS.
            self._engine.cpu.restore(root)
        self._write(attempt.vmcs)

    def _write(self, vmcs: Vmcs) -> None:
        engine = self._engine
        rows = engine.rows(vmcs)
        for start in range(0, len(rows), MOST_ROWS):
            part = rows[start : start + MOST_ROWS]
            engine.code.set_fields(part)
            engine.run_own(engine.code.vmwrite, self._base.processor, len(part))

    def _read_results(self) -> tuple[int, int, int]:
        """Return VM-instruction error, exit reason and qualification by VMREAD."""
        engine = self._engine
        engine.code.set_fields([(encoding, 0) for encoding in _RESULTS])
        engine.run_own(engine.code.vmread, self._base.processor, len(_RESULTS))
        error, reason, qualification = engine.code.fields(len(_RESULTS))
        return error, reason, qualification

    def _in_guest(self) -> bool:
        cpu = self._engine.cpu
        return cpu.read(cpu.offsets.in_vmx_guest, 1) != 0

    def _execute(self, attempt: Attempt) -> None:
        """Execute the instruction in the mode of the attempt."""
        engine = self._engine
        processor = attempt.processor
        registers = modes.registers(processor, page_table(processor))
        registers.gdtr.base = GDT + upper_half(processor)
        registers.gdtr.limit = 0x7F
        registers.rax = DATA_SELECTOR | processor.cpl
        engine.code.set_stack_segment(processor.cpl)
        engine.run(engine.code.attempt(processor, attempt.instruction), registers)

    def _attempt(self, attempt: Attempt) -> Observation:
        cpu = self._engine.cpu
        root = cpu.save()
        self._execute(attempt)
        end = cpu.native.end()
        log = cpu.native.log(end.decided)
        if end.kind == patches.EXCEPTION and not end.is_decided:
            if end.first not in _REACHED:
                return no_opinion(f"the instruction was not reached: exception {end.first}")
            return concluded(cpu, attempt, fault(end.first), log)
        if end.kind == patches.ASSERTED and not end.is_decided:
            return gave_up(end.kind, end.first)
        return concluded(cpu, attempt, self._outcome(end.kind, root), log)

    def _outcome(self, kind: int, root: Saved) -> Outcome:
        """Return what RFLAGS and the VMCS say, once the instruction is through.

        `root` is the hypervisor as it was before, which reads the VMCS.
        """
        cpu = self._engine.cpu
        failed = kind == patches.MARK
        if failed and cpu.native.call(cpu.library.address(_FLAGS)) & Rflags.CF:
            return FAIL_INVALID
        if self._in_guest():
            return ENTERED
        cpu.restore(root)
        error, reason, qualification = self._read_results()
        if failed:
            return fail_valid(error)
        # Another exit comes of event delivery, after an entry that succeeded.
        return failed_entry(reason, qualification) if reason & ENTRY_FAILURE else ENTERED


def _overlap(attempt: Attempt) -> str:
    """Return why the harness's own pages are in the way of the attempt, or ""."""
    vmcs, processor = attempt.vmcs, attempt.processor
    looked_at = (
        (processor.vmxon_pointer, PAGE),
        (processor.current_vmcs, PAGE),
        (vmcs.virtual_apic_page_addr, PAGE),
        (vmcs.vmcs_link_pointer, PAGE),
        (vmcs.guest_cr3 & 0xFFFF_F000, PAGE),
        # No list goes on behind its first missing entry.
        (vmcs.vm_entry_msr_load_addr, 16),
    )
    shown = ((start, len(data) + 1) for start, data in attempt.memory.regions)
    if any(is_own(start, size) for start, size in (*looked_at, *shown)):
        return f"memory from {FIRST:#x} to {FIRST + SIZE - 1:#x} is the harness's own"
    return ""

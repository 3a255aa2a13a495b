# SPDX-License-Identifier: GPL-2.0-only
"""Basic VM-entry checks: whether this processor may execute VMLAUNCH or VMRESUME as it stands.

The faults are in the pseudocode of the instructions' reference page, the rest is the SDM's own
list. The checks come in a fixed order, which the stage of each rule's failure gives. What the
list asks only of a current VMCS is n/a where there is none.
"""

from __future__ import annotations

from nvmxfuzz.arch.registers import Cr0, Rflags
from nvmxfuzz.arch.sections import BASIC
from nvmxfuzz.cpu import failures
from nvmxfuzz.cpu.conditions import in_ia_32e_mode
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.rule import Section
from nvmxfuzz.machine.processor import NO_POINTER

SECTION = Section(BASIC, failures.UD)


def has_current_vmcs(entry: Entry) -> int:
    """There is a current VMCS, ordinary or shadow."""
    return entry.processor.current_vmcs != NO_POINTER


def has_ordinary_vmcs(entry: Entry) -> int:
    """There is a current VMCS that is no shadow VMCS."""
    return entry.processor.current_vmcs != NO_POINTER and not entry.processor.current_vmcs_is_shadow


def launches_ordinary_vmcs(entry: Entry) -> int:
    """VMLAUNCH with a current VMCS that is no shadow VMCS."""
    return entry.attempt.instruction == "vmlaunch" and has_ordinary_vmcs(entry)


def resumes_ordinary_vmcs(entry: Entry) -> int:
    """VMRESUME with a current VMCS that is no shadow VMCS."""
    return entry.attempt.instruction == "vmresume" and has_ordinary_vmcs(entry)


@SECTION.rule("basic.mode.vmx-operation")
def in_vmx_operation(entry: Entry) -> bool:
    """The processor is in VMX operation: VMXON has given it a VMXON pointer."""
    return entry.processor.vmxon_pointer != NO_POINTER


@SECTION.rule("basic.mode.protected")
def in_protected_mode(entry: Entry) -> bool:
    """The hypervisor is not in real-address mode: its CR0.PE is 1."""
    return entry.processor.cr0 & Cr0.PE != 0


@SECTION.rule("basic.mode.virtual-8086")
def not_in_virtual_8086_mode(entry: Entry) -> bool:
    """The hypervisor is not in virtual-8086 mode: its RFLAGS.VM is 0."""
    return entry.processor.rflags & Rflags.VM == 0


@SECTION.rule("basic.mode.compatibility", when=in_ia_32e_mode)
def not_in_compatibility_mode(entry: Entry) -> bool:
    """A hypervisor in IA-32e mode is in 64-bit mode, not compatibility mode: its CS.L is 1."""
    return entry.processor.cs_l


@SECTION.rule("basic.cpl.zero", failure=failures.GP)
def at_cpl_0(entry: Entry) -> bool:
    """The current privilege level is 0."""
    return entry.processor.cpl == 0


@SECTION.rule("basic.vmcs.current", failure=failures.VMFAIL_INVALID)
def current_vmcs_exists(entry: Entry) -> bool:
    """There is a current VMCS."""
    return entry.processor.current_vmcs != NO_POINTER


@SECTION.rule("basic.vmcs.shadow", when=has_current_vmcs, failure=failures.VMFAIL_INVALID)
def current_vmcs_is_ordinary(entry: Entry) -> bool:
    """The current VMCS is an ordinary VMCS, not a shadow VMCS."""
    return not entry.processor.current_vmcs_is_shadow


@SECTION.rule("basic.blocking.mov-ss", when=has_ordinary_vmcs, failure=failures.MOV_SS_BLOCKING)
def no_blocking_by_mov_ss(entry: Entry) -> bool:
    """Events are not blocked by MOV SS (or POP SS) in the hypervisor."""
    return not entry.processor.blocking_by_mov_ss


@SECTION.rule(
    "basic.launch-state.clear", when=launches_ordinary_vmcs, failure=failures.LAUNCH_NOT_CLEAR
)
def launched_vmcs_is_clear(entry: Entry) -> bool:
    """The launch state of the current VMCS is clear when VMLAUNCH uses it."""
    return entry.attempt.launch_state == "clear"


@SECTION.rule(
    "basic.launch-state.launched",
    when=resumes_ordinary_vmcs,
    failure=failures.RESUME_NOT_LAUNCHED,
)
def resumed_vmcs_is_launched(entry: Entry) -> bool:
    """The launch state of the current VMCS is launched when VMRESUME uses it."""
    return entry.attempt.launch_state == "launched"

# SPDX-License-Identifier: GPL-2.0-only
"""The control words: rounded against the capabilities, then against one another."""

from __future__ import annotations

from nvmxfuzz.arch.controls import Pin, Primary, VmEntry, VmExit
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, RtitCtl
from nvmxfuzz.arch.vmx_msr import EptVpidCap
from nvmxfuzz.inputs.repair import dependencies as table
from nvmxfuzz.inputs.repair.draft import ALL_ONES, LOW_HALF, Draft
from nvmxfuzz.machine.capabilities import Capabilities

_MEMORY_TYPES = EptVpidCap.MEMORY_TYPE_UC | EptVpidCap.MEMORY_TYPE_WB
_WALKS = EptVpidCap.PAGE_WALK_4 | EptVpidCap.PAGE_WALK_5


def settle_controls(draft: Draft) -> None:
    """Every control allowed, none missing, none without what it depends on.

    A word that its activating control turns off is not looked at, and keeps what it holds.
    """
    _round(draft)
    live = _live_words(draft)
    word = _words(draft) & live
    if not _fits_mode(draft, word) or not table.settled(word | _assumed(draft)):
        must, may = demanded(draft.caps), allowed(draft)
        if draft.processor.efer & Efer.LMA:
            must |= table.HOST_SIZE
        must &= live
        may = may & live | _assumed(draft)
        _store(draft, table.settle((word | must) & may | _assumed(draft), must, may, draft.coins))
    draft.use_controls()


def _leaves_smm(draft: Draft) -> bool:
    return draft.processor.in_smm and not draft.vmcs.vm_entry_controls & VmEntry.ENTRY_TO_SMM


def _assumed(draft: Draft) -> int:
    """Return controls that count as met: those that a VM entry leaving SMM does not look at."""
    return table.PREEMPTION_TIMER if _leaves_smm(draft) else 0


def _round(draft: Draft) -> None:
    """Round each word by itself against its capability MSR."""
    vmcs, caps = draft.vmcs, draft.caps
    vmcs.vm_exit_controls = vm_exit = (vmcs.vm_exit_controls | caps.exit_must) & caps.exit_may
    vmcs.vm_entry_controls = (vmcs.vm_entry_controls | caps.entry_must) & caps.entry_may
    if vm_exit & VmExit.ACTIVATE_SECONDARY_CONTROLS:
        vmcs.secondary_vm_exit_controls &= caps.exit2_may
    if _leaves_smm(draft):
        return
    vmcs.pin_based_vm_exec_control = (vmcs.pin_based_vm_exec_control | caps.pin_must) & caps.pin_may
    primary = (vmcs.cpu_based_vm_exec_control | caps.primary_must) & caps.primary_may
    if caps.secondary_must & ~caps.secondary_may:
        # No word of secondary controls is legal: without them the others may be.
        primary &= ~Primary.ACTIVATE_SECONDARY_CONTROLS | caps.primary_must
    elif caps.pin_must & Pin.PROCESS_POSTED_INTERRUPTS:
        # They need a secondary control: "virtual-interrupt delivery".
        primary |= Primary.ACTIVATE_SECONDARY_CONTROLS & caps.primary_may
    vmcs.cpu_based_vm_exec_control = primary
    if primary & Primary.ACTIVATE_SECONDARY_CONTROLS:
        vmcs.secondary_vm_exec_control = (
            vmcs.secondary_vm_exec_control | caps.secondary_must
        ) & caps.secondary_may
    if primary & Primary.ACTIVATE_TERTIARY_CONTROLS:
        vmcs.tertiary_vm_exec_control &= caps.tertiary_may


def _words(draft: Draft) -> int:
    vmcs = draft.vmcs
    return (
        vmcs.pin_based_vm_exec_control << table.PIN
        | vmcs.cpu_based_vm_exec_control << table.PRIMARY
        | vmcs.secondary_vm_exec_control << table.SECONDARY
        | vmcs.tertiary_vm_exec_control << table.TERTIARY
        | vmcs.vm_exit_controls << table.EXIT
        | vmcs.secondary_vm_exit_controls << table.EXIT2
        | vmcs.vm_entry_controls << table.ENTRY
    )


def _fits_mode(draft: Draft, word: int) -> bool:
    """Return True if the controls are among those that `allowed` lets this mode use."""
    if not draft.processor.in_smm and word & table.SMM_CONTROLS:
        return False
    if draft.processor.efer & Efer.LMA:
        if not word & table.HOST_SIZE:
            return False
    elif word & (table.HOST_SIZE | table.IA32E_GUEST):
        return False
    if word & table.LOAD_TRACING and draft.processor.rtit_ctl & RtitCtl.TRACEEN:
        return False
    caps = draft.caps
    if word & table.IA32E_GUEST and not _can_page(caps):
        return False
    return not word & table.EPT or _can_translate(caps)


def _can_page(caps: Capabilities) -> bool:
    """CR0.PG and CR4.PAE, which IA-32e mode needs, can be 1."""
    return caps.cr0_fixed1 & Cr0.PG != 0 and caps.cr4_fixed1 & Cr4.PAE != 0


def _can_translate(caps: Capabilities) -> bool:
    """There is a legal EPTP."""
    return caps.ept_vpid_cap & _MEMORY_TYPES != 0 and caps.ept_vpid_cap & _WALKS != 0


def demanded(caps: Capabilities) -> int:
    """Return the controls that must be 1, all words as one number."""
    return (
        caps.pin_must << table.PIN
        | caps.primary_must << table.PRIMARY
        | caps.secondary_must << table.SECONDARY
        | caps.exit_must << table.EXIT
        | caps.entry_must << table.ENTRY
    )


def supported(caps: Capabilities) -> int:
    """Return the controls that can be 1, all words as one number."""
    return (
        caps.pin_may << table.PIN
        | caps.primary_may << table.PRIMARY
        | caps.secondary_may << table.SECONDARY
        | caps.tertiary_may << table.TERTIARY
        | caps.exit_may << table.EXIT
        | caps.exit2_may << table.EXIT2
        | caps.entry_may << table.ENTRY
    )


def allowed(draft: Draft) -> int:
    """Return the controls that can be 1 in this machine's mode, as far as it alone decides."""
    caps = draft.caps
    may = supported(caps)
    if not draft.processor.efer & Efer.LMA:
        may &= ~(table.HOST_SIZE | table.IA32E_GUEST)
    if not _can_page(caps):
        may &= ~table.IA32E_GUEST
    if not draft.processor.in_smm:
        may &= ~table.SMM_CONTROLS
    if draft.processor.rtit_ctl & RtitCtl.TRACEEN:
        may &= ~table.LOAD_TRACING
    if not _can_translate(caps):
        may &= ~table.EPT
    return may


def _live_words(draft: Draft) -> int:
    """Return the bits of the words that are in effect."""
    vmcs = draft.vmcs
    live = table.PLAIN_WORDS
    if vmcs.vm_exit_controls & VmExit.ACTIVATE_SECONDARY_CONTROLS:
        live |= table.EXIT2_WORD
    if _leaves_smm(draft):
        return live
    live |= table.EXECUTION_WORDS
    if vmcs.cpu_based_vm_exec_control & Primary.ACTIVATE_SECONDARY_CONTROLS:
        live |= table.SECONDARY_WORD
    if vmcs.cpu_based_vm_exec_control & Primary.ACTIVATE_TERTIARY_CONTROLS:
        live |= table.TERTIARY_WORD
    return live


def _store(draft: Draft, word: int) -> None:
    """Write the words back, except those that are not in effect."""
    vmcs = draft.vmcs
    live = _live_words(draft)
    vmcs.vm_exit_controls = word >> table.EXIT & LOW_HALF
    vmcs.vm_entry_controls = word >> table.ENTRY & LOW_HALF
    if live & table.EXIT2_WORD:
        vmcs.secondary_vm_exit_controls = word >> table.EXIT2 & ALL_ONES
    if live & table.EXECUTION_WORDS:
        vmcs.pin_based_vm_exec_control = word >> table.PIN & LOW_HALF
        vmcs.cpu_based_vm_exec_control = word >> table.PRIMARY & LOW_HALF
    if live & table.SECONDARY_WORD:
        vmcs.secondary_vm_exec_control = word >> table.SECONDARY & LOW_HALF
    if live & table.TERTIARY_WORD:
        vmcs.tertiary_vm_exec_control = word >> table.TERTIARY & ALL_ONES

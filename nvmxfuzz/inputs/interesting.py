# SPDX-License-Identifier: GPL-2.0-only
"""Values at the edges: what a slot is worth being tried with on one profile.

Mutator and strategies draw from these beside single bits and random values. A value need not be
legal, and none is needed: every value of a slot can be reached without this table.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.events import EventType, InterruptionInfo, Vector
from nvmxfuzz.arch.msr import VMX_CAPABILITY_MSRS
from nvmxfuzz.inputs.layout import Slot
from nvmxfuzz.machine.capabilities import Capabilities
from nvmxfuzz.machine.profile import Profile

_PAGE: Final = 0x1000
_ENTRY: Final = 16
_ACCESS_RIGHTS: Final = (0x9B, 0xA09B, 0xC09B, 0x93, 0xC093, 0xF3, 0x9F, 0xBB, 0x8B, 0x83, 0x82)
_UNUSABLE: Final = 1 << 16
_SELECTORS: Final = (0x3, 0x4, 0x7, 0x8, 0xB, 0xFFF8)
_MODES: Final = (0x20, 0x21, 0x8000_0020, 0x8000_0021, 0x8001_0033)
_MSRS: Final = (
    msr.MSR_FS_BASE,
    msr.MSR_GS_BASE,
    msr.MSR_EFER,
    msr.MSR_IA32_CR_PAT,
    msr.MSR_IA32_SMM_MONITOR_CTL,
    msr.MSR_IA32_SMBASE,
    msr.MSR_IA32_X2APIC_FIRST,
    msr.MSR_IA32_X2APIC_LAST,
    msr.MSR_IA32_VMX_BASIC,
    msr.MSR_IA32_UCODE_WRITE,
    msr.MSR_KERNEL_GS_BASE,
    msr.MSR_IA32_DEBUGCTLMSR,
)
_VECTORS: Final = (Vector.DB, Vector.NMI, Vector.DF, Vector.GP, Vector.MC, Vector.CP, 31, 32, 0)
_EVENTS: Final = tuple(
    InterruptionInfo.VALID | deliver | kind << 8 | vector
    for kind in range(EventType.OTHER_EVENT + 1)
    for deliver in (0, InterruptionInfo.DELIVER_ERROR_CODE)
    for vector in _VECTORS
)
_BY_NAME: Final = {
    "vm_entry_intr_info_field": _EVENTS,
    "vm_entry_instruction_len": (0, 1, 15, 16),
    "guest_activity_state": (0, 1, 2, 3, 4),
    "guest_interruptibility_info": (0, 1, 2, 3, 4, 8, 0x10, 0x12, 0x20),
    "guest_rflags": (0x2, 0x202, 0x102, 0x2_0002, 0x3002, 0),
    "guest_pending_dbg_exceptions": (0x1000, 0x4000, 0x1_0000, 0x1_1000, 0x800),
    "guest_cr0": _MODES,
    "guest_ia32_efer": (0x100, 0x400, 0x500, 0xD01),
    "host_ia32_efer": (0x100, 0x400, 0x500, 0xD01),
    "ept_pointer": (0x1E, 0x18, 0x26, 0x5E, 0x9E, 0x11E),
    "tpr_threshold": (1, 8, 0xF, 0x10),
}


@lru_cache(maxsize=8192)
def interesting(slot: Slot, profile: Profile) -> tuple[int, ...]:
    """Return edge values of `slot` on `profile`: no duplicates, all fitting, 0 the first."""
    top = 1 << slot.width - 1
    values = [0, 1, slot.mask, slot.mask - 1, top, top - 1]
    values += _BY_NAME.get(slot.name, ())
    values += _by_capability(slot, profile.caps)
    if slot.width == 64:
        values += _edges_of_addresses(profile)
        if slot.area == "msr":
            values += _neighbours(slot, profile)
    if slot.name.endswith("_selector"):
        values += _SELECTORS
    elif slot.name.endswith("_ar_bytes"):
        values += _ACCESS_RIGHTS
        values += [rights | _UNUSABLE for rights in _ACCESS_RIGHTS]
    elif slot.name.endswith("_limit"):
        values += (0xFFF, 0xFFFF, 0xF_FFFF, 0x10_0000)
    elif slot.area == "memory" and slot.width == 32:
        values += _MSRS
    return tuple(dict.fromkeys(slot.fit(value) for value in values))


def _by_capability(slot: Slot, caps: Capabilities) -> tuple[int, ...]:
    """Return what the capability MSRs just allow and just forbid in `slot`."""
    words = {
        "pin_based_vm_exec_control": (caps.pin_must, caps.pin_may),
        "cpu_based_vm_exec_control": (caps.primary_must, caps.primary_may),
        "secondary_vm_exec_control": (caps.secondary_must, caps.secondary_may),
        "tertiary_vm_exec_control": (0, caps.tertiary_may),
        "vm_exit_controls": (caps.exit_must, caps.exit_may),
        "secondary_vm_exit_controls": (0, caps.exit2_may),
        "vm_entry_controls": (caps.entry_must, caps.entry_may),
        "vm_function_control": (0, caps.vmfunc_may),
        "guest_cr0": (caps.cr0_fixed0, caps.cr0_fixed1),
        "guest_cr4": (caps.cr4_fixed0, caps.cr4_fixed1),
        "host_cr0": (caps.cr0_fixed0, caps.cr0_fixed1),
        "host_cr4": (caps.cr4_fixed0, caps.cr4_fixed1),
    }
    if slot.name in words:
        must, may = words[slot.name]
        return must, may, must & must - 1, may | may + 1
    if slot.name == "cr3_target_count":
        return caps.cr3_targets, caps.cr3_targets + 1
    if slot.name.endswith(("msr_load_count", "msr_store_count")):
        return 2, 8, 9, caps.max_msr_list, caps.max_msr_list + 1
    if slot.name == "linked_vmcs_revision":
        return caps.revision, caps.revision | 1 << 31
    return ()


def _edges_of_addresses(profile: Profile) -> tuple[int, ...]:
    """Return the edges of the physical and the linear address spaces."""
    physical = 1 << profile.caps.address_limit_bits
    linear = 1 << profile.linear_address_bits - 1
    return (
        physical,
        physical - 1,
        physical - _PAGE,
        physical - _ENTRY,
        1 << profile.maxphyaddr,
        1 << 32,
        (1 << 32) - _PAGE,
        linear,
        linear - 1,
        linear << 1,
        -linear,
        -linear - 1,
        1 << 47,
        -(1 << 47),
    )


def _neighbours(slot: Slot, profile: Profile) -> tuple[int, ...]:
    """Return the values of the other capability MSRs: plain words in TRUE ones and back."""
    own = profile.msrs.get(slot.address, 0)
    low, high = own & 0xFFFF_FFFF, own >> 32
    others = (profile.msrs.get(index, 0) for index, _ in VMX_CAPABILITY_MSRS)
    return (low << 32 | low, high << 32 | high, low << 32 | high, high << 32, low, *others)

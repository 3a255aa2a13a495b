# SPDX-License-Identifier: GPL-2.0-only
"""The fields that the controls use: addresses, counts, pointers.

SDM: "VM-Execution Control Fields" of the checks on VMX controls.
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, Tertiary, VmFunction
from nvmxfuzz.arch.paging import Eptp, Hlatp, MemoryType
from nvmxfuzz.arch.vmx_msr import EptVpidCap
from nvmxfuzz.inputs.repair.draft import Draft

_PAGE: Final = 0xFFF
_PRIMARY_PAGES: Final = (
    (Primary.USE_IO_BITMAPS, ("io_bitmap_a", "io_bitmap_b")),
    (Primary.USE_MSR_BITMAPS, ("msr_bitmap",)),
    (Primary.USE_TPR_SHADOW, ("virtual_apic_page_addr",)),
)
_SECONDARY_PAGES: Final = (
    (Secondary.VIRTUALIZE_APIC_ACCESSES, ("apic_access_addr",)),
    (Secondary.ENABLE_PML, ("pml_address",)),
    (
        Secondary.SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT,
        ("sub_page_permission_table_pointer",),
    ),
    (Secondary.VMCS_SHADOWING, ("vmread_bitmap", "vmwrite_bitmap")),
    (Secondary.EPT_VIOLATION_VE, ("ve_information_address",)),
    (
        Secondary.PASID_TRANSLATION,
        ("low_pasid_directory_address", "high_pasid_directory_address"),
    ),
)
_VTPR: Final = 0x80
_MEMORY_TYPES: Final = (
    (MemoryType.WB, EptVpidCap.MEMORY_TYPE_WB),
    (MemoryType.UC, EptVpidCap.MEMORY_TYPE_UC),
)
_WALKS: Final = ((3, EptVpidCap.PAGE_WALK_4), (4, EptVpidCap.PAGE_WALK_5))


def settle_control_fields(draft: Draft) -> None:
    """Everything that a control in effect looks at."""
    if draft.leaves_smm:
        return
    vmcs = draft.vmcs
    if vmcs.cr3_target_count > draft.caps.cr3_targets:
        vmcs.cr3_target_count = draft.caps.cr3_targets
    _pages(draft)
    _posted_interrupts(draft)
    secondary = draft.secondary
    if secondary & Secondary.ENABLE_VPID and not vmcs.virtual_processor_id:
        vmcs.virtual_processor_id = 1
    if secondary & Secondary.USE_TSC_SCALING and not vmcs.tsc_multiplier:
        vmcs.tsc_multiplier = 1
    if secondary & Secondary.ENABLE_EPT:
        _eptp(draft)
    if secondary & Secondary.ENABLE_VM_FUNCTIONS:
        _vm_functions(draft)
    if draft.tertiary:
        _tertiary_fields(draft)


def _pages(draft: Draft) -> None:
    keep = ~(draft.caps.physical_reserved | _PAGE)
    fields = draft.vmcs.__dict__
    word = draft.primary
    for control, names in _PRIMARY_PAGES:
        if word & control:
            for name in names:
                fields[name] &= keep
    word = draft.secondary
    if word:
        for control, names in _SECONDARY_PAGES:
            if word & control:
                for name in names:
                    fields[name] &= keep


def settle_tpr_threshold(draft: Draft) -> None:
    """A threshold of four bits, and no higher than the virtual task priority."""
    vmcs = draft.vmcs
    if (
        not draft.primary & Primary.USE_TPR_SHADOW
        or draft.secondary & Secondary.VIRTUAL_INTERRUPT_DELIVERY
    ):
        return
    vmcs.tpr_threshold &= 0xF
    if not draft.secondary & Secondary.VIRTUALIZE_APIC_ACCESSES:
        vtpr = draft.read(vmcs.virtual_apic_page_addr + _VTPR, 1)[0]
        vmcs.tpr_threshold = min(vmcs.tpr_threshold, vtpr >> 4)


def _posted_interrupts(draft: Draft) -> None:
    vmcs = draft.vmcs
    if draft.pin & Pin.PROCESS_POSTED_INTERRUPTS:
        vmcs.posted_intr_nv &= 0xFF
        vmcs.posted_intr_desc_addr &= ~(draft.caps.physical_reserved | 0x3F)


def _eptp(draft: Draft) -> None:
    """Memory type, page-walk length and flags that IA32_VMX_EPT_VPID_CAP reports."""
    cap = draft.caps.ept_vpid_cap
    eptp = draft.vmcs.ept_pointer & ~(Eptp.RESERVED | draft.caps.physical_reserved)
    if not any(eptp & Eptp.MEMORY_TYPE == kind and cap & bit for kind, bit in _MEMORY_TYPES):
        kind = next((kind for kind, bit in _MEMORY_TYPES if cap & bit), MemoryType.WB)
        eptp = eptp & ~Eptp.MEMORY_TYPE | kind
    if not any(eptp >> 3 & 7 == length and cap & bit for length, bit in _WALKS):
        lengths = [length for length, bit in _WALKS if cap & bit] or [3]
        eptp = eptp & ~Eptp.PAGE_WALK_LENGTH | lengths[eptp >> 3 & len(lengths) - 1] << 3
    if not cap & EptVpidCap.ACCESSED_DIRTY:
        eptp &= ~Eptp.ACCESSED_DIRTY
    if not cap & EptVpidCap.SUPERVISOR_SHADOW_STACK:
        eptp &= ~Eptp.SUPERVISOR_SHADOW_STACK
    draft.vmcs.ept_pointer = eptp


def _vm_functions(draft: Draft) -> None:
    vmcs = draft.vmcs
    vmcs.vm_function_control &= draft.caps.vmfunc_may
    if vmcs.vm_function_control & VmFunction.EPTP_SWITCHING:
        if draft.secondary & Secondary.ENABLE_EPT:
            vmcs.eptp_list_address &= ~(draft.caps.physical_reserved | _PAGE)
        else:
            vmcs.vm_function_control &= ~VmFunction.EPTP_SWITCHING


def _tertiary_fields(draft: Draft) -> None:
    vmcs, reserved = draft.vmcs, draft.caps.physical_reserved
    if draft.tertiary & Tertiary.ENABLE_HLAT:
        vmcs.hlat_pointer &= ~(reserved | Hlatp.RESERVED)
    if draft.tertiary & Tertiary.APIC_TIMER_VIRTUALIZATION:
        vmcs.virtual_timer_vector &= 0xFF
    if draft.tertiary & Tertiary.IPI_VIRTUALIZATION:
        table = vmcs.pid_pointer_table & ~(reserved | 7)
        last = table + 8 * vmcs.last_pid_pointer_index
        if last & reserved:
            # The table lies so high that its end does not fit: it moves down.
            table -= 8 * vmcs.last_pid_pointer_index
        vmcs.pid_pointer_table = table

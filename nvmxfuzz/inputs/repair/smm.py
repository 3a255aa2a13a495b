# SPDX-License-Identifier: GPL-2.0-only
"""Entries that return from SMM.

SDM: "VM Entries that Return from SMM". Such an entry goes to VMX root operation if the
executive-VMCS pointer is the VMXON pointer, and else to VMX non-root operation under the VMCS that
the pointer names, which the attempt must know to be launched and valid.
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.controls import VmEntry
from nvmxfuzz.inputs.repair.draft import Draft

_PAGE: Final = 0xFFF


def settle_executive_pointer(draft: Draft) -> None:
    """Back to a launched VMCS if there is one, else to VMX root operation."""
    if not draft.leaves_smm:
        return
    if not _names_launched_vmcs(draft):
        draft.vmcs.executive_vmcs_pointer = draft.processor.vmxon_pointer
    draft.to_root = draft.vmcs.executive_vmcs_pointer == draft.processor.vmxon_pointer


def settle_executive_region(draft: Draft) -> None:
    """The region that the executive-VMCS pointer names starts with the revision identifier."""
    if draft.leaves_smm:
        draft.write(draft.vmcs.executive_vmcs_pointer, _revision(draft))


def _names_launched_vmcs(draft: Draft) -> bool:
    pointer, processor = draft.vmcs.executive_vmcs_pointer, draft.processor
    return (
        not draft.vm_entry & VmEntry.DEACTIVATE_DUAL_MONITOR_TREATMENT
        and not pointer & (draft.caps.physical_reserved | _PAGE)
        and processor.executive_vmcs_launched
        and processor.executive_controls_valid
        and draft.read(pointer, 4) == _revision(draft)
    )


def _revision(draft: Draft) -> bytes:
    return draft.caps.revision.to_bytes(4, "little")

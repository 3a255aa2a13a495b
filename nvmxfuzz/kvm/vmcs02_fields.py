# SPDX-License-Identifier: GPL-2.0-only
"""Groups of fields that go from vmcs12 to vmcs02 together, and copying without a loop."""

from __future__ import annotations

from operator import itemgetter

from nvmxfuzz.arch.segments import SEGMENTS
from nvmxfuzz.machine.vmcs import Vmcs

SEGMENT_FIELDS = (
    *(f"guest_{name}_selector" for name in SEGMENTS),
    *(f"guest_{name}_limit" for name in (*SEGMENTS, "gdtr", "idtr")),
    *(f"guest_{name}_ar_bytes" for name in SEGMENTS),
    *(f"guest_{name}_base" for name in (*SEGMENTS, "gdtr", "idtr")),
)
"""HV_VMX_ENLIGHTENED_CLEAN_FIELD_GUEST_GRP2: copied as they are."""

SYSENTER_FIELDS = (
    "guest_sysenter_cs",
    "guest_pending_dbg_exceptions",
    "guest_sysenter_esp",
    "guest_sysenter_eip",
)
PDPTR_FIELDS = ("guest_pdptr0", "guest_pdptr1", "guest_pdptr2", "guest_pdptr3")
PAGE_FAULT_FIELDS = ("page_fault_error_code_mask", "page_fault_error_code_match")
EOI_FIELDS = ("eoi_exit_bitmap0", "eoi_exit_bitmap1", "eoi_exit_bitmap2", "eoi_exit_bitmap3")
EVENT_FIELDS = (
    "vm_entry_intr_info_field",
    "vm_entry_exception_error_code",
    "vm_entry_instruction_len",
    "guest_interruptibility_info",
)


class FieldCopy:
    """A list of fields, copied from one VMCS to another without a loop."""

    __slots__ = ("names", "read")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.read = itemgetter(*names)

    def __call__(self, vmcs02: dict[str, int], vmcs12: Vmcs) -> None:
        """Copy them from `vmcs12`."""
        vmcs02.update(zip(self.names, self.read(vmcs12.__dict__), strict=True))


copy_rare = FieldCopy((*SEGMENT_FIELDS, *SYSENTER_FIELDS))
copy_pdptrs = FieldCopy(PDPTR_FIELDS)
copy_page_fault = FieldCopy(PAGE_FAULT_FIELDS)
copy_eoi = FieldCopy(EOI_FIELDS)
copy_event = FieldCopy(EVENT_FIELDS)

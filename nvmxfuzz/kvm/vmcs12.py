# SPDX-License-Identifier: GPL-2.0-only
"""struct vmcs12: the VMCS of L1 as KVM keeps it in L1's memory, field by field.

vmx/vmcs12.h and vmcs12.c. The layout is fixed for good, because the structure is migrated between
kernels. Widths follow from the fields; natural-width fields have 64 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.machine.vmcs import Vmcs

VMCS12_STRUCT_SIZE: Final = 998
"""sizeof(struct vmcs12): of a region, VMCS12_SIZE bytes are read, written and kept."""
SHADOW_VMCS: Final = 1 << 31
"""Bit 31 of the first word, whose other bits are the revision identifier."""
ABORT: Final = 4
"""Where the 32-bit VMX-abort indicator is."""
LAUNCH_STATE: Final = 8
"""Where the 32-bit launch state is: 0 clear, 1 launched."""

_RUNS: Final = (
    (
        40,
        (
            "io_bitmap_a",
            "io_bitmap_b",
            "msr_bitmap",
            "vm_exit_msr_store_addr",
            "vm_exit_msr_load_addr",
            "vm_entry_msr_load_addr",
            "tsc_offset",
            "virtual_apic_page_addr",
            "apic_access_addr",
            "posted_intr_desc_addr",
            "ept_pointer",
            "eoi_exit_bitmap0",
            "eoi_exit_bitmap1",
            "eoi_exit_bitmap2",
            "eoi_exit_bitmap3",
            "xss_exit_bitmap",
            "guest_physical_address",
            "vmcs_link_pointer",
            "guest_ia32_debugctl",
            "guest_ia32_pat",
            "guest_ia32_efer",
            "guest_ia32_perf_global_ctrl",
            "guest_pdptr0",
            "guest_pdptr1",
            "guest_pdptr2",
            "guest_pdptr3",
            "guest_bndcfgs",
            "host_ia32_pat",
            "host_ia32_efer",
            "host_ia32_perf_global_ctrl",
            "vmread_bitmap",
            "vmwrite_bitmap",
            "vm_function_control",
            "eptp_list_address",
            "pml_address",
            "encls_exiting_bitmap",
            "tsc_multiplier",
        ),
    ),
    (
        344,
        (
            "cr0_guest_host_mask",
            "cr4_guest_host_mask",
            "cr0_read_shadow",
            "cr4_read_shadow",
        ),
    ),
    (
        408,
        (
            "exit_qualification",
            "guest_linear_address",
            "guest_cr0",
            "guest_cr3",
            "guest_cr4",
            "guest_es_base",
            "guest_cs_base",
            "guest_ss_base",
            "guest_ds_base",
            "guest_fs_base",
            "guest_gs_base",
            "guest_ldtr_base",
            "guest_tr_base",
            "guest_gdtr_base",
            "guest_idtr_base",
            "guest_dr7",
            "guest_rsp",
            "guest_rip",
            "guest_rflags",
            "guest_pending_dbg_exceptions",
            "guest_sysenter_esp",
            "guest_sysenter_eip",
            "host_cr0",
            "host_cr3",
            "host_cr4",
            "host_fs_base",
            "host_gs_base",
            "host_tr_base",
            "host_gdtr_base",
            "host_idtr_base",
            "host_ia32_sysenter_esp",
            "host_ia32_sysenter_eip",
            "host_rsp",
            "host_rip",
        ),
    ),
    (
        744,
        (
            "pin_based_vm_exec_control",
            "cpu_based_vm_exec_control",
            "exception_bitmap",
            "page_fault_error_code_mask",
            "page_fault_error_code_match",
            "cr3_target_count",
            "vm_exit_controls",
            "vm_exit_msr_store_count",
            "vm_exit_msr_load_count",
            "vm_entry_controls",
            "vm_entry_msr_load_count",
            "vm_entry_intr_info_field",
            "vm_entry_exception_error_code",
            "vm_entry_instruction_len",
            "tpr_threshold",
            "secondary_vm_exec_control",
            "vm_instruction_error",
            "vm_exit_reason",
            "vm_exit_intr_info",
            "vm_exit_intr_error_code",
            "idt_vectoring_info_field",
            "idt_vectoring_error_code",
            "vm_exit_instruction_len",
            "vmx_instruction_info",
            "guest_es_limit",
            "guest_cs_limit",
            "guest_ss_limit",
            "guest_ds_limit",
            "guest_fs_limit",
            "guest_gs_limit",
            "guest_ldtr_limit",
            "guest_tr_limit",
            "guest_gdtr_limit",
            "guest_idtr_limit",
            "guest_es_ar_bytes",
            "guest_cs_ar_bytes",
            "guest_ss_ar_bytes",
            "guest_ds_ar_bytes",
            "guest_fs_ar_bytes",
            "guest_gs_ar_bytes",
            "guest_ldtr_ar_bytes",
            "guest_tr_ar_bytes",
            "guest_interruptibility_info",
            "guest_activity_state",
            "guest_sysenter_cs",
            "host_ia32_sysenter_cs",
            "vmx_preemption_timer_value",
        ),
    ),
    (
        960,
        (
            "virtual_processor_id",
            "posted_intr_nv",
            "guest_es_selector",
            "guest_cs_selector",
            "guest_ss_selector",
            "guest_ds_selector",
            "guest_fs_selector",
            "guest_gs_selector",
            "guest_ldtr_selector",
            "guest_tr_selector",
            "guest_intr_status",
            "host_es_selector",
            "host_cs_selector",
            "host_ss_selector",
            "host_ds_selector",
            "host_fs_selector",
            "host_gs_selector",
            "host_tr_selector",
            "guest_pml_index",
        ),
    ),
)
"""Fields that lie one behind the other, and where the first one is; between runs is padding."""

_CODES: Final = MappingProxyType({16: "H", 32: "I", 64: "Q"})


def _offsets() -> dict[str, int]:
    offsets = {}
    for at, names in _RUNS:
        for name in names:
            offsets[name] = at
            at += FIELD_BY_NAME[name].width // 8
    return offsets


OFFSETS: Final[Mapping[str, int]] = MappingProxyType(_offsets())
"""Where each field is that vmcs12 has, by name."""


def _places() -> dict[int, tuple[int, int]]:
    places = {}
    for name, at in OFFSETS.items():
        field = FIELD_BY_NAME[name]
        places[field.encoding] = at, field.width // 8
        if field.encoding >> 13 & 3 == 1:
            places[field.encoding | 1] = at + 4, 4
    return places


_PLACES: Final = MappingProxyType(_places())
"""Encoding -> offset and size in bytes; the upper half of a 64-bit field has its own."""


def _layout() -> struct.Struct:
    layout, end = "<", 0
    for name, at in OFFSETS.items():
        code = _CODES[FIELD_BY_NAME[name].width]
        layout += f"{at - end}x{code}"
        end = at + struct.calcsize(f"<{code}")
    return struct.Struct(layout)


_LAYOUT: Final = _layout()
_WORD: Final = struct.Struct("<I")


def get_vmcs12_field_offset(encoding: int) -> tuple[int, int] | None:
    """Return offset and size in bytes of what an encoding reaches, None if vmcs12 lacks it."""
    return _PLACES.get(encoding)


def vmcs12_read_any(image: bytes | bytearray, place: tuple[int, int]) -> int:
    """Return what is at a place, zero-extended."""
    at, size = place
    return int.from_bytes(image[at : at + size], "little")


def vmcs12_write_any(image: bytearray, place: tuple[int, int], value: int) -> None:
    """Store as much of a value as there is room for."""
    at, size = place
    image[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")


def read_word(image: bytes | bytearray, at: int) -> int:
    """Return the 32-bit word at an offset."""
    value: int = _WORD.unpack_from(image, at)[0]
    return value


def write_word(image: bytearray, at: int, value: int) -> None:
    """Store a 32-bit word at an offset."""
    _WORD.pack_into(image, at, value)


def write_fields(image: bytearray, fields: Mapping[str, int]) -> None:
    """Store fields by name; those that vmcs12 lacks are passed over."""
    for name, value in fields.items():
        at = OFFSETS.get(name)
        if at is not None:
            vmcs12_write_any(image, (at, FIELD_BY_NAME[name].width // 8), value)


def unpack(image: bytes | bytearray) -> Vmcs:
    """Return the fields of an image; what vmcs12 lacks is 0."""
    return Vmcs(dict(zip(OFFSETS, _LAYOUT.unpack_from(image), strict=True)))

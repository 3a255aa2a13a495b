# SPDX-License-Identifier: GPL-2.0-only
"""VM entry as the SDM's chapter tells it: the sections in its order, and the judgement."""

from __future__ import annotations

from nvmxfuzz.cpu import (
    address_space_size,
    basic,
    entry_controls,
    execution_apic,
    execution_general,
    execution_translation,
    exit_controls,
    guest_descriptor_tables,
    guest_non_register,
    guest_pdptes,
    guest_registers,
    guest_rip_rflags,
    guest_segments,
    host_registers,
    host_segments,
    msr_loading,
    smm_return,
)
from nvmxfuzz.cpu.chapter import Chapter
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.machine.attempt import Attempt

CHAPTER = Chapter(
    sections=(
        basic.SECTION,
        execution_general.SECTION,
        execution_apic.SECTION,
        execution_translation.SECTION,
        exit_controls.SECTION,
        entry_controls.SECTION,
        host_registers.SECTION,
        host_segments.SECTION,
        address_space_size.SECTION,
        guest_registers.SECTION,
        guest_segments.SECTION,
        guest_descriptor_tables.SECTION,
        guest_rip_rflags.SECTION,
        guest_non_register.SECTION,
        guest_pdptes.SECTION,
        msr_loading.SECTION,
        smm_return.SECTION,
    ),
    views={**guest_segments.VIEWS, **msr_loading.VIEWS},
)


def vm_entry(attempt: Attempt) -> Judgement:
    """Judge one VMLAUNCH or VMRESUME: every broken rule, and the permitted outcomes."""
    return CHAPTER.judge(Entry(attempt))

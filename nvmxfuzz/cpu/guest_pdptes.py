# SPDX-License-Identifier: GPL-2.0-only
"""The rules of the SDM's "Checks on Guest Page-Directory-Pointer-Table Entries".

The checks are those of a MOV to CR3 with PAE paging: in a present entry the reserved bits are 0;
an entry that is not present is ignored. With EPT the entries are fields of the VMCS, without it
they stand in memory where CR3 points.
"""

from __future__ import annotations

from nvmxfuzz.arch.paging import Pdpte
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer
from nvmxfuzz.arch.sections import GUEST_PDPTES
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.failures import PDPTE
from nvmxfuzz.cpu.rule import UNKNOWN, Section, Verdict, within

SECTION = Section(GUEST_PDPTES, PDPTE)

_TABLE = 0xFFFF_FFE0
"""Bits of CR3 that locate the table under PAE paging."""
_ENTRY_SIZE = 8


@within("vmcs.guest_cr4", Cr4.PAE)
def pae_guest_with_ept(entry: Entry) -> bool:
    """The guest will use PAE paging, and EPT is enabled."""
    return entry.ia32e_guest == 0 and entry.vmcs.guest_cr0 & Cr0.PG != 0 and entry.ept != 0


@within("vmcs.guest_cr4", Cr4.PAE)
def pae_guest_without_ept(entry: Entry) -> bool:
    """The guest will use PAE paging, and EPT is not enabled."""
    return entry.ia32e_guest == 0 and entry.vmcs.guest_cr0 & Cr0.PG != 0 and entry.ept == 0


def _valid(entry: Entry, pdpte: int) -> bool:
    return pdpte & Pdpte.P == 0 or (
        pdpte & Pdpte.RESERVED == 0 and pdpte >> entry.profile.maxphyaddr == 0
    )


def _valid_in_memory(entry: Entry, number: int) -> Verdict:
    address = (entry.vmcs.guest_cr3 & _TABLE) + number * _ENTRY_SIZE
    return (
        True
        if _valid(entry, entry.memory.read_int(address, _ENTRY_SIZE))
        else False
        if _must_load(entry)
        else UNKNOWN
    )


def _must_load(entry: Entry) -> bool:
    """PAE paging was not in use before VM entry, or CR3 changes; else the processor may load."""
    return (
        entry.processor.cr0 & Cr0.PG == 0
        or entry.processor.cr4 & Cr4.PAE == 0
        or entry.processor.efer & Efer.LMA != 0
        or entry.processor.cr3 != entry.vmcs.guest_cr3
    )


@SECTION.rule("pdpte.vmcs.entry-0", when=pae_guest_with_ept)
def pdpte0(entry: Entry) -> bool:
    """With EPT and PAE paging the field PDPTE0 is not present or has no reserved bit."""
    return _valid(entry, entry.vmcs.guest_pdptr0)


@SECTION.rule("pdpte.vmcs.entry-1", when=pae_guest_with_ept)
def pdpte1(entry: Entry) -> bool:
    """With EPT and PAE paging the field PDPTE1 is not present or has no reserved bit."""
    return _valid(entry, entry.vmcs.guest_pdptr1)


@SECTION.rule("pdpte.vmcs.entry-2", when=pae_guest_with_ept)
def pdpte2(entry: Entry) -> bool:
    """With EPT and PAE paging the field PDPTE2 is not present or has no reserved bit."""
    return _valid(entry, entry.vmcs.guest_pdptr2)


@SECTION.rule("pdpte.vmcs.entry-3", when=pae_guest_with_ept)
def pdpte3(entry: Entry) -> bool:
    """With EPT and PAE paging the field PDPTE3 is not present or has no reserved bit."""
    return _valid(entry, entry.vmcs.guest_pdptr3)


@SECTION.rule("pdpte.memory.entry-0", when=pae_guest_without_ept)
def pdpte0_in_memory(entry: Entry) -> Verdict:
    """With PAE paging, no EPT, entry 0 of the table at CR3 is not present or has no reserved bit.

    The processor must check if PAE paging was not in use before or CR3 changes; else it may.
    """
    return _valid_in_memory(entry, 0)


@SECTION.rule("pdpte.memory.entry-1", when=pae_guest_without_ept)
def pdpte1_in_memory(entry: Entry) -> Verdict:
    """With PAE paging, no EPT, entry 1 of the table at CR3 is not present or has no reserved bit.

    The processor must check if PAE paging was not in use before or CR3 changes; else it may.
    """
    return _valid_in_memory(entry, 1)


@SECTION.rule("pdpte.memory.entry-2", when=pae_guest_without_ept)
def pdpte2_in_memory(entry: Entry) -> Verdict:
    """With PAE paging, no EPT, entry 2 of the table at CR3 is not present or has no reserved bit.

    The processor must check if PAE paging was not in use before or CR3 changes; else it may.
    """
    return _valid_in_memory(entry, 2)


@SECTION.rule("pdpte.memory.entry-3", when=pae_guest_without_ept)
def pdpte3_in_memory(entry: Entry) -> Verdict:
    """With PAE paging, no EPT, entry 3 of the table at CR3 is not present or has no reserved bit.

    The processor must check if PAE paging was not in use before or CR3 changes; else it may.
    """
    return _valid_in_memory(entry, 3)

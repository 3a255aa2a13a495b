# SPDX-License-Identifier: GPL-2.0-only
"""The hypervisors that KVM never meets in L1: it has no say in their VM entries.

For some the processor ends VMLAUNCH itself, before a VM exit takes it to KVM; others no processor
can have, and KVM, which emulates what L1 writes into its registers, lets none come about.
"""

from __future__ import annotations

from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.cpu.predicates import cr3_address_fits, efer_bits
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import Profile


def unmet(attempt: Attempt) -> str:
    """Return why KVM never sees this L1 execute VMLAUNCH, "" if it may; the profile is L1's."""
    return _ended_by_processor(attempt.processor) or _impossible(attempt.processor, attempt.profile)


def _ended_by_processor(processor: Processor) -> str:
    if (
        processor.cr0 & Cr0.PE == 0
        or processor.rflags & Rflags.VM != 0
        or (processor.efer & Efer.LMA != 0 and not processor.cs_l)
    ):
        return "the processor raises #UD in L1 before KVM has a say"
    return ""


def _impossible(processor: Processor, profile: Profile) -> str:
    caps, cr0, cr4, efer = profile.caps, processor.cr0, processor.cr4, processor.efer
    if caps.cr0_fixed0 & ~cr0 or cr0 & ~caps.cr0_fixed1 or cr0 & (Cr0.NW | Cr0.CD) == Cr0.NW:
        return "no L1 has that CR0 in VMX operation"
    if caps.cr4_fixed0 & ~cr4 or cr4 & ~caps.cr4_fixed1:
        return "no L1 has that CR4 in VMX operation"
    long_mode = efer & Efer.LME != 0 and cr0 & Cr0.PG != 0
    if not efer_bits(efer, profile.features) or (efer & Efer.LMA != 0) != long_mode:
        return "no L1 has that IA32_EFER"
    if (long_mode and cr4 & Cr4.PAE == 0) or (not long_mode and cr4 & Cr4.PCIDE != 0):
        return "no L1 has that CR4 in its mode"
    if not cr3_address_fits(processor.cr3, caps.physical_reserved):
        return "no L1 has that CR3"
    if processor.rflags & Rflags.RESERVED or processor.rflags & Rflags.FIXED1 == 0:
        return "no L1 has those RFLAGS"
    return ""

# SPDX-License-Identifier: GPL-2.0-only
"""The processor of an attempt as a Bochs CPU: its mode, and what VMX operation has made of it.

Of RFLAGS VM alone matters to VMLAUNCH and VMRESUME. CR3 matters not at all: Bochs reads the guest's
page-directory-pointer-table entries whether they might have changed or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags, RtitCtl
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.processor import NO_POINTER, Processor
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.bochs.cpu import MAXPHYADDR, Cpu
from nvmxfuzz.targets.bochs.registers import State, hypervisor

_PAGE_OFFSET: Final = 0xFFF
_NATURAL: Final = tuple(
    field.name for field in FIELDS if field.natural and field.type != "exit-info"
)
_LONG_MODE: Final = Efer.SCE | Efer.LME | Efer.LMA


def objection(processor: Processor, profile: Profile) -> str:
    """Return why no Bochs CPU can be in that state, as a sentence, or ""."""
    return next(_objections(processor, profile), "")


def wide_field(attempt: Attempt) -> str:
    """Return which field is wider than the processor's registers, as a sentence, or ""."""
    if "long-mode" in attempt.profile.features:
        return ""
    fields = attempt.vmcs.__dict__
    for name in _NATURAL:
        if fields[name] >> 32:
            return f"{name} has more than 32 bits, which a processor without Intel 64 cannot hold"
    return ""


def _objections(processor: Processor, profile: Profile) -> Iterator[str]:
    if processor.in_smm:
        yield "Bochs has no dual-monitor treatment, and thus no VM entry in SMM"
    if processor.rtit_ctl & RtitCtl.TRACEEN:
        yield "Bochs has no Intel PT, and cannot be tracing"
    yield from _registers(processor, profile)
    yield from _modes(processor)
    if processor.vmxon_pointer != NO_POINTER:
        yield from _regions(processor, profile)


def _registers(processor: Processor, profile: Profile) -> Iterator[str]:
    if processor.cr0 >> 32:
        yield "CR0 has bits beyond 31, which no processor has"
    lacking = processor.cr4 & ~profile.caps.cr4_fixed1
    if lacking:
        yield f"CR4 has bits {lacking:#x}, which the profile lacks"
    allowed = (_LONG_MODE if "long-mode" in profile.features else 0) | (
        Efer.NXE if "nx" in profile.features else 0
    )
    if processor.efer & ~allowed:
        yield f"IA32_EFER has bits {processor.efer & ~allowed:#x}, which the profile lacks"


def _modes(processor: Processor) -> Iterator[str]:
    """Yield what no processor can be: MOV to a control register refuses it."""
    cr0, cr4, efer = processor.cr0, processor.cr4, processor.efer
    paging = cr0 & Cr0.PG
    if paging and not cr0 & Cr0.PE:
        yield "CR0.PG is 1 without CR0.PE, which no processor allows"
    if cr0 & Cr0.NW and not cr0 & Cr0.CD:
        yield "CR0.NW is 1 without CR0.CD, which no processor allows"
    if bool(efer & Efer.LMA) != bool(paging and efer & Efer.LME):
        yield "IA32_EFER.LMA is not what IA32_EFER.LME and CR0.PG make it"
    if efer & Efer.LMA:
        if not cr4 & Cr4.PAE:
            yield "IA32_EFER.LMA is 1 without CR4.PAE, which no processor allows"
        if processor.rflags & Rflags.VM:
            yield "RFLAGS.VM is 1 in IA-32e mode, which no processor allows"
        if cr4 & Cr4.LASS and not processor.cs_l and processor.cpl != 3:
            yield "with CR4.LASS a supervisor cannot fetch code in compatibility mode"
    elif cr4 & Cr4.PCIDE:
        yield "CR4.PCIDE is 1 outside IA-32e mode, which no processor allows"


def _regions(processor: Processor, profile: Profile) -> Iterator[str]:
    """Yield what VMXON and VMPTRLD refuse."""
    if not _is_region(processor.vmxon_pointer):
        yield f"VMXON refuses the pointer {processor.vmxon_pointer:#x}"
    if processor.current_vmcs == NO_POINTER:
        return
    if not _is_region(processor.current_vmcs):
        yield f"VMPTRLD refuses the pointer {processor.current_vmcs:#x}"
    if processor.current_vmcs == processor.vmxon_pointer:
        yield "the current VMCS is the VMXON region, which VMPTRLD refuses"
    shadowing = profile.caps.secondary_may & Secondary.VMCS_SHADOWING
    if processor.current_vmcs_is_shadow and not shadowing:
        yield "the current VMCS is a shadow VMCS, which VMPTRLD refuses without VMCS shadowing"


def _is_region(pointer: int) -> bool:
    return pointer & _PAGE_OFFSET == 0 and pointer >> MAXPHYADDR == 0


def registers(processor: Processor, cr3: int) -> State:
    """Return the registers of the hypervisor, with a CR3 that the harness can use."""
    state = hypervisor(
        (processor.cr0, cr3, processor.cr4),
        processor.efer,
        processor.cpl,
        bool(processor.cs_l and processor.efer & Efer.LMA),
    )
    state.rflags |= processor.rflags & Rflags.VM
    return state


def enter_vmx(cpu: Cpu, processor: Processor, region: int) -> None:
    """Let `cpu` be in VMX operation as `processor` is; `region` is where the VMCS lies here."""
    offsets = cpu.offsets
    if processor.vmxon_pointer == NO_POINTER:
        return
    cpu.write(offsets.in_vmx, 1, 1)
    cpu.write(offsets.vmxon_pointer, 8, processor.vmxon_pointer)
    cpu.write(offsets.current_vmcs, 8, processor.current_vmcs)
    absent = processor.current_vmcs == NO_POINTER
    cpu.write(offsets.current_vmcs + 8, 8, 0 if absent else region)

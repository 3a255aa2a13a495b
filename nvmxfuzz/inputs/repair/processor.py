# SPDX-License-Identifier: GPL-2.0-only
"""The mode of the processor that executes the instruction.

SDM: "Basic VM-Entry Checks", and "Restrictions on VMX Operation" for what VMX root operation
takes for granted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from nvmxfuzz.arch.controls import VmEntry, VmExit
from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags, RtitCtl
from nvmxfuzz.inputs.repair.draft import Draft
from nvmxfuzz.machine.processor import NO_POINTER, Processor

_DEFAULT: Final = Processor()
_PAGE: Final = 0xFFF
_PAGED: Final = Cr0.PE | Cr0.PG


def settle_processor(draft: Draft) -> None:
    """VMX root operation outside virtual-8086 and compatibility mode, at CPL 0."""
    old = draft.processor
    efer = _efer(draft)
    long_mode = efer & Efer.LMA
    cr0 = round_fixed(old.cr0, draft.caps.cr0_fixed0, draft.caps.cr0_fixed1) | _PAGED
    if not cr0 & Cr0.CD:
        cr0 &= ~Cr0.NW  # no processor has NW without CD
    cr4 = _cr4(draft, long_mode)
    rflags = old.rflags & ~(Rflags.VM | Rflags.RESERVED) | Rflags.FIXED1
    in_smm = old.in_smm and draft.caps.dual_monitor
    vmxon, current = _regions(draft)
    rtit_ctl = old.rtit_ctl if _can_trace(draft) else old.rtit_ctl & ~RtitCtl.TRACEEN
    if (
        (cr0, cr4, efer, rflags) != (old.cr0, old.cr4, old.efer, old.rflags)
        or (vmxon, current) != (old.vmxon_pointer, old.current_vmcs)
        or (long_mode and not old.cs_l)
        or (in_smm, rtit_ctl) != (old.in_smm, old.rtit_ctl)
        or old.cpl
        or old.blocking_by_mov_ss
        or old.current_vmcs_is_shadow
    ):
        draft.processor = replace(
            old,
            cr0=cr0,
            cr4=cr4,
            efer=efer,
            rflags=rflags,
            cpl=0,
            cs_l=True if long_mode else old.cs_l,
            in_smm=in_smm,
            blocking_by_mov_ss=False,
            vmxon_pointer=vmxon,
            current_vmcs=current,
            current_vmcs_is_shadow=False,
            rtit_ctl=rtit_ctl,
        )


def _can_trace(draft: Draft) -> bool:
    """The hypervisor can be traced, and VM entry need not load what controls the tracing."""
    return (
        "intel-pt" in draft.profile.features
        and draft.caps.pt_in_vmx
        and not draft.caps.entry_must & VmEntry.LOAD_IA32_RTIT_CTL
    )


def settle_instruction(draft: Draft) -> None:
    """VMLAUNCH for a clear VMCS, VMRESUME for a launched one."""
    clear = draft.launch_state == "clear"
    draft.instruction = "vmlaunch" if clear else "vmresume"


def round_fixed(value: int, fixed0: int, fixed1: int) -> int:
    """Return a control register with the bits that VMX operation fixes."""
    return (value | fixed0) & fixed1


def _efer(draft: Draft) -> int:
    """IA-32e mode if the host's address-space size can and may follow it.

    SDM: "Checks Related to Address-Space Size". Paging is always on in VMX root operation, so
    LMA and LME are one.
    """
    efer = draft.processor.efer & ~Efer.RESERVED
    both = Efer.LMA | Efer.LME
    size = VmExit.HOST_ADDRESS_SPACE_SIZE
    possible = draft.long_mode and draft.caps.exit_may & size and draft.caps.cr4_fixed1 & Cr4.PAE
    demanded = draft.caps.exit_must & size or draft.caps.entry_must & VmEntry.IA_32E_MODE_GUEST
    if possible and (efer & Efer.LMA or demanded):
        return efer | both
    return efer & ~both


def _cr4(draft: Draft, long_mode: int) -> int:
    caps = draft.caps
    cr4 = round_fixed(draft.processor.cr4, caps.cr4_fixed0, caps.cr4_fixed1) | Cr4.VMXE
    if long_mode:
        return cr4 | Cr4.PAE
    return cr4 & ~(Cr4.PCIDE | Cr4.FRED)


def _regions(draft: Draft) -> tuple[int, int]:
    """Return the VMXON pointer and the current-VMCS pointer: two pages of memory."""
    old = draft.processor
    vmxon = _region(draft, old.vmxon_pointer, _DEFAULT.vmxon_pointer)
    current = _region(draft, old.current_vmcs, _DEFAULT.current_vmcs)
    if current == vmxon:
        default = _DEFAULT.current_vmcs
        current = default if vmxon != default else _DEFAULT.vmxon_pointer
    return vmxon, current


def _region(draft: Draft, pointer: int, default: int) -> int:
    if pointer == NO_POINTER:
        return default
    return pointer & ~_PAGE & ~draft.caps.physical_reserved

# SPDX-License-Identifier: GPL-2.0-only
"""Guest non-register state: activity, interruptibility, pending debug exceptions, link pointer.

SDM: "Checks on Guest Non-Register State".
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.controls import Secondary, VmEntry
from nvmxfuzz.arch.events import Activity, Interruptibility, PendingDebug
from nvmxfuzz.arch.registers import Cr4, DebugCtl, Rflags
from nvmxfuzz.arch.segments import AccessRights
from nvmxfuzz.inputs.repair.draft import ALL_ONES, Coin, Draft

_STI: Final = Interruptibility.BLOCKING_BY_STI
_MOV_SS: Final = Interruptibility.BLOCKING_BY_MOV_SS
_SMI: Final = Interruptibility.BLOCKING_BY_SMI
_ENCLAVE: Final = Interruptibility.ENCLAVE_INTERRUPTION
_PAGE: Final = 0xFFF
_SHADOW: Final = 1 << 31


def settle_activity(draft: Draft) -> None:
    """An activity state that the processor supports, and HLT at privilege level 0 only."""
    vmcs = draft.vmcs
    state = vmcs.guest_activity_state
    if state > Activity.WAIT_FOR_SIPI:
        state &= Activity.WAIT_FOR_SIPI
    if not draft.caps.activity_supported >> state & 1:
        state = Activity.ACTIVE
    if state == Activity.HLT and vmcs.guest_ss_ar_bytes & AccessRights.DPL:
        state = Activity.ACTIVE
    if state == Activity.WAIT_FOR_SIPI and (draft.to_root or draft.vm_entry & VmEntry.ENTRY_TO_SMM):
        state = Activity.ACTIVE
    vmcs.guest_activity_state = state


def settle_interruptibility(draft: Draft) -> None:
    """Blocking that can be: STI or MOV SS but not both, and neither in an idle guest."""
    vmcs = draft.vmcs
    info = vmcs.guest_interruptibility_info & ~Interruptibility.RESERVED
    if info & _STI and info & _MOV_SS:
        info &= ~(_MOV_SS if draft.coin(Coin.BLOCKING_KIND) else _STI)
    user = vmcs.guest_ss_ar_bytes & AccessRights.DPL
    if not vmcs.guest_rflags & Rflags.IF or (vmcs.guest_cr4 & Cr4.FRED and user):
        info &= ~_STI
    if not draft.processor.in_smm:
        info &= ~_SMI
    elif draft.vm_entry & VmEntry.ENTRY_TO_SMM:
        info |= _SMI
    if info & _ENCLAVE:
        info = _enclave(draft, info)
    if info & (_STI | _MOV_SS) and vmcs.guest_activity_state != Activity.ACTIVE:
        if draft.coin(Coin.BLOCKING_IDLE):
            info &= ~(_STI | _MOV_SS)
        else:
            vmcs.guest_activity_state = Activity.ACTIVE
    vmcs.guest_interruptibility_info = info


def _enclave(draft: Draft, info: int) -> int:
    if "sgx" not in draft.profile.features:
        return info & ~_ENCLAVE
    if info & _MOV_SS:
        return info & ~(_ENCLAVE if draft.coin(Coin.ENCLAVE) else _MOV_SS)
    return info


def settle_pending_debug(draft: Draft) -> None:
    """Pending debug exceptions as TF, BTF, blocking and transactions let them be."""
    vmcs = draft.vmcs
    pending = vmcs.guest_pending_dbg_exceptions & ~PendingDebug.RESERVED
    pending &= ~PendingDebug.BLD  # reserved, or (with bus-lock detection) perhaps so
    blocking = vmcs.guest_interruptibility_info
    if blocking & (_STI | _MOV_SS) or vmcs.guest_activity_state == Activity.HLT:
        stepping = vmcs.guest_rflags & Rflags.TF and not vmcs.guest_ia32_debugctl & DebugCtl.BTF
        pending = pending | PendingDebug.BS if stepping else pending & ~PendingDebug.BS
        if stepping:
            pending &= ~PendingDebug.RTM
    if pending & PendingDebug.RTM:
        if "rtm" in draft.profile.features and not blocking & _MOV_SS:
            pending = PendingDebug.RTM | PendingDebug.ENABLED_BREAKPOINT
        else:
            pending &= ~PendingDebug.RTM
    vmcs.guest_pending_dbg_exceptions = pending


def settle_link_pointer(draft: Draft) -> None:
    """No linked VMCS, or one whose region starts with what the processor looks for.

    The pointer wins over what lies in memory in half of the cases, and only on the first pass:
    what another structure put there since then stays.
    """
    vmcs = draft.vmcs
    pointer = vmcs.vmcs_link_pointer
    if pointer == ALL_ONES:
        return
    pointer &= ~(draft.caps.physical_reserved | _PAGE)
    shadow = draft.secondary & Secondary.VMCS_SHADOWING
    taken = vmcs.executive_vmcs_pointer if draft.leaves_smm else draft.processor.current_vmcs
    if pointer == taken:
        pointer = ALL_ONES
    else:
        wanted = (draft.caps.revision | (_SHADOW if shadow else 0)).to_bytes(4, "little")
        if draft.read(pointer, 4) != wanted:
            if draft.number_of_pass or draft.coin(Coin.LINK_POINTER):
                pointer = ALL_ONES
            else:
                draft.write(pointer, wanted)
    vmcs.vmcs_link_pointer = pointer

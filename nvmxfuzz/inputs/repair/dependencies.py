# SPDX-License-Identifier: GPL-2.0-only
"""Which controls go together, over all control words as one number.

SDM: "VM-Execution Control Fields", "VM-Exit Control Fields" and "VM-Entry Control Fields" of the
checks on VMX controls.
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, Tertiary, VmEntry, VmExit

# Where each control word lies in the number.
PIN: Final = 0
PRIMARY: Final = 32
SECONDARY: Final = 64
TERTIARY: Final = 96
EXIT: Final = 160
EXIT2: Final = 192
ENTRY: Final = 256

SECONDARY_WORD: Final = 0xFFFF_FFFF << SECONDARY
TERTIARY_WORD: Final = 0xFFFF_FFFF_FFFF_FFFF << TERTIARY
EXIT2_WORD: Final = 0xFFFF_FFFF_FFFF_FFFF << EXIT2
EXECUTION_WORDS: Final = 0xFFFF_FFFF << PIN | 0xFFFF_FFFF << PRIMARY
"""The words on which only an entry that leaves SMM does not depend."""
PLAIN_WORDS: Final = 0xFFFF_FFFF << EXIT | 0xFFFF_FFFF << ENTRY
"""The words that every entry depends on."""

EPT: Final = Secondary.ENABLE_EPT << SECONDARY
TPR_SHADOW: Final = Primary.USE_TPR_SHADOW << PRIMARY
VIRTUAL_INTERRUPTS: Final = Secondary.VIRTUAL_INTERRUPT_DELIVERY << SECONDARY
PT_ADDRESSES: Final = Secondary.INTEL_PT_USES_GUEST_PHYSICAL_ADDRESSES << SECONDARY
PREEMPTION_TIMER: Final = Pin.ACTIVATE_VMX_PREEMPTION_TIMER << PIN
LOAD_TRACING: Final = VmEntry.LOAD_IA32_RTIT_CTL << ENTRY
HOST_SIZE: Final = VmExit.HOST_ADDRESS_SPACE_SIZE << EXIT
IA32E_GUEST: Final = VmEntry.IA_32E_MODE_GUEST << ENTRY
SMM_CONTROLS: Final = (VmEntry.ENTRY_TO_SMM | VmEntry.DEACTIVATE_DUAL_MONITOR_TREATMENT) << ENTRY

REQUIRES: Final[tuple[tuple[int, int], ...]] = (
    (Primary.NMI_WINDOW_EXITING << PRIMARY, Pin.VIRTUAL_NMIS << PIN),
    (Pin.VIRTUAL_NMIS << PIN, Pin.NMI_EXITING << PIN),
    (Pin.PROCESS_POSTED_INTERRUPTS << PIN, VIRTUAL_INTERRUPTS),
    (Pin.PROCESS_POSTED_INTERRUPTS << PIN, VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT << EXIT),
    (Tertiary.APIC_TIMER_VIRTUALIZATION << TERTIARY, VIRTUAL_INTERRUPTS),
    (VIRTUAL_INTERRUPTS, Pin.EXTERNAL_INTERRUPT_EXITING << PIN),
    (VIRTUAL_INTERRUPTS, TPR_SHADOW),
    (Secondary.VIRTUALIZE_X2APIC_MODE << SECONDARY, TPR_SHADOW),
    (Secondary.APIC_REGISTER_VIRTUALIZATION << SECONDARY, TPR_SHADOW),
    (Tertiary.IPI_VIRTUALIZATION << TERTIARY, TPR_SHADOW),
    (PT_ADDRESSES, LOAD_TRACING),
    (PT_ADDRESSES, VmExit.CLEAR_IA32_RTIT_CTL << EXIT),
    (PT_ADDRESSES, EPT),
    (Secondary.ENABLE_PML << SECONDARY, EPT),
    (Secondary.UNRESTRICTED_GUEST << SECONDARY, EPT),
    (Secondary.MODE_BASED_EXECUTE_CONTROL_FOR_EPT << SECONDARY, EPT),
    (Secondary.SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT << SECONDARY, EPT),
    (Tertiary.PEBS_USES_GUEST_PHYSICAL_ADDRESSES << TERTIARY, EPT),
    (Tertiary.ENABLE_HLAT << TERTIARY, EPT),
    (Tertiary.EPT_PAGING_WRITE_CONTROL << TERTIARY, EPT),
    (Tertiary.GUEST_PAGING_VERIFICATION << TERTIARY, EPT),
    (VmExit.SAVE_VMX_PREEMPTION_TIMER_VALUE << EXIT, PREEMPTION_TIMER),
    (IA32E_GUEST, HOST_SIZE),
)
"""(control, control that must be 1 with it); the more dependent of two comes first."""

EXCLUDES: Final[tuple[tuple[int, int], ...]] = (
    (
        Secondary.VIRTUALIZE_X2APIC_MODE << SECONDARY,
        Secondary.VIRTUALIZE_APIC_ACCESSES << SECONDARY,
    ),
    (
        Tertiary.APIC_TIMER_VIRTUALIZATION << TERTIARY,
        Primary.RDTSC_EXITING << PRIMARY,
    ),
    (
        VmEntry.ENTRY_TO_SMM << ENTRY,
        VmEntry.DEACTIVATE_DUAL_MONITOR_TREATMENT << ENTRY,
    ),
)
"""Controls of which one at most is 1."""


def settle(word: int, must: int, may: int, coins: int) -> int:
    """Return the control words with every dependency met.

    A control whose condition is not met is either cleared, or gets what it needs where the
    capabilities let it: a bit of `coins` decides. A control that must be 1 always gets it.
    """
    word = _grant(word, must, may, coins)
    word = _separate(word, must, coins)
    return _withdraw(word, must)


def settled(word: int) -> bool:
    """Return True if every dependency among the controls of `word` is met."""
    for control, needed in REQUIRES:
        if word & control and needed & ~word:
            return False
    return not any(word & one and word & other for one, other in EXCLUDES)


def unmet(must: int, may: int) -> bool:
    """Return True if the controls that must be 1 ask for what the capabilities do not give."""
    needs = _grant(must, must, -1, 0)
    return bool(needs & ~may) or any(needs & one and needs & other for one, other in EXCLUDES)


def _grant(word: int, must: int, may: int, coins: int) -> int:
    """Turn on what some controls need. The table's order makes one way through it enough."""
    for number, (control, needed) in enumerate(REQUIRES):
        if (
            word & control
            and needed & ~word
            and needed & may
            and (control & must or coins >> number & 1)
        ):
            word |= needed
            if control & must:
                must |= needed
    return word


def _separate(word: int, must: int, coins: int) -> int:
    for number, (one, other) in enumerate(EXCLUDES, len(REQUIRES)):
        if word & one and word & other:
            word &= ~(one if other & must or (not one & must and coins >> number & 1) else other)
    return word


def _withdraw(word: int, must: int) -> int:
    """Clear every control that lacks what it needs, from the most needed to the most dependent."""
    for control, needed in reversed(REQUIRES):
        if word & control and needed & ~word and not control & must:
            word &= ~control
    return word

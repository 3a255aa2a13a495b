# SPDX-License-Identifier: GPL-2.0-only
"""What a set of VMX capability MSRs offers L1: more than another set, and whether it is sound.

Stated from the SDM's "VMX Capability Reporting Facility"; nothing here calls the model. A flaw or
a widening is a pair (site, message); the site is the same for the same cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.vmx_msr import VmxBasic, VmxMisc
from nvmxfuzz.oracles.config.promises import PAIRS, VIRTUAL_APIC

Offer: TypeAlias = Mapping[int, int]
Found: TypeAlias = tuple[str, str]

NAMES: Final = dict(msr.VMX_CAPABILITY_MSRS)
_WORD: Final = (1 << 32) - 1

FORMS: Final = {
    msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS: (msr.MSR_IA32_VMX_PINBASED_CTLS, 0x16),
    msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS: (msr.MSR_IA32_VMX_PROCBASED_CTLS, 0x401_E172),
    msr.MSR_IA32_VMX_TRUE_EXIT_CTLS: (msr.MSR_IA32_VMX_EXIT_CTLS, 0x3_6DFF),
    msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS: (msr.MSR_IA32_VMX_ENTRY_CTLS, 0x11FF),
}
"""A true control MSR -> its default form, and the default1 class of its controls."""

CONTROLS: Final = (*FORMS, msr.MSR_IA32_VMX_PROCBASED_CTLS2)
_EVERY_FORM: Final = (*CONTROLS, *(default for default, _ in FORMS.values()))
_FIXED: Final = (
    (msr.MSR_IA32_VMX_CR0_FIXED0, msr.MSR_IA32_VMX_CR0_FIXED1),
    (msr.MSR_IA32_VMX_CR4_FIXED0, msr.MSR_IA32_VMX_CR4_FIXED1),
)
_MISC_NUMBERS: Final = VmxMisc.CR3_TARGETS | VmxMisc.MAX_MSR_LIST | VmxMisc.PREEMPTION_TIMER_RATE
_BASIC_NUMBERS: Final = VmxBasic.REVISION_ID | VmxBasic.REGION_SIZE | VmxBasic.MEMORY_TYPE
_HIGHEST_INDEX: Final = 0x3FE
_LAST_OF_ALL: Final = FIELD_BY_NAME["guest_sysenter_cs"]
"""Of the fields that every processor has, the one with the highest index."""
_FIELDS: Final = tuple(
    (index, control, FIELD_BY_NAME[name])
    for index, control, name in (
        (
            msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS,
            Pin.ACTIVATE_VMX_PREEMPTION_TIMER,
            "vmx_preemption_timer_value",
        ),
        (
            msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
            Primary.ACTIVATE_TERTIARY_CONTROLS,
            "tertiary_vm_exec_control",
        ),
        (msr.MSR_IA32_VMX_PROCBASED_CTLS2, Secondary.ENABLE_XSAVES_XRSTORS, "xss_exit_bitmap"),
        (msr.MSR_IA32_VMX_PROCBASED_CTLS2, Secondary.ENABLE_ENCLS_EXITING, "encls_exiting_bitmap"),
        (msr.MSR_IA32_VMX_PROCBASED_CTLS2, Secondary.USE_TSC_SCALING, "tsc_multiplier"),
        (msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS, VmEntry.LOAD_CET_STATE, "guest_intr_ssp_table"),
    )
)
"""An MSR, a control of it, and a field with a higher index that is there where it may be 1."""


def offer(values: tuple[int, ...]) -> Offer:
    """Return values of 480H and those behind it, by index; those that are not there are 0."""
    found = dict(
        zip(range(msr.MSR_IA32_VMX_BASIC, msr.MSR_IA32_VMX_VMFUNC + 1), values, strict=False)
    )
    return {index: found.get(index, 0) for index in range(0x480, 0x492)}


# ---------------------------------------------------------------------- more than another


def wider(value: Offer, limit: Offer) -> Iterator[Found]:
    """Yield where `value` offers what `limit` does not."""
    for index in _EVERY_FORM:
        yield from _bits(index, "may-be-1", value[index] >> 32 & ~(limit[index] >> 32))
        yield from _bits(index, "must-be-1", limit[index] & _WORD & ~value[index])
    for fixed0, fixed1 in _FIXED:
        yield from _bits(fixed0, "fixed-to-1", limit[fixed0] & ~value[fixed0])
        yield from _bits(fixed1, "may-be-1", value[fixed1] & ~limit[fixed1])
    for index in (msr.MSR_IA32_VMX_EPT_VPID_CAP, msr.MSR_IA32_VMX_VMFUNC):
        yield from _bits(index, "features", value[index] & ~limit[index])
    yield from _wider_misc(value[msr.MSR_IA32_VMX_MISC], limit[msr.MSR_IA32_VMX_MISC])
    yield from _wider_basic(value[msr.MSR_IA32_VMX_BASIC], limit[msr.MSR_IA32_VMX_BASIC])
    index = msr.MSR_IA32_VMX_VMCS_ENUM
    if value[index] & _HIGHEST_INDEX > limit[index] & _HIGHEST_INDEX or (
        value[index] & ~_HIGHEST_INDEX & ~limit[index]
    ):
        yield f"{NAMES[index]}", f"{value[index]:#x} where {limit[index]:#x} is offered"


def _bits(index: int, what: str, beyond: int) -> Iterator[Found]:
    if beyond:
        yield f"{NAMES[index]} {what}", f"{beyond:#x} beyond what is offered"


def _wider_misc(value: int, limit: int) -> Iterator[Found]:
    index = msr.MSR_IA32_VMX_MISC
    yield from _bits(index, "features", value & ~limit & ~_MISC_NUMBERS)
    for mask, what in ((VmxMisc.CR3_TARGETS, "cr3-targets"), (VmxMisc.MAX_MSR_LIST, "msr-list")):
        if value & mask > limit & mask:
            yield f"{NAMES[index]} {what}", f"{value:#x} where {limit:#x} is offered"
    rate = VmxMisc.PREEMPTION_TIMER_RATE
    if (value ^ limit) & rate:
        yield f"{NAMES[index]} timer-rate", f"{value & rate} where KVM emulates {limit & rate}"


def _wider_basic(value: int, limit: int) -> Iterator[Found]:
    index = msr.MSR_IA32_VMX_BASIC
    yield from _bits(index, "features", value & ~limit & ~_BASIC_NUMBERS)
    if (value ^ limit) & VmxBasic.REVISION_ID:
        yield f"{NAMES[index]} revision", "another revision than KVM's"
    if value & VmxBasic.REGION_SIZE < limit & VmxBasic.REGION_SIZE:
        yield f"{NAMES[index]} size", "a smaller region than KVM uses"


# ---------------------------------------------------------------------- sound by itself


def flaws(value: Offer) -> Iterator[Found]:
    """Yield what no processor would report: what cannot be satisfied, or lacks its other half."""
    for index in _EVERY_FORM:
        impossible = value[index] & _WORD & ~(value[index] >> 32)
        if impossible:
            yield f"{NAMES[index]} must-be-1", f"{impossible:#x} must be 1 and may not"
    for true, (default, class1) in FORMS.items():
        if value[default] != value[true] | class1:
            yield f"{NAMES[default]} default", f"it is not {NAMES[true]} with the default1 class"
    for fixed0, fixed1 in _FIXED:
        if value[fixed0] & ~value[fixed1]:
            yield f"{NAMES[fixed0]} fixed", f"{value[fixed0] & ~value[fixed1]:#x} has no value"
    yield from _unsound_basic(value[msr.MSR_IA32_VMX_BASIC])
    yield from _unsound_enum(value)
    yield from _incomplete(value)


def _unsound_basic(basic: int) -> Iterator[Found]:
    size = (basic & VmxBasic.REGION_SIZE) >> 32
    if not 0 < size <= 4096:
        yield "IA32_VMX_BASIC size", f"a region of {size} bytes"
    kind = (basic & VmxBasic.MEMORY_TYPE) >> 50
    if kind not in (0, 6):
        yield "IA32_VMX_BASIC memory-type", f"memory type {kind}"


def _unsound_enum(value: Offer) -> Iterator[Found]:
    """VMCS_ENUM against the fields that exist; it may tell of more than those."""
    last, told = _LAST_OF_ALL, (value[msr.MSR_IA32_VMX_VMCS_ENUM] & _HIGHEST_INDEX) >> 1
    for index, control, field in _FIELDS:
        if value[index] >> 32 & control and field.index > last.index:
            last = field
    if told < last.index:
        yield "IA32_VMX_VMCS_ENUM highest", f"{told:#x}, and there is the field {last.name}"


def _incomplete(value: Offer) -> Iterator[Found]:
    pin = value[msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS] >> 32
    primary = value[msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS] >> 32
    secondary = value[msr.MSR_IA32_VMX_PROCBASED_CTLS2] >> 32
    exit_ = value[msr.MSR_IA32_VMX_TRUE_EXIT_CTLS] >> 32
    entry = value[msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS] >> 32
    ept_vpid = value[msr.MSR_IA32_VMX_EPT_VPID_CAP]
    has_ept = secondary & Secondary.ENABLE_EPT
    for name, one, other in PAIRS:
        if (entry & one == 0) != (exit_ & other == 0):
            yield f"pair {name}", "VM entry has a control that VM exit lacks, or the reverse"
    needs = (
        ("secondary", secondary, primary & Primary.ACTIVATE_SECONDARY_CONTROLS),
        ("virtual-apic", secondary & VIRTUAL_APIC, primary & Primary.USE_TPR_SHADOW),
        ("unrestricted-guest", secondary & Secondary.UNRESTRICTED_GUEST, has_ept),
        ("pml", secondary & Secondary.ENABLE_PML, has_ept),
        ("ept", has_ept, ept_vpid & _WORD),
        ("ept-capability", ept_vpid & _WORD, has_ept),
        ("vpid", secondary & Secondary.ENABLE_VPID, ept_vpid >> 32),
        ("vpid-capability", ept_vpid >> 32, secondary & Secondary.ENABLE_VPID),
        (
            "vm-functions",
            secondary & Secondary.ENABLE_VM_FUNCTIONS,
            value[msr.MSR_IA32_VMX_VMFUNC],
        ),
        (
            "vmfunc-capability",
            value[msr.MSR_IA32_VMX_VMFUNC],
            secondary & Secondary.ENABLE_VM_FUNCTIONS,
        ),
        (
            "save-timer",
            exit_ & VmExit.SAVE_VMX_PREEMPTION_TIMER_VALUE,
            pin & Pin.ACTIVATE_VMX_PREEMPTION_TIMER,
        ),
        (
            "posted-interrupts",
            pin & Pin.PROCESS_POSTED_INTERRUPTS,
            secondary & Secondary.VIRTUAL_INTERRUPT_DELIVERY
            and exit_ & VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT,
        ),
        ("virtual-nmis", pin & Pin.VIRTUAL_NMIS, pin & Pin.NMI_EXITING),
        ("nmi-window", primary & Primary.NMI_WINDOW_EXITING, pin & Pin.VIRTUAL_NMIS),
    )
    for name, offered, needed in needs:
        if offered and not needed:
            yield f"incomplete {name}", "it is offered without what it needs"


# ---------------------------------------------------------------------- what KVM need not have

EMULATED: Final = {
    msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS: 0x16 | Pin.ACTIVATE_VMX_PREEMPTION_TIMER,
    msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS: 0x401_E172 | Primary.USE_MSR_BITMAPS,
    msr.MSR_IA32_VMX_PROCBASED_CTLS2: Secondary.VMCS_SHADOWING | Secondary.ENABLE_PML,
    msr.MSR_IA32_VMX_TRUE_EXIT_CTLS: (
        0x3_6DFF
        | VmExit.LOAD_IA32_EFER
        | VmExit.SAVE_IA32_EFER
        | VmExit.SAVE_VMX_PREEMPTION_TIMER_VALUE
        | VmExit.ACKNOWLEDGE_INTERRUPT_ON_EXIT
        | VmExit.LOAD_IA32_PERF_GLOBAL_CTRL
    ),
    msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS: (
        0x11FF | VmEntry.LOAD_IA32_EFER | VmEntry.LOAD_IA32_PERF_GLOBAL_CTRL
    ),
}
"""Controls that KVM can do in software, or by what every processor with VMX has."""

# SPDX-License-Identifier: GPL-2.0-only
"""The tables against the kernel's headers, both ways: no macro differs, none is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from nvmxfuzz.arch import (
    bits,
    controls,
    entry_failures,
    events,
    exit_reasons,
    instruction_errors,
    msr,
    paging,
    registers,
    segments,
    vmx_msr,
)
from nvmxfuzz.arch.fields import FIELDS

if TYPE_CHECKING:
    from tests.arch.conftest import KernelMacros

TABLES = (
    controls,
    entry_failures,
    events,
    exit_reasons,
    instruction_errors,
    paging,
    registers,
    segments,
    vmx_msr,
)

# Families of macros that the tables must know all of.
FAMILIES = re.compile(
    r"(PIN_BASED|CPU_BASED|SECONDARY_EXEC|TERTIARY_EXEC|VM_EXIT|VM_ENTRY|VMX_VMFUNC|SECONDARY_VM"
    r"|VMX_BASIC|VMX_MISC|VMX_EPT|VMX_EPTP|VMX_VPID|VMX_AR|VMX_ABORT|VMX_EXIT_REASONS"
    r"|INTR_INFO|INTR_TYPE|GUEST_INTR_STATE|GUEST_ACTIVITY"
    r"|EXIT_REASON|VMXERR|ENTRY_FAIL|X86_TRAP|X86_MEMTYPE"
    r"|X86_CR0|X86_CR3|X86_CR4|X86_EFLAGS|EFER|DEBUGCTLMSR|RTIT_CTL|ARCH_LBR_CTL|CET|SPEC_CTRL"
    r"|FEAT_CTL|MSR_IA32_VMX|MSR_IA32_FRED)_"
)

NOT_VOCABULARY = {
    r"X86_(CR0|CR3|CR4|EFLAGS)_\w+_BITS?": "the position of a bit that the tables have as a mask",
    r"\w+_(SHIFT|OFFSET)": "the position of a field that the tables have as a mask",
    r"DEBUGCTLMSR_\w+_BIT": "the position of a bit that the tables have as a mask",
    r"\w+_ALWAYSON_WITHOUT_TRUE_MSR": "the default1 class, compared by a test of its own",
    r"X86_CR3_PCID_NOFLUSH": "a bit of the operand of MOV to CR3, not of CR3",
    r"EFER_(SVME|LMSLE|FFXSR|AUTOIBRS)": "AMD only",
    r"X86_TRAP_(OLD_MF|SPURIOUS|VC|IRET)": "not an exception of an Intel 64 processor, or reserved",
    r"ARCH_LBR_CTL_CPL": "two bits that the tables have one by one",
    r"SPEC_CTRL_MITIGATIONS_MASK": "the kernel's own choice of bits",
    r"MSR_IA32_FRED_SSP0": "another name of MSR_IA32_PL0_SSP",
    r"EXIT_REASON_UNDEFINED": "the kernel's own, no exit reason",
    r"INTR_INFO_RESVD_BITS_MASK": "includes bits that newer processors define (12, 13)",
    r"VMX_MISC_MSR_LIST_MULTIPLIER": "a factor, part of the derived capabilities",
    r"VMX_VPID_EXTENT_(INDIVIDUAL_ADDR|SINGLE_CONTEXT|ALL_CONTEXT|SINGLE_NON_GLOBAL)"
    r"|VMX_EPT_EXTENT_(CONTEXT|GLOBAL)": "operands of INVVPID and INVEPT",
    r"VMX_EPTP_(PWL_[45]|MT_(WB|UC))": "values of EPTP fields; memory types are in their own table",
    r"VMX_EPT_((READ|WRIT|EXECUT)ABLE_MASK|RWX_MASK|IPAT_BIT|ACCESS_BIT|DIRTY_BIT|MT_MASK"
    r"|SUPPRESS_VE_BIT|MISCONFIG_WX_VALUE|IDENTITY_PAGETABLE_ADDR)": "VM entry reads no EPT entry",
    # Names of an older kernel for what a newer one, and the tables, call otherwise.
    r"SECONDARY_EXEC_XSAVES": "6.1's name of SECONDARY_EXEC_ENABLE_XSAVES",
    r"VMX_BASIC_(64|VMCS_SIZE_SHIFT|MEM_TYPE_(SHIFT|MASK|WB))": "6.1's way to take VMX_BASIC apart",
    r"VMX_MISC_PREEMPTION_TIMER_RATE_MASK"
    r"|MSR_IA32_VMX_MISC_(INTEL_PT|VMWRITE_SHADOW_RO_FIELDS|PREEMPTION_TIMER_SCALE)": "6.1's names",
}

# Our name has a number that the kernel's macro holds in another form.
_IN_HIGH_HALF = re.compile(r"VMX_VPID_\w+_BIT")
_EVENT_TYPE_SHIFT = 8


def named_values() -> Iterator[tuple[str, int]]:
    """Yield (macro, value) of every number and mask of the tables that has a macro."""
    for module in TABLES:
        for table in vars(module).values():
            if isinstance(table, type) and table.__module__ == module.__name__:
                for value in vars(table).values():
                    if isinstance(value, bits.Named) and value.macro:
                        yield value.macro, as_kernel_has_it(value.macro, value)


def as_kernel_has_it(macro: str, value: int) -> int:
    if _IN_HIGH_HALF.fullmatch(macro):
        return value >> 32
    if macro.startswith("INTR_TYPE_"):
        return value << _EVENT_TYPE_SHIFT
    return int(value)


def field_values() -> Iterator[tuple[str, int]]:
    for field in FIELDS:
        if field.macro:
            yield field.macro, field.encoding
            if field.has_high:
                yield f"{field.macro}_HIGH", field.encoding + 1


def msr_values() -> Iterator[tuple[str, int]]:
    for name, value in vars(msr).items():
        if name.startswith("MSR_"):
            yield name, value


OURS = {**dict(named_values()), **dict(field_values()), **dict(msr_values())}
# Indices that the kernel leaves unnamed, though it may use them.
UNNAMED_MSRS = {
    "MSR_IA32_PKRS",
    "MSR_IA32_UINTR_MISC",
    "MSR_IA32_VMX_EXIT_CTLS2",
    "MSR_IA32_X2APIC_FIRST",
    "MSR_IA32_X2APIC_LAST",
}


def test_every_value_is_the_kernels(kernels: list[KernelMacros]) -> None:
    for kernel in kernels:
        theirs = {macro: kernel.value(macro) for macro in OURS if macro in kernel.bodies}
        ours = {macro: OURS[macro] for macro in theirs}
        assert ours == theirs, f"Linux {kernel.version}"
        # The comparison is worth nothing where the reader finds nothing to compare.
        assert len(theirs) > 400


def test_every_macro_of_ours_exists_in_a_kernel(kernels: list[KernelMacros]) -> None:
    if "6.12" not in {kernel.version for kernel in kernels}:
        pytest.skip("the tables carry the macros of Linux 6.12, whose headers are not here")
    known = {macro for kernel in kernels for macro in kernel.bodies}
    assert set(OURS) - known == UNNAMED_MSRS


def test_every_macro_of_the_families_is_in_the_tables_or_explained(
    kernels: list[KernelMacros],
) -> None:
    explained = re.compile("|".join(f"(?:{pattern})" for pattern in NOT_VOCABULARY))
    for kernel in kernels:
        candidates = {macro for macro in kernel.bodies if FAMILIES.match(macro)}
        integers = {macro for macro in candidates if kernel.value(macro) is not None}
        unknown = {m for m in integers - set(OURS) if not explained.fullmatch(m)}
        unknown -= {m for m in unknown if kernel.enumerators.get(m) == "vmcs_field"}
        assert not unknown, f"Linux {kernel.version}"


def test_every_explanation_explains_something(kernels: list[KernelMacros]) -> None:
    if not {"6.1", "6.12"} <= {kernel.version for kernel in kernels}:
        pytest.skip("explanations concern Linux 6.1 and 6.12, whose headers are not both here")
    macros = {macro for kernel in kernels for macro in kernel.bodies} - set(OURS)
    idle = {p for p in NOT_VOCABULARY if not any(re.fullmatch(p, macro) for macro in macros)}
    assert not idle


def test_every_field_of_the_kernel_is_in_the_table(kernels: list[KernelMacros]) -> None:
    for kernel in kernels:
        fields = {name for name, enum in kernel.enumerators.items() if enum == "vmcs_field"}
        assert fields <= set(dict(field_values())), f"Linux {kernel.version}"
        assert len(fields) > 180


def test_every_control_feature_of_the_kernel_is_a_named_control(
    kernels: list[KernelMacros],
) -> None:
    words = (controls.Pin, controls.Primary, controls.Secondary, controls.Tertiary)
    for kernel in kernels:
        features = {
            name: number
            for name in kernel.bodies
            if name.startswith("VMX_FEATURE_") and (number := kernel.value(name)) is not None
        }
        for name, number in features.items():
            word, position = divmod(number, 32)
            # The upper part of the first word is the kernel's summary of other capabilities.
            if word == 0 and position > 7:
                continue
            named = {bit.position for bit in bits.named_bits(words[word]).values()}
            assert position in named, f"Linux {kernel.version}: {name}"
        assert len(features) > 60


def test_default1_controls_are_the_kernels(kernels: list[KernelMacros]) -> None:
    expected = {
        "PIN_BASED_ALWAYSON_WITHOUT_TRUE_MSR": controls.PIN_DEFAULT1,
        "CPU_BASED_ALWAYSON_WITHOUT_TRUE_MSR": controls.PRIMARY_DEFAULT1,
        "VM_EXIT_ALWAYSON_WITHOUT_TRUE_MSR": controls.VM_EXIT_DEFAULT1,
        "VM_ENTRY_ALWAYSON_WITHOUT_TRUE_MSR": controls.VM_ENTRY_DEFAULT1,
    }
    for kernel in kernels:
        assert {macro: kernel.value(macro) for macro in expected} == expected

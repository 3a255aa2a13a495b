# SPDX-License-Identifier: GPL-2.0-only
"""What the capability MSRs mean."""

from __future__ import annotations

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.arch.vmx_msr import VmxBasic, VmxMisc
from nvmxfuzz.machine.capabilities import derive_capabilities
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.machine.vmcs_fields import VmcsFields

ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF


def test_absent_msrs_allow_nothing_and_fix_no_bit_of_a_control_register() -> None:
    caps = derive_capabilities({}, 40)
    assert caps.pin_may == caps.primary_may == caps.secondary_may == caps.tertiary_may == 0
    assert caps.exit_may == caps.exit2_may == caps.entry_may == caps.vmfunc_may == 0
    assert caps.pin_must == caps.primary_must == caps.exit_must == caps.entry_must == 0
    assert (caps.cr0_fixed0, caps.cr0_fixed1) == (0, ALL_ONES)
    assert (caps.cr4_fixed0, caps.cr4_fixed1) == (0, ALL_ONES)
    assert caps.activity_supported == 1


@pytest.mark.parametrize(
    ("word", "plain", "true"),
    [
        ("pin", msr.MSR_IA32_VMX_PINBASED_CTLS, msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS),
        ("primary", msr.MSR_IA32_VMX_PROCBASED_CTLS, msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS),
        ("exit", msr.MSR_IA32_VMX_EXIT_CTLS, msr.MSR_IA32_VMX_TRUE_EXIT_CTLS),
        ("entry", msr.MSR_IA32_VMX_ENTRY_CTLS, msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS),
    ],
)
def test_basic_bit_55_chooses_the_true_msr(word: str, plain: int, true: int) -> None:
    table = {plain: 0x0000_00FF_0000_0016, true: 0x0000_0077_0000_0006}
    without = derive_capabilities(table, 40)
    assert (getattr(without, f"{word}_must"), getattr(without, f"{word}_may")) == (0x16, 0xFF)
    table[msr.MSR_IA32_VMX_BASIC] = int(VmxBasic.TRUE_CONTROLS)
    chosen = derive_capabilities(table, 40)
    assert (getattr(chosen, f"{word}_must"), getattr(chosen, f"{word}_may")) == (0x06, 0x77)
    del table[true]
    absent = derive_capabilities(table, 40)
    assert (getattr(absent, f"{word}_must"), getattr(absent, f"{word}_may")) == (0, 0)


def test_64_bit_words_have_no_must_half() -> None:
    table = {msr.MSR_IA32_VMX_PROCBASED_CTLS3: ALL_ONES, msr.MSR_IA32_VMX_EXIT_CTLS2: 1 << 63}
    caps = derive_capabilities(table, 40)
    assert (caps.tertiary_may, caps.exit2_may) == (ALL_ONES, 1 << 63)


def test_an_inconsistent_secondary_word_is_taken_as_it_is() -> None:
    caps = derive_capabilities({msr.MSR_IA32_VMX_PROCBASED_CTLS2: 0x0000_0001_0000_0002}, 40)
    assert (caps.secondary_must, caps.secondary_may) == (2, 1)


def test_basic_bit_48_limits_addresses_to_32_bits() -> None:
    assert derive_capabilities({}, 40).physical_reserved == 0xFFFF_FF00_0000_0000
    table = {msr.MSR_IA32_VMX_BASIC: int(VmxBasic.PHYSICAL_ADDRESSES_32_BIT)}
    limited = derive_capabilities(table, 40)
    assert limited.address_limit_bits == 32
    assert limited.physical_reserved == 0xFFFF_FFFF_0000_0000


@pytest.mark.parametrize(
    ("bit", "states"),
    [
        (VmxMisc.ACTIVITY_HLT, 0b0011),
        (VmxMisc.ACTIVITY_SHUTDOWN, 0b0101),
        (VmxMisc.ACTIVITY_WAIT_FOR_SIPI, 0b1001),
    ],
)
def test_misc_announces_activity_states(bit: int, states: int) -> None:
    caps = derive_capabilities({msr.MSR_IA32_VMX_MISC: int(bit)}, 40)
    assert caps.activity_supported == states


def test_the_default_profile_means_what_the_bochs_model_does() -> None:
    caps = load_profile("skylake-x").caps
    assert (caps.revision, caps.region_size) == (0x2B, 4096)
    assert (caps.pin_must, caps.pin_may) == (0x16, 0xFF)
    assert (caps.primary_must, caps.primary_may) == (0x0400_6172, 0xFFF9_FFFE)
    assert (caps.exit_must, caps.exit_may) == (0x0003_6DFB, 0x407F_FFFF)
    assert (caps.entry_must, caps.entry_may) == (0x11FB, 0xFFFF)
    assert (caps.secondary_must, caps.secondary_may) == (0, 0x0257_7FFF)
    assert (caps.cr3_targets, caps.max_msr_list) == (4, 512)
    assert caps.zero_length_injection
    assert caps.vmwrite_any
    assert caps.efer_lma_stored
    assert not caps.pt_in_vmx
    assert caps.activity_supported == 0b1111


def test_the_annotated_fields_are_those_of_the_table() -> None:
    assert list(VmcsFields.__annotations__) == [field.name for field in FIELDS]
    assert set(VmcsFields.__annotations__.values()) == {int}

# SPDX-License-Identifier: GPL-2.0-only
"""CPUID and MSRs of a processor like a profile: consistent with the profile and in themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.features import FEATURES
from nvmxfuzz.arch.registers import Cr4, Efer
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names
from nvmxfuzz.targets.kvm_native.cpuid import Leaf, cpuid_of, feature_places, xcr0_of, xss_of
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.host_msrs import msrs_of

ALL = pytest.mark.parametrize("name", profile_names())


def bit(leaves: tuple[Leaf, ...], leaf: int, subleaf: int, register: str, position: int) -> bool:
    for found in leaves:
        if found[:2] == (leaf, subleaf):
            return bool(getattr(found, register) >> position & 1)
    return False


def test_features_without_a_cpuid_bit_are_known() -> None:
    without = {feature.name for feature in FEATURES if not feature_places(feature.name)}
    assert without == {"perf-global-ctrl", "smm-dual-monitor", "nmi-requires-no-sti-blocking"}


@ALL
def test_a_feature_is_in_cpuid_exactly_if_the_profile_has_it(name: str) -> None:
    profile = load_profile(name)
    leaves = cpuid_of(profile)
    for feature in FEATURES:
        for leaf, subleaf, register, position in feature_places(feature.name):
            found = bit(leaves, leaf, subleaf, ("eax", "ebx", "ecx", "edx")[register], position)
            assert found == (feature.name in profile.features), feature.name


@ALL
def test_leaves_ascend_and_are_32_bits_wide(name: str) -> None:
    leaves = cpuid_of(load_profile(name))
    keys = [leaf[:2] for leaf in leaves]
    assert keys == sorted(set(keys))
    assert all(0 <= word < 1 << 32 for leaf in leaves for word in leaf)
    assert leaves[0].eax == max(leaf.leaf for leaf in leaves if leaf.leaf < 0x8000_0000)


@ALL
def test_signature_and_address_widths_are_the_profiles(name: str) -> None:
    profile = load_profile(name)
    by_key = {leaf[:2]: leaf for leaf in cpuid_of(profile)}
    signature = by_key[1, 0].eax
    assert signature >> 8 & 0xF == profile.family
    assert signature >> 12 & 0xF0 | signature >> 4 & 0xF == profile.model
    assert signature & 0xF == profile.stepping
    assert by_key[0x8000_0008, 0].eax == profile.linear_address_bits << 8 | profile.maxphyaddr


def test_a_family_beyond_15_uses_the_extended_field() -> None:
    profile = replace(load_profile("skylake-x"), family=0x12)
    signature = next(leaf.eax for leaf in cpuid_of(profile) if leaf.leaf == 1)
    assert signature >> 8 & 0xF == 0xF
    assert signature >> 20 == 3


@pytest.mark.parametrize(
    ("cr4", "register", "position"),
    [(Cr4.SMEP, "ebx", 7), (Cr4.SMAP, "ebx", 20), (Cr4.UMIP, "ecx", 2), (Cr4.PKE, "ecx", 3)],
)
def test_a_bit_of_cr4_that_can_be_1_is_in_cpuid(cr4: int, register: str, position: int) -> None:
    profile = load_profile("everything")
    assert bit(cpuid_of(profile), 7, 0, register, position)
    msrs = dict(profile.msrs)
    msrs[msr.MSR_IA32_VMX_CR4_FIXED1] &= ~cr4
    assert not bit(cpuid_of(replace(profile, msrs=msrs)), 7, 0, register, position)


@pytest.mark.parametrize(
    ("control", "place"),
    [
        (Secondary.ENABLE_RDTSCP, (0x8000_0001, 0, "edx", 27)),
        (Secondary.ENABLE_INVPCID, (7, 0, "ebx", 10)),
        (Secondary.ENABLE_XSAVES_XRSTORS, (0xD, 1, "eax", 3)),
        (Secondary.ENABLE_USER_WAIT_AND_PAUSE, (7, 0, "ecx", 5)),
    ],
)
def test_an_instruction_with_a_control_is_in_cpuid(
    control: int, place: tuple[int, int, str, int]
) -> None:
    profile = load_profile("everything")
    assert bit(cpuid_of(profile), *place)
    assert not bit(cpuid_of(without_secondary(profile, control)), *place)


def without_secondary(profile: Profile, control: int) -> Profile:
    msrs = dict(profile.msrs)
    msrs[msr.MSR_IA32_VMX_PROCBASED_CTLS2] &= ~(control << 32)
    return replace(profile, msrs=msrs)


def test_state_components_fit_into_the_area() -> None:
    profile = load_profile("everything")
    by_key = {leaf[:2]: leaf for leaf in cpuid_of(profile)}
    assert xcr0_of(profile) == by_key[0xD, 0].eax
    assert xss_of(profile) == by_key[0xD, 1].ecx
    for number in range(2, 64):
        component = by_key.get((0xD, number), Leaf(0xD, number))
        assert (component.eax != 0) == bool((xcr0_of(profile) | xss_of(profile)) >> number & 1)
        assert component.eax + component.ebx <= by_key[0xD, 0].ecx


@ALL
def test_the_vmx_msrs_are_the_profiles_as_they_are(name: str) -> None:
    profile = load_profile(name)
    table = dict(msrs_of(profile))
    known = {index: table[index] for index, _ in msr.VMX_CAPABILITY_MSRS if index in table}
    assert known == profile.msrs


@ALL
def test_msrs_are_there_with_what_announces_them(name: str) -> None:
    profile = load_profile(name)
    table = dict(msrs_of(profile))
    assert (msr.MSR_IA32_BNDCFGS in table) == ("mpx" in profile.features)
    assert (msr.MSR_IA32_RTIT_CTL in table) == ("intel-pt" in profile.features)
    assert (msr.MSR_CORE_PERF_GLOBAL_CTRL in table) == ("perf-global-ctrl" in profile.features)
    has_xsaves = bool(profile.caps.secondary_may & Secondary.ENABLE_XSAVES_XRSTORS)
    assert (msr.MSR_IA32_XSS in table) == has_xsaves
    efer = table.get(msr.MSR_EFER, 0)
    assert bool(efer & Efer.LMA) == ("long-mode" in profile.features)
    assert bool(efer & Efer.NXE) == ("nx" in profile.features)
    assert table[msr.MSR_IA32_FEAT_CTL] & 0b101 == 0b101


@ALL
def test_cr4_of_the_host_has_only_bits_that_the_processor_has(name: str) -> None:
    profile = load_profile(name)
    hardware = hardware_of(profile)
    assert hardware.cr4 & ~profile.caps.cr4_fixed1 == 0
    assert not hardware.cr4 & Cr4.VMXE

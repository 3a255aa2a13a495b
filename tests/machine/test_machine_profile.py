# SPDX-License-Identifier: GPL-2.0-only
"""Profiles: those of the project load and are sound; bad ones are refused in a sentence."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError

import pytest

from nvmxfuzz.arch import controls, msr, registers
from nvmxfuzz.arch.bits import named_bits
from nvmxfuzz.arch.features import FEATURE_BY_NAME
from nvmxfuzz.arch.vmx_msr import VmxBasic
from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, Profile, load_profile, profile_names

BOCHS = (
    "yonah",
    "penryn",
    "lynnfield",
    "arrandale",
    "sandy-bridge",
    "ivy-bridge",
    "haswell",
    "broadwell",
    "skylake-x",
    "cannon-lake",
    "ice-lake",
    "tiger-lake",
    "sapphire-rapids",
    "arrow-lake",
)
SILICON = (
    "core-duo-t2600",
    "core2-x6800",
    "xeon-x5482",
    "core-i7-3960x",
    "core-i5-3570",
    "pentium-n3530",
    "core-i7-5600u",
    "core-i7-6700k",
)
HOSTS = ("skylake-x", "penryn", "sapphire-rapids", "everything")
GIVEN_BY_KVM = tuple(f"kvm-{kernel}-{host}" for kernel in ("6.1", "6.12") for host in HOSTS)


def test_the_profiles_are_those_that_are_documented() -> None:
    assert set(profile_names()) == {
        *(*BOCHS, *SILICON, *GIVEN_BY_KVM),
        "kvm-virtual",
        "everything",
    }
    assert list(profile_names()) == sorted(profile_names())
    assert DEFAULT_PROFILE in profile_names()


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_loads_and_says_where_it_comes_from(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.note
    assert profile.features <= set(FEATURE_BY_NAME)
    assert profile.msrs[msr.MSR_IA32_VMX_BASIC]


@pytest.mark.parametrize("name", profile_names())
def test_a_feature_that_msrs_give_away_is_as_the_msrs_say(name: str) -> None:
    profile = load_profile(name)
    caps = profile.caps
    basic = profile.msrs[msr.MSR_IA32_VMX_BASIC]
    held = {
        "smx": caps.cr4_fixed1 & registers.Cr4.SMXE,
        "pcid": caps.cr4_fixed1 & registers.Cr4.PCIDE,
        "cet-ss": caps.cr4_fixed1 & registers.Cr4.CET,
        "pks": caps.cr4_fixed1 & registers.Cr4.PKS,
        "uintr": caps.cr4_fixed1 & registers.Cr4.UINTR,
        "fred": caps.cr4_fixed1 & registers.Cr4.FRED,
        "lass": caps.cr4_fixed1 & registers.Cr4.LASS,
        "lam": caps.cr4_fixed1 & registers.Cr4.LAM_SUP,
        "smm-dual-monitor": caps.dual_monitor,
        "long-mode": not basic & VmxBasic.PHYSICAL_ADDRESSES_32_BIT,
    }
    assert {feature for feature, holds in held.items() if holds} == profile.features & set(held)


@pytest.mark.parametrize("name", profile_names())
def test_a_control_that_must_be_1_can_be_1(name: str) -> None:
    caps = load_profile(name).caps
    for word in ("pin", "primary", "secondary", "exit", "entry"):
        must, may = getattr(caps, f"{word}_must"), getattr(caps, f"{word}_may")
        assert must & ~may == 0, word
    assert caps.cr0_fixed0 & ~caps.cr0_fixed1 == 0
    assert caps.cr4_fixed0 & ~caps.cr4_fixed1 == 0


@pytest.mark.parametrize("name", BOCHS)
def test_the_models_of_bochs_share_their_address_widths(name: str) -> None:
    profile = load_profile(name)
    assert (profile.maxphyaddr, profile.linear_address_bits) == (40, 48)
    assert not profile.caps.any_exception_may_deliver_error_code


def test_everything_allows_every_control_and_has_every_feature() -> None:
    everything = load_profile("everything")
    caps = everything.caps
    words = {
        controls.Pin: caps.pin_may,
        controls.Primary: caps.primary_may,
        controls.Secondary: caps.secondary_may,
        controls.Tertiary: caps.tertiary_may,
        controls.VmExit: caps.exit_may,
        controls.VmExit2: caps.exit2_may,
        controls.VmEntry: caps.entry_may,
        controls.VmFunction: caps.vmfunc_may,
        registers.Cr4: caps.cr4_fixed1,
    }
    for word, may in words.items():
        missing = [name for name, bit in named_bits(word).items() if not bit & may]
        assert not missing, word
    must = caps.pin_must | caps.primary_must | caps.exit_must | caps.entry_must
    assert must  # reserved bits of the default1 class
    assert everything.features == set(FEATURE_BY_NAME)
    assert (everything.maxphyaddr, everything.linear_address_bits) == (52, 57)
    assert caps.any_exception_may_deliver_error_code
    assert everything.debugctl_mask is not None


def test_what_is_not_known_is_none() -> None:
    assert load_profile("core-duo-t2600").debugctl_mask is None
    assert load_profile("core-i7-6700k").debugctl_mask == 0xFFC3


def test_a_profile_is_frozen_and_its_msrs_are_read_only() -> None:
    profile = load_profile("skylake-x")
    with pytest.raises(FrozenInstanceError):
        profile.maxphyaddr = 52  # type: ignore[misc]
    with pytest.raises(TypeError):
        profile.msrs[0x480] = 0  # type: ignore[index]


def test_a_profile_does_not_share_the_table_it_was_made_of() -> None:
    table = {0x480: 1}
    profile = Profile.from_mapping({"msrs": table})
    table[0x480] = 2
    assert profile.msrs[0x480] == 1


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_survives_its_mapping_a_pickle_and_a_copy(name: str) -> None:
    profile = load_profile(name)
    assert Profile.from_mapping(profile.to_mapping()) == profile
    twin = pickle.loads(pickle.dumps(profile))
    assert twin == profile
    assert twin.caps == profile.caps
    assert hash(twin) == hash(profile)
    assert copy.deepcopy(profile) == profile


def test_a_mapping_without_anything_has_documented_defaults() -> None:
    profile = Profile.from_mapping({})
    assert (profile.name, profile.maxphyaddr, profile.linear_address_bits) == ("custom", 36, 48)
    assert profile.features == frozenset()
    assert dict(profile.msrs) == {}


def test_features_that_are_not_given_are_those_that_the_msrs_give_away() -> None:
    given = load_profile("skylake-x")
    msrs = {f"{index:#x}": f"{value:#x}" for index, value in given.msrs.items()}
    implied = Profile.from_mapping({"msrs": msrs}).features
    assert implied == given.features - {"x2apic"}
    basic = VmxBasic.PHYSICAL_ADDRESSES_32_BIT | 1
    assert "long-mode" not in Profile.from_mapping({"msrs": {"0x480": int(basic)}}).features
    assert Profile.from_mapping({"msrs": msrs, "features": []}).features == frozenset()


def test_arbitrary_values_of_msrs_are_legal() -> None:
    for value in (0, 0x5555_5555_5555_5555, 0xFFFF_FFFF_FFFF_FFFF):
        table = dict.fromkeys(range(0x480, 0x494), value)
        assert dict(Profile.from_mapping({"msrs": table}).msrs) == table


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"maxphyadr": 40}, "no key 'maxphyadr' (did you mean 'maxphyaddr'?)"),
        ({"maxphyaddr": 31}, "maxphyaddr of a profile is 0x1f; give a whole number from 32 to 52"),
        ({"maxphyaddr": 53}, "from 32 to 52"),
        ({"maxphyaddr": True}, "maxphyaddr of a profile is true"),
        ({"maxphyaddr": 40.0}, "maxphyaddr of a profile is 40.0"),
        ({"maxphyaddr": 1 << 100_000}, "is a number of 100001 bits"),
        ({"linear_address_bits": 52}, "linear_address_bits of a profile is 52; give 48 or 57"),
        ({"linear_address_bits": None}, "linear_address_bits of a profile is null"),
        ({"family": -1}, "family of a profile is -0x1"),
        ({"stepping": 16}, "from 0 to 15"),
        ({"name": 5}, "name of a profile is 0x5; give a text"),
        ({"note": "x" * 5000}, "at most 4096 characters"),
        ({"features": "long-mode"}, "give a list of names"),
        ({"features": ["cet-s"]}, "'cet-s' is no feature (did you mean 'cet-ss'?)"),
        ({"features": [["nx"]]}, "a list is no feature"),
        ({"debugctl_mask": -1}, "debugctl_mask of a profile is -0x1; give a mask of 64 bits"),
        ({"debugctl_mask": "many"}, "debugctl_mask of a profile is 'many'"),
        ({"msrs": [1]}, "msrs of a profile is a list; give a table"),
        (
            {"msrs": {"0x47f": 0}},
            "'0x47f' is no VMX capability MSR; their indices are 0x480 to 0x493",
        ),
        ({"msrs": {"0x494": 0}}, "'0x494' is no VMX capability MSR"),
        ({"msrs": {"basic": 0}}, "'basic' is no VMX capability MSR"),
        ({"msrs": {"0x480": 1 << 64}}, "MSR 0x480 is 0x10000000000000000; give a value of 64 bits"),
        ({"msrs": {"0x480": -1}}, "MSR 0x480 is -0x1"),
        ({"msrs": {"0x480": "1" * 5000}}, "MSR 0x480 is '1111"),
        ({"msrs": {"0x480": None}}, "MSR 0x480 is null"),
        ({"msrs": {"0x480": 1, "1152": 2}}, "MSR 0x480 is given twice"),
    ],
)
def test_a_bad_profile_is_refused_in_a_sentence(data: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        Profile.from_mapping(data)
    message = str(refusal.value)
    assert sentence in message
    assert "\n" not in message
    assert len(message) < 1000


def test_an_unknown_profile_is_refused_with_the_nearest_and_the_list() -> None:
    with pytest.raises(InputError) as refusal:
        load_profile("skylake")
    assert "no profile is named 'skylake' (did you mean 'skylake-x'?)" in str(refusal.value)
    assert "everything" in str(refusal.value)


@pytest.mark.parametrize("name", ["", "../profile", "skylake-x.toml", "x" * 10_000])
def test_a_name_is_never_a_path(name: str) -> None:
    with pytest.raises(InputError):
        load_profile(name)

# SPDX-License-Identifier: GPL-2.0-only
"""What the vectors of the host state cannot show: tables of values, and processors no one built."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvmxfuzz.arch.controls import VmExit
from nvmxfuzz.arch.msr import MSR_IA32_VMX_CR0_FIXED0, MSR_IA32_VMX_CR0_FIXED1
from nvmxfuzz.arch.registers import Cr0, Efer, SCet
from nvmxfuzz.cpu.predicates import (
    aligned,
    canonical,
    cr3_address_fits,
    efer_bits,
    only_known_bits,
    pat_memory_types,
    s_cet_bits,
)
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile, load_profile

MEMORY_TYPES = {0, 1, 4, 5, 6, 7}


def with_msrs(profile: Profile, msrs: dict[int, int]) -> Profile:
    return replace(profile, msrs={**profile.msrs, **msrs})


def with_fields(attempt: Attempt, fields: dict[str, int]) -> Attempt:
    return replace(attempt, vmcs=attempt.vmcs.replace(fields))


@pytest.mark.parametrize(
    ("address", "at_48", "at_57"),
    [
        (0, True, True),
        (0x0000_7FFF_FFFF_FFFF, True, True),
        (0x0000_8000_0000_0000, False, True),
        (0x00FF_FFFF_FFFF_FFFF, False, True),
        (0x0100_0000_0000_0000, False, False),
        (0x8000_0000_0000_0000, False, False),
        (0xFEFF_FFFF_FFFF_FFFF, False, False),
        (0xFF00_0000_0000_0000, False, True),
        (0xFFFF_7FFF_FFFF_FFFF, False, True),
        (0xFFFF_8000_0000_0000, True, True),
        (0xFFFF_FFFF_FFFF_FFFF, True, True),
    ],
)
def test_canonical_addresses_at_each_width(address: int, at_48: bool, at_57: bool) -> None:
    assert canonical(address, 48) is at_48
    assert canonical(address, 57) is at_57


@pytest.mark.parametrize("position", range(8))
def test_a_pat_is_legal_if_each_byte_is_a_memory_type(position: int) -> None:
    legal = {value for value in range(256) if pat_memory_types(value << 8 * position)}
    assert legal == MEMORY_TYPES


@pytest.mark.parametrize("neighbour", sorted(MEMORY_TYPES))
def test_bytes_of_a_pat_do_not_hide_one_another(neighbour: int) -> None:
    others = int.from_bytes(bytes([neighbour]) * 8, "little") & ~0xFF00
    assert not pat_memory_types(others | 0x0200)
    assert not pat_memory_types(others | 0x0800)


def test_bits_that_a_profile_does_not_tell_are_unknown_only_where_a_processor_may_have_them() -> (
    None
):
    assert only_known_bits(0b0101, 0b0101, 0b1111) is True
    assert only_known_bits(0b0010, 0b0101, 0b1111) is False
    assert only_known_bits(0, None, 0b1111) is True
    assert only_known_bits(0b0010, None, 0b1111) is None
    assert only_known_bits(0b1_0010, None, 0b1111) is False


def test_a_cr3_may_set_its_masking_bits_beyond_the_address_width() -> None:
    reserved = -(1 << 40) & 0xFFFF_FFFF_FFFF_FFFF
    legal = {bit for bit in range(64) if cr3_address_fits(1 << bit, reserved)}
    assert legal == {*range(40), 61, 62}


def test_alignment_is_to_the_size_and_not_to_half_of_it() -> None:
    assert aligned(192, 64)
    assert not aligned(96, 64)


def test_efer_bits_follow_the_features() -> None:
    both = frozenset({"nx", "long-mode"})
    assert efer_bits(Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE, both)
    assert not efer_bits(Efer.NXE, both - {"nx"})
    assert not efer_bits(Efer.LME, both - {"long-mode"})


def test_s_cet_bits_follow_the_features() -> None:
    assert s_cet_bits(SCet.SH_STK_EN | SCet.ENDBR_EN, frozenset({"cet-ss", "cet-ibt"}))
    assert not s_cet_bits(SCet.SH_STK_EN, frozenset({"cet-ibt"}))
    assert not s_cet_bits(SCet.ENDBR_EN, frozenset({"cet-ss"}))
    assert not s_cet_bits(0x1000, frozenset({"cet-ss"}))


@pytest.mark.parametrize("area", ["host", "guest"])
@pytest.mark.parametrize("value", [0x8005_0033, 0x8005_0033 | Cr0.NW | Cr0.CD])
def test_cache_bits_of_cr0_are_never_checked(area: str, value: int) -> None:
    # No processor fixes these bits; a table that does tells whether they are looked at.
    cache = Cr0.NW | Cr0.CD
    msrs = {
        MSR_IA32_VMX_CR0_FIXED0: 0x8000_0021 | cache,
        MSR_IA32_VMX_CR0_FIXED1: 0xFFFF_FFFF & ~cache,
    }
    profile = with_msrs(load_profile("skylake-x"), msrs)
    legal = {"host_cr0": 0x8005_0033, "guest_cr0": 0x8005_0033}
    attempt = with_fields(base("guest-64", profile), {**legal, f"{area}_cr0": value})
    assert vm_entry(attempt).broken_names == ()


@pytest.mark.parametrize("la57", [0, 0x1000])
def test_bases_and_msrs_are_held_against_the_width_of_the_processor_not_of_cr4(la57: int) -> None:
    attempt = base("guest-64", load_profile("everything"))
    wide = 0x00FF_FFFF_FFFF_FFFF
    fields = {f"host_{register}_base": wide for register in ("fs", "gs", "gdtr", "idtr", "tr")}
    fields |= {"host_ia32_sysenter_esp": wide, "host_ia32_sysenter_eip": wide}
    fields |= {"host_cr4": attempt.vmcs.host_cr4 | la57}
    assert vm_entry(with_fields(attempt, fields)).broken_names == ()


def test_a_host_without_nx_may_not_load_nxe() -> None:
    profile = load_profile("skylake-x")
    profile = replace(profile, features=profile.features - {"nx"})
    attempt = base("guest-64", profile)
    exit_controls = attempt.vmcs.vm_exit_controls | VmExit.LOAD_IA32_EFER
    found = vm_entry(with_fields(attempt, {"vm_exit_controls": exit_controls}))
    assert found.broken_names == ("host.efer.reserved",)

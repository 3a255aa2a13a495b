# SPDX-License-Identifier: GPL-2.0-only
"""Every bit of the control words, pointers and thresholds: what vectors show one example of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, Tertiary, VmFunction
from nvmxfuzz.cpu import execution_apic, execution_general, execution_translation
from nvmxfuzz.cpu.chapter import Chapter
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.inputs.bases import base, default_base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.profile import Profile, load_profile

CHAPTER = Chapter(
    (execution_general.SECTION, execution_apic.SECTION, execution_translation.SECTION), {}
)
PROFILES = ("skylake-x", "core2-x6800", "everything")
PAGES = {
    "execution.io-bitmap-a": "io_bitmap_a",
    "execution.io-bitmap-b": "io_bitmap_b",
    "execution.msr-bitmap": "msr_bitmap",
    "execution.virtual-apic": "virtual_apic_page_addr",
    "execution.apic-access": "apic_access_addr",
    "execution.vmread-bitmap": "vmread_bitmap",
    "execution.vmwrite-bitmap": "vmwrite_bitmap",
    "execution.pml": "pml_address",
    "execution.sub-page": "sub_page_permission_table_pointer",
    "execution.virtualization-exception": "ve_information_address",
    "execution.eptp-list": "eptp_list_address",
    "execution.low-pasid-directory": "low_pasid_directory_address",
    "execution.high-pasid-directory": "high_pasid_directory_address",
}


def start(profile: Profile) -> Attempt:
    return base(default_base(profile), profile)


def broken(attempt: Attempt, **fields: int) -> tuple[str, ...]:
    edited = replace(attempt, vmcs=attempt.vmcs.replace(fields))
    return CHAPTER.judge(Entry(edited)).broken_names


def with_everything(**fields: int) -> tuple[str, ...]:
    """Return the rules that break where every structure in memory is in use."""
    controls = {
        "pin_based_vm_exec_control": 0x16 | Pin.EXTERNAL_INTERRUPT_EXITING,
        "cpu_based_vm_exec_control": 0x0400_6172
        | Primary.USE_TPR_SHADOW
        | Primary.USE_IO_BITMAPS
        | Primary.USE_MSR_BITMAPS
        | Primary.ACTIVATE_SECONDARY_CONTROLS
        | Primary.ACTIVATE_TERTIARY_CONTROLS,
        "secondary_vm_exec_control": Secondary.VIRTUALIZE_APIC_ACCESSES
        | Secondary.ENABLE_EPT
        | Secondary.VIRTUAL_INTERRUPT_DELIVERY
        | Secondary.ENABLE_VM_FUNCTIONS
        | Secondary.VMCS_SHADOWING
        | Secondary.ENABLE_PML
        | Secondary.EPT_VIOLATION_VE
        | Secondary.PASID_TRANSLATION
        | Secondary.SUB_PAGE_WRITE_PERMISSIONS_FOR_EPT,
        "tertiary_vm_exec_control": Tertiary.ENABLE_HLAT | Tertiary.IPI_VIRTUALIZATION,
        "vm_function_control": VmFunction.EPTP_SWITCHING + 0,
    }
    return broken(start(load_profile("everything")), **(controls | fields))


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(
    ("word", "field"),
    [("pin", "pin_based_vm_exec_control"), ("primary", "cpu_based_vm_exec_control")],
)
def test_each_bit_of_a_word_keeps_to_the_capability_msr(name: str, word: str, field: str) -> None:
    attempt = start(load_profile(name))
    must, may = (
        getattr(attempt.profile.caps, f"{word}_must"),
        getattr(attempt.profile.caps, f"{word}_may"),
    )
    area = {"pin": "execution.pin-based", "primary": "execution.primary"}[word]
    for position in range(32):
        mask = 1 << position
        found = broken(attempt, **{field: getattr(attempt.vmcs, field) ^ mask})
        assert (f"{area}.must-be-1" in found) == (must & mask != 0)
        assert (f"{area}.may-be-1" in found) == (may & mask == 0)


@pytest.mark.parametrize(
    ("rule", "activate", "field", "width"),
    [
        ("secondary", Primary.ACTIVATE_SECONDARY_CONTROLS, "secondary_vm_exec_control", 32),
        ("tertiary", Primary.ACTIVATE_TERTIARY_CONTROLS, "tertiary_vm_exec_control", 64),
    ],
)
def test_each_bit_of_an_activated_word_keeps_to_its_msr(
    rule: str, activate: int, field: str, width: int
) -> None:
    attempt = start(load_profile("everything"))
    may = getattr(attempt.profile.caps, f"{rule}_may")
    primary = attempt.vmcs.cpu_based_vm_exec_control
    for position in range(width):
        edits = {field: 1 << position}
        idle = broken(attempt, **edits)
        found = broken(attempt, **edits, cpu_based_vm_exec_control=primary | activate)
        assert f"execution.{rule}.may-be-1" not in idle
        assert (f"execution.{rule}.may-be-1" in found) == (may >> position & 1 == 0)


def test_the_state_with_every_structure_in_use_is_legal() -> None:
    assert with_everything() == ()


@pytest.mark.parametrize("rule", PAGES)
def test_a_page_address_has_neither_low_nor_high_bits(rule: str) -> None:
    for position in range(64):
        aspect = "aligned" if position < 12 else "width"
        expected = (f"{rule}.{aspect}",) if not 12 <= position < 52 else ()
        assert with_everything(**{PAGES[rule]: 1 << position}) == expected


def test_the_tpr_threshold_is_compared_with_the_high_half_of_vtpr() -> None:
    attempt = start(load_profile("skylake-x"))
    primary = attempt.vmcs.cpu_based_vm_exec_control | Primary.USE_TPR_SHADOW
    for vtpr in range(256):
        at = replace(attempt, memory=Memory.of({0x25080: bytes([vtpr])}))
        for threshold in range(16):
            found = broken(at, cpu_based_vm_exec_control=primary, tpr_threshold=threshold)
            assert found == (("execution.tpr-threshold.vtpr",) if threshold > vtpr >> 4 else ())


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("skylake-x", {(0, 3), (6, 3)}),
        ("kvm-virtual", {(6, 3)}),
        ("everything", {(0, 3), (6, 3), (0, 4), (6, 4)}),
    ],
)
def test_eptp_has_the_memory_types_and_lengths_of_its_processor(
    name: str, legal: set[tuple[int, int]]
) -> None:
    attempt = start(load_profile(name))
    vmcs = attempt.vmcs
    controls = {
        "cpu_based_vm_exec_control": vmcs.cpu_based_vm_exec_control
        | Primary.ACTIVATE_SECONDARY_CONTROLS,
        "secondary_vm_exec_control": Secondary.ENABLE_EPT + 0,
    }
    found = {
        (kind, length)
        for kind in range(8)
        for length in range(8)
        if not broken(attempt, **controls, ept_pointer=0x2A000 | length << 3 | kind)
    }
    assert found == legal


def test_posted_interrupts_alone_lack_everything_they_need() -> None:
    attempt = start(load_profile("skylake-x"))
    assert broken(attempt, pin_based_vm_exec_control=0x16 | Pin.PROCESS_POSTED_INTERRUPTS) == (
        "execution.posted-interrupts.delivery",
        "execution.posted-interrupts.acknowledge",
    )

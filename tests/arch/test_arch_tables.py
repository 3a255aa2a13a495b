# SPDX-License-Identifier: GPL-2.0-only
"""What must hold within the tables, whatever the kernel's headers say."""

from itertools import combinations

import pytest

from nvmxfuzz.arch import controls, msr, paging, registers, sections, vmx_msr
from nvmxfuzz.arch.bits import named_bits, named_numbers
from nvmxfuzz.arch.entry_failures import EntryFailure
from nvmxfuzz.arch.events import (
    VECTORS_WITH_ERROR_CODE,
    Activity,
    EventType,
    Interruptibility,
    InterruptionInfo,
    PendingDebug,
    Vector,
)
from nvmxfuzz.arch.exit_reasons import ExitReason, ExitReasonField, VmxAbort
from nvmxfuzz.arch.features import FEATURES
from nvmxfuzz.arch.instruction_errors import InstructionError
from nvmxfuzz.arch.segments import SEGMENTS, AccessRights, SegmentType, Selector

WORDS_32 = (
    controls.Pin,
    controls.Primary,
    controls.Secondary,
    controls.VmExit,
    controls.VmEntry,
    InterruptionInfo,
    Interruptibility,
    AccessRights,
    ExitReasonField,
)
WORDS_64 = (
    controls.Tertiary,
    controls.VmExit2,
    controls.VmFunction,
    PendingDebug,
    paging.Eptp,
    paging.Hlatp,
    paging.Pdpte,
    vmx_msr.VmxBasic,
    vmx_msr.VmxMisc,
    vmx_msr.EptVpidCap,
    *(
        table
        for table in vars(registers).values()
        if isinstance(table, type) and table.__module__ == registers.__name__
    ),
)
# CR3 is read in two ways: its low bits are PWT and PCD, or the PCID.
OVERLAPPING = {(registers.Cr3, "PCID"), (InterruptionInfo, "RESERVED")}
NUMBERS = (Activity, EventType, EntryFailure, ExitReason, InstructionError, Vector, VmxAbort)


@pytest.mark.parametrize("word", [*WORDS_32, *WORDS_64])
def test_no_two_masks_of_a_word_overlap(word: type) -> None:
    masks = {name: bit for name, bit in named_bits(word).items() if (word, name) not in OVERLAPPING}
    for (name, one), (other_name, other) in combinations(masks.items(), 2):
        assert one & other == 0, (name, other_name)


@pytest.mark.parametrize("word", WORDS_32)
def test_masks_of_narrow_words_are_narrow(word: type) -> None:
    assert all(0 < bit < 1 << 32 for bit in named_bits(word).values())


@pytest.mark.parametrize("word", WORDS_64)
def test_masks_of_wide_words_fit(word: type) -> None:
    assert all(0 < bit < 1 << 64 for bit in named_bits(word).values())


@pytest.mark.parametrize("word", [*WORDS_32, *WORDS_64])
def test_every_mask_has_a_name_of_its_own(word: type) -> None:
    names = [bit.sdm_name for bit in named_bits(word).values()]
    assert names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("table", NUMBERS)
def test_every_number_is_there_once(table: type) -> None:
    numbers = list(named_numbers(table).values())
    assert numbers
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("word", [registers.Rflags, registers.Efer, AccessRights, PendingDebug])
def test_reserved_bits_are_those_without_a_name(word: type) -> None:
    width = 32 if word in WORDS_32 else 64
    everything = 0
    for bit in named_bits(word).values():
        everything |= bit
    assert everything == (1 << width) - 1


def test_reserved_bits_of_an_injected_event_include_those_of_exits_only() -> None:
    fields = (
        InterruptionInfo.VECTOR
        | InterruptionInfo.TYPE
        | InterruptionInfo.DELIVER_ERROR_CODE
        | InterruptionInfo.NESTED_EXCEPTION
        | InterruptionInfo.VALID
    )
    assert 0xFFFF_FFFF ^ fields == InterruptionInfo.RESERVED
    assert InterruptionInfo.RESERVED & InterruptionInfo.NMI_UNBLOCKING


def test_vectors_with_an_error_code() -> None:
    vectors = [vector for vector in range(32) if VECTORS_WITH_ERROR_CODE >> vector & 1]
    assert vectors == [8, 10, 11, 12, 13, 14, 17]


def test_the_capability_msrs_are_a_range_without_a_gap() -> None:
    indices = [index for index, _ in msr.VMX_CAPABILITY_MSRS]
    assert indices == list(range(0x480, 0x494))
    for index, name in msr.VMX_CAPABILITY_MSRS:
        assert getattr(msr, f"MSR_{name}") == index


def test_segments_and_their_types() -> None:
    assert SEGMENTS == ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
    assert SegmentType.BUSY_64_TSS == SegmentType.BUSY_32_TSS == 0xB
    whole = Selector.RPL | Selector.TI | Selector.INDEX
    assert whole == 0xFFFF


def test_features_and_sections_are_named_once() -> None:
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
    assert len(set(sections.SECTIONS)) == len(sections.SECTIONS) == 15

# SPDX-License-Identifier: GPL-2.0-only
"""Raw JSON: what the page about it says, and one sentence for everything else."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import ZERO, EntryCase
from nvmxfuzz.inputs.load import load_case, load_vector
from nvmxfuzz.inputs.raw_json import dump_raw, load_raw
from nvmxfuzz.inputs.text import dump_text, load_text
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.machine.vmcs import Vmcs

SKYLAKE = load_profile("skylake-x")


def load(text: str) -> EntryCase:
    return load_raw(text.encode(), "x.json")


def test_a_file_of_every_key_is_read() -> None:
    case = load(
        """{"format": 1, "note": "n",
        "profile": {"msrs": {"0x480": "0x1", "1153": 2}, "maxphyaddr": 40,
                    "linear_address_bits": 57, "features": ["nx"]},
        "processor": {"cr0": "0x1", "cr3": 2, "cr4": "3", "efer": 4, "cpl": "3", "in_smm": true,
                      "blocking_by_mov_ss": true, "vmxon_pointer": "0xffffffffffffffff",
                      "current_vmcs": 18446744073709551615},
        "instruction": "vmresume", "launch_state": "launched",
        "vmcs": {"0x6820": "0x2", "GUEST_RIP": 3}, "memory": {"0x23000": "00 11", "5": "ff"}}"""
    )
    profile = Profile.from_mapping(
        {
            "msrs": {"0x480": 1, "0x481": 2},
            "maxphyaddr": 40,
            "linear_address_bits": 57,
            "features": ["nx"],
        }
    )
    none = (1 << 64) - 1
    processor = Processor(
        cr0=1,
        cr3=2,
        cr4=3,
        efer=4,
        cpl=3,
        in_smm=True,
        blocking_by_mov_ss=True,
        vmxon_pointer=none,
        current_vmcs=none,
    )
    vmcs = Vmcs({"guest_rflags": 2, "guest_rip": 3})
    memory = Memory(((5, b"\xff"), (0x23000, b"\x00\x11")))
    assert case == EntryCase(Attempt(profile, vmcs, processor, memory, "vmresume", "launched"))
    assert case.note == "n"


def test_only_the_vmcs_has_to_be_there() -> None:
    assert load('{"vmcs": {}}') == EntryCase(Attempt(SKYLAKE, Vmcs()), ZERO)


@pytest.mark.parametrize(
    "fields",
    ['"0x2001": "0x12", "0x2000": "0xaaaaaaaabbbbbbbb"', '"0x2000": 3149642683, "0x2001": 18'],
)
def test_the_high_half_wins_over_the_whole(fields: str) -> None:
    assert load(f'{{"vmcs": {{{fields}}}}}').attempt.vmcs.io_bitmap_a == 0x12_BBBB_BBBB


@settings.get_profile("repeatable")
@given(st.data())
def test_a_case_comes_back_from_its_json(
    entry_cases: st.SearchStrategy[EntryCase], data: st.DataObject
) -> None:
    case = data.draw(entry_cases)
    text = json.dumps(dump_raw(case))
    assert load(text).attempt == case.attempt


def test_a_profile_of_its_own_comes_back() -> None:
    profile = Profile.from_mapping({"msrs": {"0x480": 1 << 63}, "rtit_ctl_mask": 7})
    case = EntryCase(replace(base("guest-pae", SKYLAKE), profile=profile))
    assert load(json.dumps(dump_raw(case))) == case


def test_a_raw_case_can_be_written_as_toml() -> None:
    case = load('{"vmcs": {"0x6820": 7}, "memory": {"0x23000": "0011"}, "profile": {}}')
    assert load_text(dump_text(case).encode(), "x").case == case


def test_a_file_is_told_by_its_first_character() -> None:
    assert load_case(b' \n{"vmcs": {}}', "x") == load('{"vmcs": {}}')
    assert load_vector(b'profile = "yonah"', "x").case.profile.name == "yonah"
    for empty in (b"", b" \n\t\r\n"):
        with pytest.raises(InputError, match=r"x: the file is empty"):
            load_vector(empty, "x")
    with pytest.raises(InputError, match="is no object"):
        load_case(b'[{"vmcs": {}}]', "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON document"),
        ("{", "no JSON document"),
        ("[]", "is no object"),
        ("{}", "the key 'vmcs' is missing"),
        ('{"vmcs": {}} {"vmcs": {}}', "Extra data"),
        ('{"vmcs": {}, "vmcs": {}}', "the key 'vmcs' is there twice"),
        ('{"vmcs": []}', "vmcs is a list; give a table (in JSON an object)"),
        ('{"vmcs": {"0x6820": NaN}}', "NaN is no whole number"),
        ('{"vmcs": {"0x6820": 1.0}}', "1.0 is no whole number"),
        ('{"vmcs": {"0x6820": -1}}', "guest_rflags (0x6820) is -0x1"),
        ('{"vmcs": {"0x6820": null}}', "0x6820 is null"),
        ('{"vmcs": null}', "vmcs is null; give a table"),
        ('{"vmcs": {"0x6820": {}}}', "0x6820 is a table"),
        ('{"vmcs": {"0x6820": true}}', "0x6820 is true"),
        ('{"vmcs": {"0x6820": "0x10000000000000000"}}', "it has 64 bits"),
        ('{"vmcs": {"0x2001": "0x100000000"}}', "it has 32 bits"),
        ('{"vmcs": {"0x6820": ' + "9" * 5000 + "}}", "no JSON document"),
        ('{"vmcs": {"0x6820": "' + "9" * 5000 + '"}}', "give a number"),
        ('{"vmcs": {"0x6821": 1}}', "no VMCS field has the encoding 0x6821"),
        ('{"vmcs": {"0x9999": 1}}', "no VMCS field has the encoding 0x9999"),
        ('{"vmcs": {"0x6820": 1, "guest_rflags": 1}}', "guest_rflags is given twice"),
        ('{"vmcs": {"guest_rflag": 1}}', "did you mean 'guest_rflags'?"),
        ('{"vmcs": {}, "memroy": {}}', "did you mean 'memory'?"),
        ('{"vmcs": {}, "memory": {"0x1": "0"}}', "give pairs of hex digits"),
        ('{"vmcs": {}, "memory": {"x": "00"}}', "an address in memory is 'x'"),
        ('{"vmcs": {}, "processor": {"cr1": 1}}', "processor has no key 'cr1'"),
        ('{"vmcs": {}, "processor": {"cpl": 4}}', "cpl is 0x4; it has 2 bits"),
        ('{"vmcs": {}, "instruction": "vmxoff"}', "instruction is 'vmxoff'"),
        ('{"vmcs": {}, "launch_state": ["clear"]}', "launch_state is a list"),
        ('{"vmcs": {}, "profile": {"msr": {}}}', "no key 'msr'"),
        ('{"vmcs": {}, "profile": "skylake-y"}', "did you mean 'skylake-x'?"),
        ('{"vmcs": {}, "note": "\\ud800"}', "no JSON document"),
        ('{"vmcs": {}, "format": 7}', "format 0x7 is newer"),
        ('{"vmcs": ' + "[" * 200_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(InputError) as problem:
        load(text)
    assert str(problem.value).startswith("x.json: ")
    assert message in str(problem.value)
    assert len(str(problem.value)) < 1000
    assert "\n" not in str(problem.value)

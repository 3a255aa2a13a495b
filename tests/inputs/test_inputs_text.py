# SPDX-License-Identifier: GPL-2.0-only
"""TOML: what is written is read back, and whatever else is in a file is one sentence."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import ConfigCase, EntryCase, SlotCase
from nvmxfuzz.inputs.difference import Edit, differences
from nvmxfuzz.inputs.expectation import ConfigExpectation, Expectation, Vector, parse_outcome
from nvmxfuzz.inputs.text import dump_text, load_text
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outcome import (
    ENTERED,
    FAIL_INVALID,
    Outcome,
    exit_on_entry,
    fail_valid,
    fault,
)
from nvmxfuzz.machine.profile import Profile, load_profile

EXAMPLE = """\
format = 1
note = "Bit 3 of RFLAGS is reserved"
profile = "skylake-x"
base = "guest-64"

[vmcs]
guest_rflags = 0x000000000000000a

[processor]
cpl = 0x3

[memory]
vtpr = 0x00000010
"0x99000" = "00112233"

[expect]
broken = ["guest.rflags.reserved"]
held = ["basic.cpl.zero"]
outcome = ["fail-valid 7", "exit 33 qualification 0"]
"""


def load(text: str) -> Vector:
    return load_text(text.encode(), "x.toml")


def load_entry(text: str) -> EntryCase:
    case = load(text).case
    assert isinstance(case, EntryCase)
    return case


@settings.get_profile("repeatable")
@given(st.data(), st.text(max_size=20))
def test_a_case_comes_back_from_its_text(
    cases: st.SearchStrategy[SlotCase], data: st.DataObject, note: str
) -> None:
    case = replace(data.draw(cases), note=note)
    text = dump_text(case)
    assert load(text).case == case
    assert load(text).note == note
    assert dump_text(load(text)) == text


def test_the_example_is_canonical() -> None:
    vector = load(EXAMPLE)
    assert vector.note == "Bit 3 of RFLAGS is reserved"
    assert isinstance(vector.case, EntryCase)
    assert [change for change in differences(vector.case) if isinstance(change, Edit)] == [
        Edit("guest_rflags", 0xA),
        Edit("cpl", 3),
        Edit("vtpr", 0x10),
    ]
    assert load_entry(EXAMPLE).attempt.memory.read(0x99000, 4) == b"\x00\x11\x22\x33"
    assert vector.expectation == Expectation(
        broken=("guest.rflags.reserved",),
        held=("basic.cpl.zero",),
        outcome=(exit_on_entry(33), fail_valid(7)),
    )
    assert dump_text(vector) == EXAMPLE.replace(
        '["fail-valid 7", "exit 33 qualification 0"]', '["exit 33 qualification 0", "fail-valid 7"]'
    )


def test_everything_has_a_default() -> None:
    vector = load("")
    assert vector.case == EntryCase(base("guest-64", load_profile("skylake-x")), "guest-64")
    assert vector.expectation is None
    assert load('profile = "yonah"').case.base == "guest-32"


def test_a_config_says_what_it_changes() -> None:
    text = (
        'format = 1\nharness = "capability_config"\nprofile = "skylake-x"\nfamily = 0x00f\n'
        'stepping = 0x5\nkernel = "5.18"\n'
        "error_on_inconsistent_vmcs_config = false\nenlightened_vmcs = false\n\n"
        '[msrs]\nIA32_VMX_PINBASED_CTLS = 0x0000000000000005\nIA32_VMX_VMFUNC = "absent"\n\n'
        '[expect]\noutcome = "accepted"\nwarnings = ["vmfunc"]\n\n'
        "[expect.config]\npin_based_exec_ctrl = 0x16\n"
    )
    vector = load(text)
    case = vector.case
    assert isinstance(case, ConfigCase)
    assert (case.kernel, case.profile.family, case.profile.stepping) == ("5.18", 15, 5)
    assert (case.error_on_inconsistent, case.enlightened_vmcs) == (False, False)
    assert case.profile.msrs[0x481] == 5
    assert 0x491 not in case.profile.msrs
    assert vector.expectation == ConfigExpectation(
        "accepted", ("vmfunc",), {"pin_based_exec_ctrl": 0x16}
    )
    assert dump_text(vector) == text
    assert load(text.replace("IA32_VMX_PINBASED_CTLS", '"0x481"')) == vector


def test_a_profile_can_be_described_in_full() -> None:
    profile = Profile.from_mapping(
        {"msrs": {"0x480": 1 << 63}, "features": ["nx"], "debugctl_mask": 3, "note": 'a "b"\n\x7f'}
    )
    entry = EntryCase(base("guest-32", profile), "guest-32")
    config = ConfigCase(profile, kernel="6.1", evmcs=True)
    told = ConfigCase(profile, "skylake-x")
    for case in (entry, config, told):
        assert load(dump_text(case)).case == case


def test_memory_can_lose_what_a_base_has() -> None:
    case = load_entry('[memory]\n"0x24000" = "unbacked 4096"')
    assert case.attempt.memory.read(0x24000, 32) == b"\xff" * 32
    assert load(dump_text(case)).case == case


def test_ranges_of_memory_win_over_words() -> None:
    case = load_entry('[memory]\n"0x24000" = "05"\npdpte0 = 0x1122')
    assert case.attempt.memory.read(0x24000, 2) == b"\x05\x11"
    assert case.attempt.memory != Memory()


@pytest.mark.parametrize(
    "outcome", [ENTERED, FAIL_INVALID, fail_valid(7), fault(6), exit_on_entry(34, 1)]
)
def test_an_outcome_is_read_as_it_is_written(outcome: Outcome) -> None:
    assert parse_outcome(str(outcome)) == outcome


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format = 2", "format 0x2 is newer than the newest known one, 1"),
        ("format = 'one'", "format is 'one'"),
        ("note = 3", "note is 0x3; give a text"),
        ("harness = 'vmentry'", "harness is 'vmentry'; give one of vm_entry, capability_config"),
        ("profile = 'skylake'", "no profile is named 'skylake'"),
        ("profile = 3", "profile is 0x3"),
        ("[profile]\nmaxphyaddr = 99", "maxphyaddr"),
        ("base = 'guest-46'", "did you mean 'guest-64'?"),
        ("instruction = 'vmcall'", "instruction is 'vmcall'; give one of vmlaunch, vmresume"),
        ("kernel = '6.1'", "this case has no key 'kernel'"),
        ("vcms = 1", "no key 'vcms' (did you mean 'vmcs'?)"),
        ("vmcs = 1", "vmcs is 0x1; give a table"),
        ("[vmcs]\nguest_rflag = 1", "no field 'guest_rflag' (did you mean 'guest_rflags'?)"),
        ("[vmcs]\nguest_cs_selector = 0x10000", "guest_cs_selector is 0x10000; it has 16 bits"),
        ("[vmcs]\nguest_rip = -1", "guest_rip is -0x1"),
        ("[vmcs]\nguest_rip = '0x1'", "guest_rip is the text '0x1'"),
        ("[vmcs]\nguest_rip = true", "guest_rip is true"),
        ("[vmcs]\nguest_rip = {}", "guest_rip is a table"),
        ("[vmcs]\nguest_rip = 2024-01-02", "guest_rip is 2024-01-02"),
        ("[vmcs]\nguest_rip = 1.5", "guest_rip is 1.5"),
        ("[vmcs]\nguest_rip = " + "9" * 5000, "no TOML"),
        ("[vmcs]\nguest_rip = 0x" + "9" * 5000, "a number of 20000 bits"),
        ("[processor]\nin_smm = 1", "in_smm is 0x1; give true or false"),
        ("[memory]\n'0x1' = 'abc'", "memory at 0x1 is 'abc'"),
        ("[memory]\n'0x1' = 5", "memory at 0x1 is 0x5"),
        ("[memory]\n'0x1' = 'unbacked many'", "the size of what is unbacked at 0x1"),
        ("[memory]\n'0x1' = 'unbacked 99999999'", "bytes are unbacked at 0x1"),
        (
            "[memory]\n'0x1' = 'unbacked 4000'\n'0x2' = 'unbacked 4000'",
            "more than 0x1000 bytes are unbacked",
        ),
        ("[memory]\n'0x1ffffffffffffff' = '00'", "no physical address"),
        ("[memory]\n'0xfffffffffffff' = '0000'", "goes beyond 52 address bits"),
        ("[memory]\nvtrp = 1", "(did you mean 'vtpr'?)"),
        ("[expect]\nbroke = []", "expect has no key 'broke' (did you mean 'broken'?)"),
        ("[expect]\nbroken = 'x'", "broken is 'x'; give a list of names"),
        ("[expect]\noutcome = 'exit 33'", "'exit 33' is no outcome"),
        ("[expect]\noutcome = [3]", "outcome is a list"),
        ("harness = 'capability_config'\nkernel = '4.4'", "give one of 5.18, 6.1, 6.12"),
        ("harness = 'capability_config'\nbase = 'yonah'", "base is given beside"),
        ("harness = 'capability_config'\nbase = 'x'\n[profile]", "no profile is named 'x'"),
        ("harness = 'capability_config'\n[msrs]\n'0x500' = 1", "'0x500' is no VMX capability MSR"),
        ("harness = 'capability_config'\n[msrs]\nIA32_VMX_MISK = 1", "ia32_vmx_misc"),
        (
            "harness = 'capability_config'\n[msrs]\n'0x485' = 1\nIA32_VMX_MISC = 1",
            "ia32_vmx_misc is given twice",
        ),
        ("harness = 'capability_config'\n[expect]\noutcome = 'maybe'", "outcome is 'maybe'"),
        ("x = 1\nx = 2", "this is no TOML"),
        ("x = " + "[" * 100_000, "nested too deeply"),
        ("a." * 100_000 + "a = 1", "more than 8 dots"),
        ("note = '" + "x" * 5000 + "'", "note has more than 4096 characters"),
        ("#" * (1 << 20) + "#", "more than 1048576 bytes"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(InputError) as problem:
        load(text)
    assert str(problem.value).startswith("x.toml: ")
    assert message in str(problem.value)
    assert len(str(problem.value)) < 1000
    assert "\n" not in str(problem.value)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match=r"x: byte 3 is no UTF-8"):
        load_text(b"a=1\xff", "x")

# SPDX-License-Identifier: GPL-2.0-only
"""MSR tables as people have them, and as nobody should have them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.msr_table import MAX_BYTES, parse_processor

BASIC = 0x00DA_0400_0000_0010
PIN = 0x0000_007F_0000_0016
WANTED = {0x480: BASIC, 0x481: PIN}


def table(data: bytes) -> dict[int, int]:
    return dict(parse_processor(data).msrs)


def parse(text: str) -> dict[int, int]:
    return table(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "0x480 = 0xda040000000010\n0x481 = 0x7f00000016\n",
        "480: 00da040000000010\r\n481: 0000007f00000016\r\n",
        "# a comment\n\n481 7f00000016  # another\n0X480\t0XDA040000000010",
        "0x480, 0xda040000000010,\n0x481, 0x7f00000016,",
        "IA32_VMX_BASIC: 0xda040000000010\nMSR_IA32_VMX_PINBASED_CTLS=7f00000016",
        "MSR 0x480 (IA32_VMX_BASIC): 0xda04_0000_0000_10\nmsr: 481 -> 7f`00000016",
        "IA32_VMX_BASIC (0x480) => 0xda040000000010\nIA32_VMX_PINBASED_CTLS (0x481) 7f00000016",
        "[    1.234567] 0x480 = 0xda040000000010\n[   12.000001][ T123] 481: 7f00000016\n",
        "<4>[    1.2] 0x480 = 0xda040000000010\n<6>0x481 = 0x7f00000016\n",
        "Nov 20 05:46:01 host kernel: [ 1.5] 0x480 = 0xda040000000010\n"
        "2024-11-20T05:46:01+0100 host kernel[1]: 0x481 = 0x7f00000016\n",
        "0x480 = 0xda040000000010\n0x481 = 0x7f00000016\n0x48c = -\n0x492: #GP\n0x3a = 5\n",
        "0x480 = 0xda040000000010\n0x481 = 0x7f00000016\nIA32_FEATURE_CONTROL = 0x5\n",
        "$ rdmsr 0x480\nda040000000010\n$ rdmsr 0x481\n7f00000016\n",
        "root@host:~# sudo rdmsr -p 3 -0 0x480\n00da040000000010\n# rdmsr -xa 1153\n"
        "7f00000016\n7f00000016\n",
        "rdmsr -u 0x480\n61365942969434128\nrdmsr -o 0x481\n7740000000026\n",
        "rdmsr -c 0x480\n0xda040000000010\nrdmsr --decimal 0x481\n545460846614\nrdmsr 0x491\n"
        "rdmsr: CPU 0 cannot read MSR 0x00000491\n",
        "rdmsr 0x480: 0xda040000000010\nrdmsr 0x481 = 7f00000016",
        "rdmsr --processor=3 0x480\nda040000000010\nrdmsr --processor 3 0x481\n7f00000016",
        "rdmsr -p 3 0x480\nda040000000010\nrdmsr -p3 0x481\n7f00000016",
        '{"msrs": {"0x480": "0xda040000000010", "0x481": 545460846614}}',
        '{"0x480": "0xda040000000010", "0x481": "0x7f00000016"}',
        '{"format": 1, "profile": {"msrs": {"0x480": "0xda040000000010", "0x481": '
        '"0x7f00000016"}}}',
        'name = "mine"\n[msrs]\n"0x480" = 0xda040000000010\n"0x481" = "0x7f00000016"\n',
        'msrs = { "0x480" = 0xda040000000010, "0x481" = 0x7f00000016 }\n',
    ],
)
def test_a_table_is_understood(text: str) -> None:
    assert parse(text) == WANTED
    assert table(b"\xef\xbb\xbf" + text.encode()) == WANTED
    assert table(text.encode("utf-16")) == WANTED


def test_a_virtualbox_log() -> None:
    new = (
        "00:00:04.809259 HM: Host CR4                          = 0x370678\n"
        "00:00:04.809262 HM: MSR_IA32_VMX_BASIC                = 0xda040000000010\n"
        "00:00:04.809263 HM:   VMCS id                           = 0x10\n"
        "00:00:04.809266 HM: MSR_IA32_VMX_PINBASED_CTLS        = 0x7f00000016\n"
        "00:00:04.809266 HM:   EXT_INT_EXIT\n"
        "00:00:04.809480 Gst: 00000000/0000  00000016 756e6547 6c65746e 49656e69\n"
    )
    old = (
        "00:00:00.683 HWACCM: MSR_IA32_FEATURE_CONTROL      = 5\n"
        "00:00:00.683 HWACCM: MSR_IA32_VMX_BASIC_INFO       = da040000000010\n"
        "00:00:00.683 HWACCM: MSR_IA32_VMX_PINBASED_CTLS    = 7f00000016\n"
        "00:00:00.683 HWACCM:    MSR_IA32_VMX_MISC_CR3_TARGET      4\n"
        "00:00:00.683 HM: MSR_IA32_VMX_MISC_CR3_TARGET      = 4\n"
    )
    assert parse(new) == WANTED
    assert parse(old) == WANTED
    caps = "00:00:00.683 HWACCM: MSR_IA32_VMX_EPT_VPID_CAPS    = f0106114141\n"
    assert parse(old + caps) == {**WANTED, 0x48C: 0xF01_0611_4141}


def test_what_a_profile_says_beside_its_msrs_is_kept() -> None:
    profile = parse_processor(b'{"family": 6, "model": 26, "msrs": {}}', "mine")
    assert (profile.name, profile.family, profile.model) == ("mine", 6, 26)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no capability MSR"),
        ("# only a comment\n", "no capability MSR"),
        ("0x480 = 0x1\n\nhello\n", "line 3: 'hello' is no MSR"),
        ("0x480 =\n", "line 1: '0x480 =' is no MSR"),
        ("0x480 = 0x1\n480 = 1\n", "line 2: MSR 0x480 was already given on line 1"),
        ("0x480 = 0x1\nIA32_VMX_BASIC = 1\n", "line 2: MSR 0x480 was already"),
        ("0x480 = 0x10000000000000000\n", "line 1: .* more than 64 bits"),
        ("0x100000000 = 0x1\n", "line 1: .* more than 32 bits"),
        ("0x480 = 12g\n", "line 1: '12g' is no hexadecimal number"),
        ("0x480 = -1\n", "line 1: '-1' is no hexadecimal number"),
        ("IA32_VMX_BASICS = 1\n", "line 1: no VMX capability MSR is named"),
        ("x" * 2000, "line 1: this is longer than"),
        ("rdmsr 0x480\nrdmsr 0x481\n7f\n", "line 1: the value is missing .* 0x480"),
        ("0x481 = 1\nrdmsr 0x480\n", "line 2: the value is missing"),
        ("rdmsr 0x480\n0x481 = 1\n", "line 1: the value is missing"),
        ("rdmsr -a 0x480\n1\n2\n", "line 3: MSR 0x480 differs between processors"),
        ("rdmsr -r 0x480\n1\n", "line 1: .* raw bytes"),
        ("rdmsr -d 0x480\nff\n", "line 2: 'ff' is no number as rdmsr prints it"),
        ("rdmsr -u 0x480\n18446744073709551616\n", "line 2: .* more than 64 bits"),
        ("rdmsr 0x480 0x481\n1\n", "line 1: .* no single MSR"),
        ("rdmsr 0x480\nhello\n", "line 2: 'hello' is no hexadecimal"),
        ("rdmsr 0x480\n1\nrdmsr 0x480\n1\n", "line 3: MSR 0x480 was already given on line 1"),
        ("HM: MSR_IA32_VMX_BASIC = zz\n", "line 1: 'zz' is no hexadecimal"),
        ("a\nHM: MSR_IA32_VMX_MISC = 1\nHM: MSR_IA32_VMX_MISC = 1\n", "line 3: MSR 0x485"),
        ("{", "line 1: this is not JSON"),
        ('{"msrs": {"0x480": 1,\n"0x480": 2}}', "line 2: '0x480' is given twice"),
        ('{"msrs": {"0x480": 1,\n"0x481": "zz"}}', "line 2: MSR 0x481 is 'zz'"),
        ('{"msrs": {"0x500": 1}}', "line 1: '0x500' is no VMX capability MSR"),
        ('{"msrs": [1]}', "msrs of a profile is a list"),
        ('{"profile": 5}', "neither a name nor a table"),
        ('{"profile": "no such"}', "no profile is named"),
        ('{"msrs": {"0x480": ' + "9" * 5000 + "}}", "too long a number"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('[msrs]\n"0x480" = 1\n"0x480" = 2\n', "no TOML: .*line 3"),
        ('[msrs]\n"0x480" = 1\n"0x0480" = 2\n', "line 3: MSR 0x480 was already given on line 2"),
        ('{"msrs": {"0x480": 1,\n"0x0480": 2}}', "line 2: MSR 0x480 was already .* line 1"),
        ('# "0x480" = 1\n# 0x480, 0x480 = 1\n[msrs]\n"0x480" = 1.5\n', "line 4: MSR 0x480 is 1.5"),
        ('[msrs]\n"0x480" = "1_0"\n', "line 2: MSR 0x480 is '1_0'"),
        ("0x48c = -\x0c\u2028\n0x480 = zz", "line 2: 'zz' is no hexadecimal"),
        ("rdmsr \u0663\n1\n", "line 1: .* is no MSR"),
        ('{"msrs": {"0x480": 1}, "profile": "skylake-x"}', "leave one of them out"),
        ("[msrs]\n" + "a." * 100_000 + "a = 1", "dots"),
        ('[msrs]\n"0x480" = 1.5\n', "line 2: MSR 0x480 is 1.5"),
        ("[msrs]\nx = " + "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_table_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_a_long_file_is_refused_unread() -> None:
    with pytest.raises(InputError, match="too long"):
        parse_processor(b" " * (MAX_BYTES + 1))


@pytest.mark.parametrize("line", ["rdmsr " * 170, "0x480 " * 170, "a" * 1024, "- " * 500])
def test_a_hostile_line_takes_no_time(line: str) -> None:
    with pytest.raises(InputError):
        parse((line + "\n") * 900)


FRAGMENTS = [
    "0x480",
    " = ",
    "0xda04",
    "\n",
    "rdmsr ",
    "-a ",
    "HM: MSR_IA32_VMX_BASIC = ",
    "[msrs]\n",
    '{"msrs": {',
    '"0x480"',
    ":",
    "}}",
    "#",
    "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
    "[ 1.0] ",
]


def answer(data: bytes) -> dict[int, int] | str:
    """Return the table, or the sentence; anything else that is raised goes through."""
    try:
        return table(data)
    except InputError as error:
        return str(error)


@settings(settings.get_profile("repeatable"), max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(FRAGMENTS)).map("".join)))
def test_anything_is_a_table_or_a_sentence(data: bytes | str) -> None:
    found = answer(data if isinstance(data, bytes) else data.encode())
    if isinstance(found, str):
        assert "\n" not in found
        assert found.encode()
    else:
        assert all(0x480 <= index <= 0x493 for index in found)
        assert all(0 <= value < 1 << 64 for value in found.values())


@settings.get_profile("repeatable")
@given(st.dictionaries(st.integers(0x480, 0x493), st.integers(0, (1 << 64) - 1), min_size=1))
def test_what_is_written_is_read_back(msrs: dict[int, int]) -> None:
    assert parse("".join(f"{index:#x} = {value:#x}\n" for index, value in msrs.items())) == msrs

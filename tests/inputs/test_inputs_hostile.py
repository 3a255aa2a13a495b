# SPDX-License-Identifier: GPL-2.0-only
"""Whatever a file holds, reading it gives a case or one sentence, soon."""

import json
import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case, EntryCase
from nvmxfuzz.inputs.document import MAX_BYTES
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.inputs.raw_json import dump_raw
from nvmxfuzz.inputs.strategies import migration_cases, restore_cases
from nvmxfuzz.inputs.text import dump_text


def read(data: bytes) -> None:
    """Read a file; only an InputError of one line, with the name of the file, may come of it."""
    said = "file: "
    try:
        load_vector(data, "file")
    except InputError as problem:
        said = str(problem)
    assert said.startswith("file: ")
    assert "\n" not in said


def damaged(data: bytes, random: Random) -> bytes:
    """Return `data` with a cut, a changed byte, or a piece of it repeated."""
    at, other = sorted((random.randrange(len(data)), random.randrange(len(data))))
    piece = bytes(random.choices(b'[]{}"=.\\\n0x9,:-\xff\0', k=random.randrange(1, 4)))
    return random.choice(
        (data[:at], data[:at] + piece + data[at + 1 :], data[:at] + data[at:other] * 2 + data[at:])
    )


@settings.get_profile("repeatable")
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    read(data)
    read(b"{" + data)


@settings.get_profile("repeatable")
@given(st.data(), st.randoms(use_true_random=False))
def test_a_damaged_file(
    cases: st.SearchStrategy[Case], data: st.DataObject, random: Random
) -> None:
    case = data.draw(st.one_of(cases, restore_cases(), migration_cases()))
    files = [dump_text(case).encode()]
    if isinstance(case, EntryCase):
        files.append(json.dumps(dump_raw(case)).encode())
    for file in files:
        for _ in range(10):
            read(damaged(file, random))


@pytest.mark.parametrize(
    "piece",
    [
        b"a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a\n",
        b"[a.a.a.a]\n",
        b"[[a]]\n",
        b"x={a={a={a={",
        b'"""',
        b"a=[",
        b"[vmcs]\n",
        b"a" * 50 + b"." + b"\n",
        b'{"memory":{',
        b'{"a":[',
        b'[memory]\n"0x1"="' + b"00" * 10_000,
        b"\\",
        b"1e9999,",
    ],
)
def test_a_file_of_one_piece_repeated_is_read_soon(piece: bytes) -> None:
    start = time.process_time()
    read((piece * (MAX_BYTES // len(piece) + 1))[:MAX_BYTES])
    read(b'{"vmcs":{},"memory":{' + (piece * (MAX_BYTES // len(piece)))[: MAX_BYTES - 100])
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "data",
    [
        b"\n".join(b"k%d" % number + b".a" * 490 + b"=1" for number in range(1000)),
        b"\n".join(b"[t%d" % number + b".a" * 490 + b"]" for number in range(1000)),
        '"\u2028".'.encode() * 100_000,
        '"\u0085".'.encode() * 100_000,
        b'"\x0c".' * 100_000,
        b'x = ["""a"""", {' + b"a." * 100_000 + b"a=1}]",
        b"x = ['''a''''', {" + b"a." * 100_000 + b"a=1}]",
        b'x = "\\"" # "\n' + b"a." * 100_000 + b"a=1",
        b"[a.a.a.a.a.a.a.a]\n" + b"".join(b"k%d.a.a.a.a.a.a.a=1\n" % at for at in range(45_000)),
    ],
)
def test_dotted_keys_are_refused_soon(data: bytes) -> None:
    start = time.process_time()
    with pytest.raises(InputError, match="dots"):
        load_vector(data, "file")
    assert time.process_time() - start < 2


@pytest.mark.parametrize("piece", [b'\\"""', b"\\'''", b'"""\\', b"'''", b'""', b"'\n", b'"\\'])
def test_quotes_without_an_end_are_read_soon(piece: bytes) -> None:
    start = time.process_time()
    read((piece * MAX_BYTES)[:MAX_BYTES])
    assert time.process_time() - start < 2


def test_dots_in_texts_and_comments_are_none_of_a_key() -> None:
    note = '"' + ". " * 1000 + '"'
    for text in (f"note = {note}", f'note = """{". " * 999}"" """', "format = 1 # " + "." * 20_000):
        read(text.encode())
        assert load_vector(text.encode(), "file").case


@pytest.mark.parametrize("data", [b"null", b"3", b"[1, 2]", b'["vmcs"]', b"true", b'"vmcs"'])
def test_json_that_is_no_object_is_no_case(data: bytes) -> None:
    with pytest.raises(InputError, match="a case is an object"):
        load_vector(data, "case.json")


@pytest.mark.parametrize("data", [b'{"vmcs": {}}', b"format = 1"])
def test_a_byte_order_mark_is_passed_over(data: bytes) -> None:
    assert load_vector(b"\xef\xbb\xbf" + data, "f").case == load_vector(data, "f").case


@pytest.mark.parametrize(
    "number", ["\u0663", "1_0", " 1 ", "+1", "0x1_0", "\uff11", "007", "0x", "", "1\n", "0b1"]
)
def test_a_number_in_a_text_is_plain(number: str) -> None:
    document = {"vmcs": {"guest_rip": number}}
    with pytest.raises(InputError, match="give a number such as 0x8000"):
        load_vector(json.dumps(document).encode(), "file")


def test_a_file_full_of_memory_is_read_soon() -> None:
    memory = {hex(at): "00" for at in range(0, 120_000, 2)}
    start = time.process_time()
    read(json.dumps({"vmcs": {}, "memory": memory}).encode()[:MAX_BYTES])
    assert time.process_time() - start < 10

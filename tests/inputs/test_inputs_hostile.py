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
    case = data.draw(cases)
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


def test_a_file_full_of_memory_is_read_soon() -> None:
    memory = {hex(at): "00" for at in range(0, 120_000, 2)}
    start = time.process_time()
    read(json.dumps({"vmcs": {}, "memory": memory}).encode()[:MAX_BYTES])
    assert time.process_time() - start < 10

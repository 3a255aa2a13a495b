# SPDX-License-Identifier: GPL-2.0-only
"""Inputs to which records are appended mean the same case, with the edits of those records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvmxfuzz.inputs.codec import BOTH, REPAIR, SPARSE, TEXT, XOR, decode
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.open_end import LONGEST, open_end, record
from nvmxfuzz.inputs.order import PROFILES
from nvmxfuzz.inputs.records import UNBACK, WRITE, read_records, whole_records

TABLE = layout("vm_entry")
RIP = TABLE.index["guest_rip"]
HEAD = bytes((1, SPARSE, 0, 0))


@given(st.sampled_from((XOR, SPARSE, BOTH, SPARSE | REPAIR, TEXT)), st.binary(max_size=60))
def test_what_is_appended_edits_the_same_case(kind: int, body: bytes) -> None:
    data = bytes((1, kind, 0, 0)) + body
    case = decode(data, "vm_entry")
    opened = open_end(case, data, PROFILES)
    assert opened is not None
    assert decode(opened, "vm_entry") == case
    longer = decode(opened + record(RIP, 8, 0x1234), "vm_entry")
    assert longer.attempt.vmcs == case.attempt.vmcs.replace({"guest_rip": 0x1234})
    assert longer.attempt.memory == case.attempt.memory


@given(st.binary(max_size=40))
def test_records_are_whole_where_no_zero_has_to_be_added(body: bytes) -> None:
    count = len(read_records(body, len(body), TABLE)[0])
    longer = read_records(body + record(RIP, 8, 1), len(body) + 1, TABLE)[0]
    if whole_records(body, TABLE):
        assert len(longer) == count + 1
        assert longer[-1] == (TABLE.by_name["guest_rip"], -1, 1, 0)


@pytest.mark.parametrize("operation", [WRITE, UNBACK])
def test_a_range_of_memory_can_end_early(operation: int) -> None:
    head = (operation << 12).to_bytes(2, "little") + bytes([3]) + bytes(8)
    whole = head + b"abc" if operation == WRITE else head
    assert whole_records(whole, TABLE)
    assert not whole_records(whole[:-1], TABLE)


def test_what_is_too_long_is_encoded_anew_and_what_has_no_number_has_no_open_end() -> None:
    long = HEAD + record(RIP, 8, 1) * (LONGEST // 10 + 1)
    case = decode(long, "vm_entry")
    assert open_end(case, long, PROFILES) == HEAD + record(RIP, 8, 1)
    assert open_end(case, b"", ("no-such-profile",)) is None

# SPDX-License-Identifier: GPL-2.0-only
"""Bochs' log lines as texts."""

import ctypes

import pytest

from nvmxfuzz.targets.bochs.messages import ERROR, PANIC, Messages, formatted

NAME = ctypes.create_string_buffer(b"FS")


@pytest.mark.parametrize(
    ("template", "arguments", "text"),
    [
        ("plain", (), "plain"),
        ("vector %d", (14,), "vector 14"),
        ("%d != %d", (0xFFFF_FFFF, 1 << 40 | 2), "-1 != 2"),
        ("reason %u", (0xFFFF_FFFF,), "reason 4294967295"),
        ("CR0 0x%08x", (0x31,), "CR0 0x00000031"),
        ("CR4 0x%016lx", (0x2020,), "CR4 0x0000000000002020"),
        ("MSR %x", (0xC000_0080,), "MSR c0000080"),
        ("MSR %#x: %d", (0x1B, 2), "MSR 0x1b: 2"),
        ("bitmap %c", (ord("A"),), "bitmap A"),
        ("guest %s.BASE", (ctypes.addressof(NAME),), "guest FS.BASE"),
        ("nothing %s", (0,), "nothing (null)"),
        ("all of it: 100%%", (), "all of it: 100%"),
        ("more than there are: %d %d", (1,), "more than there are: 1 0"),
    ],
)
def test_formatted(template: str, arguments: tuple[int, ...], text: str) -> None:
    assert formatted(template, arguments) == text


def test_lines_of_a_level() -> None:
    texts = [b"VMFAIL: VMCS host CS selector 0", b"VMENTER CR0 is broken !"]
    texts += [b"VMEXIT: Guest State Checks Failed", b"VMENTER FAIL: VMCS guest %s not present"]
    buffers = [ctypes.create_string_buffer(text) for text in texts]
    host, broken, after, present = map(ctypes.addressof, buffers)
    name = ctypes.addressof(NAME)
    lines = [(ERROR, host, 0), (PANIC, broken, 0), (ERROR, after, 0), (ERROR, present, name)]
    messages = Messages()
    for _ in range(2):
        assert [message.text for message in messages.read(lines, PANIC)] == [texts[1].decode()]
        found = messages.read(lines, ERROR)
        assert [message.text for message in found] == [
            "VMFAIL: VMCS host CS selector 0",
            "VMENTER FAIL: VMCS guest FS not present",
        ]
        assert found[1].template == texts[3].decode()

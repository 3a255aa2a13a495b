# SPDX-License-Identifier: GPL-2.0-only
"""Logs in which some lines tell of VMX capability MSRs and the others of something else.

VirtualBox prints every MSR. QEMU prints one that KVM did not take, which is how a failed migration
looks. kvm-unit-tests prints a value that was not the expected one, between its verdicts.
"""

from __future__ import annotations

import re
from typing import Final

from nvmxfuzz.inputs.msr_table.found import (
    INDEX_BY_NAME,
    INDICES,
    MAX_LINE,
    Found,
    hexadecimal,
    split,
)
from nvmxfuzz.inputs.msr_table.lines import index_of, pair, without_comment, without_prefix

VIRTUALBOX: Final = re.compile(r"\b(?:HM|HWACCM):[ \t]+MSR_(IA32_VMX_\w+)[ \t]*=[ \t]*(.*)")

TEST_LOG: Final = re.compile(
    r"^(?:qemu(?:-system-\w+|-kvm)?: "
    r"|.{0,80}: error: failed to set MSR 0x"
    r"|(?:PASS|FAIL|SKIP|XFAIL|XPASS|SUMMARY): "
    r"|enabling apic\b|paging enabled\b|Test suite: |testing \S{1,60}: output = )",
    re.MULTILINE,
)
"""What a log of QEMU or of kvm-unit-tests has, and no table."""

_QEMU: Final = re.compile(r"\bfailed to set MSR (0x[0-9a-fA-F]+) to (\S+)")
_TESTING: Final = re.compile(r"testing (?:MSR:)?(\S+): output = (\S+?):(\S+) expected = \S+")
_OURS: Final = re.compile(r"(?:MSR_)?IA32_VMX_|0[xX]4[89][0-9a-fA-F]\b|testing \S*(?:VMX|:0x4[89])")


def from_virtualbox(text: str) -> dict[int, int]:
    """Return the MSRs of a VirtualBox log."""
    found = Found()
    for number, line in enumerate(split(text), 1):
        matched = VIRTUALBOX.search(line[:MAX_LINE])
        # Parts of a register are logged like registers of their own: MSR_IA32_VMX_MISC_CR3_TARGET.
        if matched and matched[1] in INDEX_BY_NAME:
            value = hexadecimal(number, matched[2].strip())
            found.add(number, INDEX_BY_NAME[matched[1]], value)
    return found.msrs


def from_test_log(text: str) -> dict[int, int]:
    """Return the MSRs of a log of QEMU or kvm-unit-tests; a line that is half one is refused."""
    found = Found()
    for number, raw in enumerate(split(text), 1):
        line, processor = without_prefix(raw[:MAX_LINE])
        refused, tested = _QEMU.search(line), _TESTING.fullmatch(line)
        if refused:
            _add(number, refused[1], hexadecimal(number, refused[2]), found)
        elif tested:
            high, low = (hexadecimal(number, tested[part], 32) for part in (2, 3))
            _add(number, tested[1], high << 32 | low, found)
        elif _OURS.match(line):
            pair(number, without_comment(line), processor, found)
    return found.msrs


def _add(number: int, text: str, value: int, found: Found) -> None:
    index = index_of(number, text)
    if index in INDICES:
        found.add(number, index, value)

# SPDX-License-Identifier: GPL-2.0-only
"""The hypervisor that the complete path runs: a few instructions, and pages to run them on.

It lies in memory that it alone uses, mapped where it is, and in 64-bit mode a second time in the
upper half of the linear addresses. Each part ends with PREFETCHNTA, where the harness takes over.
What a part needs it finds by RBX (operands) or RSI and ECX (a table and its length).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from nvmxfuzz.arch.registers import Cr0, Cr4, Efer, Rflags
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.targets.bochs.guest_memory import PAGE
from nvmxfuzz.targets.bochs.registers import DATA_SELECTOR

FIRST: Final = 0xF000_0000
"""Where the pages begin: within 32 bits, and far from where cases have their memory."""

_PAGES: Final = (
    "pml5",
    "pml4",
    "pdpt",
    "pae_pdpt",
    "directory",
    "table",
    "directory_32",
    "table_32",
    "code",
    "user_code",
    "operands",
    "fields",
    "stack",
)
PLACE: Final[Mapping[str, int]] = {
    name: FIRST + PAGE * number for number, name in enumerate(_PAGES)
}
SIZE: Final = PAGE * len(_PAGES)
_UPPER_HALF: Final = 0xFFFF_FF80_0000_0000

_PRESENT: Final = 0x63
"""Present, writable, accessed and dirty, so that a walk writes nothing."""
_USER: Final = 4
_ROW: Final = struct.Struct("<QQ")
MOST_ROWS: Final = PAGE // _ROW.size

FAILED: Final = PLACE["operands"] + 0x10
"""u32, set to 1 where a VMX instruction failed."""
GDT: Final = PLACE["operands"] + 0x800

_DONE: Final = bytes.fromhex("0f 18 04 24")  # prefetchnta [rsp]
_JBE_FAIL: Final = b"\x76"
_FAIL: Final = bytes.fromhex("c7 43 10 01 00 00 00")  # mov dword [rbx + 0x10], 1


def is_own(address: int, size: int = 1) -> bool:
    """Tell whether a range of physical addresses touches the harness's pages."""
    return address < FIRST + SIZE and address + size > FIRST


class GuestCode:
    """The pages, filled in; `memory` is what the CPU has at `FIRST`."""

    def __init__(self, memory: mmap.mmap, *, wide: bool) -> None:
        self._memory = memory
        self._map_pages()
        self._used = 0
        wide_prefix = "48" if wide else ""
        self.vmxon = self._part("f3 0f c7 33")  # vmxon [rbx]
        self.vmptrld = self._part(
            "66 0f c7 73 08",  # vmclear [rbx + 8]
            "0f c7 73 08",  # vmptrld [rbx + 8]
        )
        self.vmwrite = self._loop(
            "8b 06"  # mov eax, [rsi]
            f"{wide_prefix} 8b 56 08",  # mov rdx, [rsi + 8]
            "0f 79 c2",  # vmwrite rax, rdx
            "",
        )
        self.vmread = self._loop(
            "8b 06",  # mov eax, [rsi]
            "0f 78 c2",  # vmread rdx, rax
            f"{wide_prefix} 89 56 08",  # mov [rsi + 8], rdx
        )
        self._attempts = {
            (instruction, after_mov_ss): self._plain(("8e d0" if after_mov_ss else "") + code)
            for instruction, code in (("vmlaunch", "0f 01 c2"), ("vmresume", "0f 01 c3"))
            for after_mov_ss in (False, True)  # mov ss, eax
        }
        code = self._offset("code")
        user = self._offset("user_code")
        self._memory[user : user + PAGE] = self._memory[code : code + PAGE]

    def attempt(self, processor: Processor, instruction: str) -> int:
        """Return where the attempt begins as `processor` sees it."""
        place = self._attempts[instruction, processor.blocking_by_mov_ss]
        if processor.cpl == 3 or processor.rflags & Rflags.VM:
            return place - PLACE["code"] + PLACE["user_code"]
        return place + upper_half(processor)

    def set_operands(self, vmxon: int, current: int) -> None:
        """Set the operands of VMXON, VMCLEAR and VMPTRLD, and forget an old failure."""
        struct.pack_into("<QQI", self._memory, self._offset("operands"), vmxon, current, 0)

    def set_stack_segment(self, cpl: int) -> None:
        """Let the descriptor that the attempt loads into SS have the privilege level `cpl`."""
        descriptor = 0x00CF_9300_0000_FFFF | cpl << 45
        offset = GDT - FIRST + DATA_SELECTOR
        struct.pack_into("<Q", self._memory, offset, descriptor)

    def set_fields(self, rows: Sequence[tuple[int, int]]) -> None:
        """Set the table of pairs of an encoding and a value."""
        start = self._offset("fields")
        for number, row in enumerate(rows):
            _ROW.pack_into(self._memory, start + number * _ROW.size, *row)

    def fields(self, count: int) -> list[int]:
        """Return the values of the table."""
        start = self._offset("fields")
        rows = _ROW.iter_unpack(self._memory[start : start + count * _ROW.size])
        return [value for _, value in rows]

    @property
    def failed(self) -> bool:
        """Whether a VMX instruction failed since the operands were set."""
        failed: int = struct.unpack_from("<I", self._memory, FAILED - FIRST)[0]
        return failed != 0

    def _offset(self, name: str) -> int:
        return PLACE[name] - FIRST

    def _plain(self, code: str) -> int:
        """Add code without branches; return its address."""
        return self._add(bytes.fromhex(code) + _DONE)

    def _part(self, *instructions: str) -> int:
        """Add VMX instructions, each followed by a jump to where failure is noted."""
        code = b""
        rest = [bytes.fromhex(instruction) for instruction in instructions]
        while rest:
            code += rest.pop(0)
            behind = sum(len(instruction) + 2 for instruction in rest) + len(_DONE)
            code += _JBE_FAIL + bytes([behind])
        return self._add(code + _DONE + _FAIL + _DONE)

    def _loop(self, before: str, instruction: str, after: str) -> int:
        """Add a loop over the table with one VMX instruction in it."""
        tail = bytes.fromhex(
            after + "83 c6 10"  # add esi, 16
            "ff c9"  # dec ecx
        )
        body = bytes.fromhex(before + instruction)
        jump = _JBE_FAIL + bytes([len(tail) + 2 + len(_DONE)])
        back = 0x100 - len(body + jump + tail) - 2
        again = b"\x75" + bytes([back])  # jnz to the start
        return self._add(body + jump + tail + again + _DONE + _FAIL + _DONE)

    def _add(self, code: bytes) -> int:
        start = self._offset("code") + self._used
        self._memory[start : start + len(code)] = code
        self._used += len(code) + 15 & -16
        return FIRST + start

    def _map_pages(self) -> None:
        """Fill in the tables of 5-level, 4-level, PAE and 32-bit paging."""
        every = _PRESENT | _USER
        number = FIRST >> 12
        for name, at, value in (
            ("pml5", 0, PLACE["pml4"] | every),
            ("pml5", 511, PLACE["pml4"] | every),
            ("pml4", 0, PLACE["pdpt"] | every),
            ("pml4", 511, PLACE["pdpt"] | every),
            ("pdpt", number >> 18, PLACE["directory"] | every),
            ("pae_pdpt", number >> 18, PLACE["directory"] | 1),
            ("directory", number >> 9 & 511, PLACE["table"] | every),
        ):
            struct.pack_into("<Q", self._memory, self._offset(name) + 8 * at, value)
        directory = self._offset("directory_32") + 4 * (number >> 10)
        struct.pack_into("<I", self._memory, directory, PLACE["table_32"] | every)
        for page in range(len(_PAGES)):
            entry = FIRST + PAGE * page | _PRESENT
            entry |= _USER if _PAGES[page] == "user_code" else 0
            long, short = self._offset("table"), self._offset("table_32")
            struct.pack_into("<Q", self._memory, long + 8 * (number + page & 511), entry)
            struct.pack_into("<I", self._memory, short + 4 * (number + page & 1023), entry)


def page_table(processor: Processor) -> int:
    """Return the CR3 under which `processor` sees the pages."""
    if processor.efer & Efer.LMA:
        return PLACE["pml5" if processor.cr4 & Cr4.LA57 else "pml4"]
    if processor.cr0 & Cr0.PG and processor.cr4 & Cr4.PAE:
        return PLACE["pae_pdpt"]
    return PLACE["directory_32"]


def upper_half(processor: Processor) -> int:
    """Return what to add to an address: with LASS a supervisor runs in the upper half only."""
    return _UPPER_HALF if processor.efer & Efer.LMA and processor.cs_l else 0

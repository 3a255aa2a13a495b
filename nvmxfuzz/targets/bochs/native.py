# SPDX-License-Identifier: GPL-2.0-only
"""A page of machine code, and what it leaves behind in a page of data.

Bochs is entered through a trampoline that remembers the stack. A call inside Bochs that goes to a
`leave` stub ends up behind the trampoline at once, whatever was going on: that is how an attempt
stops at the point where its outcome is decided, and how an assertion does not end the process.
All calls into Bochs that can reach such a stub go through `Native.call` or `Native.enter`.

The code is for the System V ABI, AMD64 supplement. Stubs change rax, rcx, r10 and r11 only.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.errors import InputError

_PAGE: Final = 4096

# The page of data, by offset.
_STACK: Final = 0x00
_KIND: Final = 0x08
_FIRST: Final = 0x10
_LOG_COUNT: Final = 0x28
_VOID_COUNT: Final = 0x38
_LOG: Final = 0x40
_LOG_ENTRIES: Final = 40
_VOIDS: Final = 0x800
_VOID_ENTRIES: Final = 256

RETURNED: Final = 0
"""The kind of end where no stub was met: the function returned."""

_NOT_DECIDED: Final = (1 << 64) - 1
_END: Final = struct.Struct("<I4xQQQQQ")
_LOG_ENTRY: Final = struct.Struct("<QQ4Q")

_SAVE: Final = bytes.fromhex(
    "53 55 41 54 41 55 41 56 41 57"  # push rbx, rbp, r12, r13, r14, r15
    "48 83 ec 08"  # sub rsp, 8
)
_RESTORE: Final = bytes.fromhex(
    "48 83 c4 08"  # add rsp, 8
    "41 5f 41 5e 41 5d 41 5c 5d 5b"  # pop r15, r14, r13, r12, rbp, rbx
    "c3"  # ret
)
_JMP_RAX: Final = bytes.fromhex("ff e0")


@dataclass(frozen=True, slots=True)
class End:
    """How a call ended: `kind` of the stub that was met, and the three arguments it was given.

    `logged` counts the lines of the log, `decided` those that were there when the outcome was
    decided: all of them if no stub noted that.
    """

    kind: int
    first: int
    second: int
    third: int
    logged: int
    decided: int
    is_decided: bool


class Native:
    """The two pages. Stubs are added once, and live as long as the library they are used in."""

    def __init__(self) -> None:
        try:
            self._code = private(_PAGE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        except PermissionError:
            raise InputError(
                "the target bochs needs memory that can be written and executed, which this "
                "computer forbids; use another target"
            ) from None
        self._data = private(_PAGE)
        self._code_address = address_of(self._code)
        self._data_address = address_of(self._data)
        self._used = 0
        self._leave = 0
        call = self._trampoline(
            bytes.fromhex(
                "48 89 f8"  # mov rax, rdi
                "48 89 f7"  # mov rdi, rsi
                "48 89 d6"  # mov rsi, rdx
            )
        )
        self._call = ctypes.PYFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 3)(call)

    def call(self, function: int, first: int = 0, second: int = 0) -> int:
        """Call the function at an address with up to two arguments; return its result."""
        result: int = self._call(function, first, second)
        return result

    def entry(self, state: tuple[int, int], region: tuple[int, int], function: int) -> int:
        """Add a function (state, region, argument) that copies both, then calls `function`.

        `state` and `region` each are an address to copy to, and a number of bytes, which must be
        a multiple of 8.
        """
        return self._trampoline(
            bytes.fromhex(
                "49 89 d4"  # mov r12, rdx
                "49 89 f5"  # mov r13, rsi
                "48 89 fe"  # mov rsi, rdi
            )
            + _copy(*state)
            + bytes.fromhex("4c 89 ee")  # mov rsi, r13
            + _copy(*region)
            + bytes.fromhex("4c 89 e7")  # mov rdi, r12
            + _mov_rax(function)
        )

    def returning(self, value: int | None) -> int:
        """Add a stub that does nothing and returns `value`, if it is not None."""
        load = b"" if value is None else b"\xb8" + value.to_bytes(4, "little")  # mov eax, value
        return self._add(load + b"\xc3")  # ret

    def leaving(self, kind: int) -> int:
        """Add a stub that leaves for good; `kind` is what `end` will say."""
        return self._add(self._leaving(kind))

    def leaving_if(self, flag: int, kind: int, original: int) -> int:
        """Add a stub that leaves if the byte at `flag` is not 0, and else goes to `original`."""
        return self._add(
            _mov_rax(flag)
            + bytes.fromhex(
                "80 38 00"  # cmp byte [rax], 0
                "75 0c"  # jne over the next two instructions
            )
            + _mov_rax(original)
            + _JMP_RAX
            + self._leaving(kind)
        )

    def deciding(self, original: int) -> int:
        """Add a stub that notes that the outcome is decided, and goes to `original`."""
        return self._add(
            self._mov_r11_data()
            + bytes.fromhex(
                "49 83 7b 30 ff"  # cmp qword [r11 + decided], -1
                "75 08"  # jne over the next two instructions
                "49 8b 43 28"  # mov rax, [r11 + log count]
                "49 89 43 30"  # mov [r11 + decided], rax
            )
            + _mov_rax(original)
            + _JMP_RAX
        )

    def logging(self, level: int) -> int:
        """Add a stub for a function (object, format, ...) that keeps format and four arguments."""
        return self._add(
            self._mov_r11_data()
            + bytes.fromhex(
                "49 8b 43 28"  # mov rax, [r11 + log count]
                f"48 83 f8 {_LOG_ENTRIES:02x}"  # cmp rax, entries
                "73 27"  # jae to the end
                "49 ff 43 28"  # inc qword [r11 + log count]
                "48 6b c0 30"  # imul rax, rax, 48
                "49 01 c3"  # add r11, rax
                f"49 c7 43 40 {level:02x} 00 00 00"  # mov qword [r11 + log], level
                "49 89 73 48"  # mov [r11 + log + 8], rsi
                "49 89 53 50"  # mov [r11 + log + 16], rdx
                "49 89 4b 58"  # mov [r11 + log + 24], rcx
                "4d 89 43 60"  # mov [r11 + log + 32], r8
                "4d 89 4b 68"  # mov [r11 + log + 40], r9
                "c3"  # ret
            )
        )

    def missing_page(self, void: int, insert: int) -> int:
        """Add a stub for (physical address) that calls `insert` with the page and `void`."""
        return self._add(
            self._mov_r11_data()
            + bytes.fromhex(
                "49 8b 43 38"  # mov rax, [r11 + void count]
                "48 81 e7 00 f0 ff ff"  # and rdi, -4096
                "48 3d 00 01 00 00"  # cmp rax, 256
                "73 0c"  # jae over the next two instructions
                "49 89 bc c3 00 08 00 00"  # mov [r11 + rax * 8 + voids], rdi
                "49 ff 43 38"  # inc qword [r11 + void count]
            )
            + b"\x48\xbe"  # mov rsi, void
            + void.to_bytes(8, "little")
            + _mov_rax(insert)
            + _JMP_RAX
        )

    def end(self) -> End:
        """Return how the last call ended."""
        kind, first, second, third, logged, decided = _END.unpack_from(self._data, _KIND)
        known = decided != _NOT_DECIDED
        return End(kind, first, second, third, logged, decided if known else logged, known)

    @property
    def end_address(self) -> int:
        """Where the page of data begins: what `raw_end`, `log` and `take_voids` tell lies there."""
        return self._data_address

    def raw_end(self) -> tuple[int, int, int, int, int, int]:
        """Return what `end` does, as numbers: (kind, three arguments, logged, decided)."""
        return _END.unpack_from(self._data, _KIND)

    def log(self, count: int) -> list[tuple[int, ...]]:
        """Return the first lines of the log: (level, address of the format, four arguments)."""
        lines = memoryview(self._data)[_LOG : _LOG + count * _LOG_ENTRY.size]
        return list(_LOG_ENTRY.iter_unpack(lines))

    def take_voids(self) -> tuple[int, ...]:
        """Return the addresses of the missing pages since the last call of this."""
        (count,) = struct.unpack_from("<Q", self._data, _VOID_COUNT)
        if not count:
            return ()
        struct.pack_into("<Q", self._data, _VOID_COUNT, 0)
        return struct.unpack_from(f"<{count}Q", self._data, _VOIDS)

    def _trampoline(self, load: bytes) -> int:
        """Add a function that goes to rax after `load`; what leaves it comes back behind that."""
        start = (
            _SAVE
            + load
            + self._mov_r11_data()
            + bytes.fromhex(
                "49 89 23"  # mov [r11 + stack], rsp
                "31 c9"  # xor ecx, ecx
                "49 89 4b 08"  # mov [r11 + kind], rcx
                "49 89 4b 28"  # mov [r11 + log count], rcx
                "49 c7 43 30 ff ff ff ff"  # mov qword [r11 + decided], -1
                "ff d0"  # call rax
            )
        )
        back = self._mov_r11_data() + bytes.fromhex("49 8b 23")  # mov rsp, [r11 + stack]
        address = self._add(start + back + _RESTORE)
        self._leave = address + len(start)
        return address

    def _leaving(self, kind: int) -> bytes:
        return (
            self._mov_r11_data()
            + bytes.fromhex(
                f"41 c7 43 08 {kind:02x} 00 00 00"  # mov dword [r11 + kind], kind
                "49 89 7b 10"  # mov [r11 + first], rdi
                "49 89 73 18"  # mov [r11 + second], rsi
                "49 89 53 20"  # mov [r11 + third], rdx
            )
            + _mov_rax(self._leave)
            + _JMP_RAX
        )

    def _mov_r11_data(self) -> bytes:
        return b"\x49\xbb" + self._data_address.to_bytes(8, "little")

    def _add(self, code: bytes) -> int:
        """Put code into the page; return its address."""
        start = self._used
        self._code[start : start + len(code)] = code
        self._used = start + len(code) + 15 & ~15
        return self._code_address + start


def private(size: int, protection: int = mmap.PROT_READ | mmap.PROT_WRITE) -> mmap.mmap:
    """Return zeroed memory that a process which forks does not share with its child."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=protection)


def address_of(memory: mmap.mmap) -> int:
    """Return where a mapping begins; it must not be closed while the address is in use."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _mov_rax(value: int) -> bytes:
    return b"\x48\xb8" + value.to_bytes(8, "little")


def _copy(to: int, size: int) -> bytes:
    """Return code that copies `size` bytes from where rsi points."""
    return (
        b"\x48\xbf"  # mov rdi, to
        + to.to_bytes(8, "little")
        + b"\xb9"  # mov ecx, size / 8
        + (size // 8).to_bytes(4, "little")
        + bytes.fromhex("f3 48 a5")  # rep movsq
    )

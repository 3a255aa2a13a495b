# SPDX-License-Identifier: GPL-2.0-only
"""The little of an ELF file that loading needs: symbols, and the slots calls go through.

System V ABI, AMD64 supplement: `Elf64_Shdr`, `Elf64_Sym`, `Elf64_Rela`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELOCATION: Final = struct.Struct("<QQq")

_UNDEFINED: Final = 0


class Symbol(NamedTuple):
    """One entry of the dynamic symbol table."""

    number: int
    value: int
    """Address, counted from where the file is loaded."""
    defined: bool
    entry: int
    """Where the entry lies in the file."""
    name_offset: int
    """What the entry has as the place of its name."""


class Elf:
    """A 64-bit little-endian shared object, read once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._sections = dict(self._read_sections())
        self.symbols: Mapping[str, Symbol] = dict(self._read_symbols())

    def slots(self, names: Iterable[str]) -> Mapping[str, int]:
        """Return the slot that calls of each function go through, from the load address.

        A function that is only called through the global offset table has none: the loader makes
        that table read-only.
        """
        wanted = {self.symbols[name].number: name for name in names if name in self.symbols}
        offset, size = self._sections[".rela.plt"]
        table = memoryview(self._data)[offset : offset + size]
        return {
            wanted[info >> 32]: slot
            for slot, info, _ in _RELOCATION.iter_unpack(table)
            if info >> 32 in wanted
        }

    def _read_sections(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yield (name, (offset, size)) of each section."""
        (table,) = struct.unpack_from("<Q", self._data, 0x28)
        size, count, names = struct.unpack_from("<HHH", self._data, 0x3A)
        headers = [_SECTION.unpack_from(self._data, table + size * at) for at in range(count)]
        for header in headers:
            yield self._text(headers[names][4] + header[0]), (header[4], header[5])

    def _read_symbols(self) -> Iterator[tuple[str, Symbol]]:
        start, size = self._sections[".dynsym"]
        texts, _ = self._sections[".dynstr"]
        table = memoryview(self._data)[start : start + size]
        for number, (name, _, _, section, value, _) in enumerate(_SYMBOL.iter_unpack(table)):
            entry = start + number * _SYMBOL.size
            yield (
                self._text(texts + name),
                Symbol(number, value, section != _UNDEFINED, entry, name),
            )

    def _text(self, offset: int) -> str:
        return self._data[offset : self._data.index(b"\0", offset)].decode()

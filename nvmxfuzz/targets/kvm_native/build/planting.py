# SPDX-License-Identifier: GPL-2.0-only
"""Faults in the user's copy of the kernel: all in one object, of which a process chooses one.

A fault is a description: in which function, at which expression or statement (told by the names
that it mentions), what stands there instead. The text of the kernel stays what the user has; the
copy that is compiled asks at each such place whether its fault is the one that was chosen.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from nvmxfuzz.errors import InputError

Way = Literal["check", "condition", "value", "statement"]

CHOSEN: Final = "nvmx_planted"
"""The number of the fault that a process has chosen, 0 for none: a variable of planted.c."""

_BLANKED: Final = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.S)
_CHECK: Final = re.compile(r"\bCC\(")
_CONDITION: Final = re.compile(r"\b(?:if|while)\s*\(")
_VALUE: Final = re.compile(r"(?:\breturn\b|(?<![=!<>])=(?!=))\s*")
_STATEMENT: Final = re.compile(r"(?<=[;{}:)])\s*(?=[A-Za-z_*(])|\belse\s+(?=[A-Za-z_*(])")
_NAME: Final = re.compile(r"[A-Za-z_]\w*(?:(?:->|\.)[A-Za-z_]\w*)*")
_CALL_OR_ASSIGNMENT: Final = re.compile(
    r"\**[A-Za-z_]\w*(?:(?:->|\.)\w+|\[[^\]]*\])*\s*(?:\(|[-+|&^*/]?=|\+\+|--)"
)
_NO_STATEMENT: Final = re.compile(r"(?:if|else|for|while|do|switch|case|default|return|goto)\b")


@dataclass(frozen=True, slots=True)
class Planted:
    """One fault. `number` is what chooses it, from 1 on.

    `way` is what is replaced: a *check* (a whole CC()), a *condition* (of if or while), a *value*
    (what is assigned or returned), or a *statement*, each the `nth` (from 0) in `function` that
    mentions all of `mentions`. `becomes` is C, in which `{}` is what stood there.
    """

    number: int
    name: str
    file: str
    function: str
    way: Way
    mentions: tuple[str, ...]
    becomes: str
    nth: int = 0


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something is replaced, and by what."""

    start: int
    end: int
    fault: Planted


class Planting:
    """Faults to be compiled into one object. `runtime` is the C file that chooses one."""

    def __init__(self, faults: Sequence[Planted], runtime: Path) -> None:
        self._faults: Mapping[str, list[Planted]] = {
            file: [fault for fault in faults if fault.file == file]
            for file in sorted({fault.file for fault in faults})
        }
        self.runtime = runtime

    @cached_property
    def digest(self) -> str:
        """What an object with these faults is told by."""
        said = repr(self._faults) + self.runtime.read_text()
        return hashlib.sha256(said.encode()).hexdigest()[:12]

    def plant(self, folder: Path) -> None:
        """Replace files below a folder, links to the kernel's, by copies that have the faults."""
        for file, faults in self._faults.items():
            path = folder / file
            try:
                text = path.read_text(errors="surrogateescape")
            except OSError as error:
                raise InputError(
                    f"the fault {faults[0].name} belongs into {file}, which this kernel lacks "
                    f"({error.strerror}): leave it out for this kernel"
                ) from error
            path.unlink()
            path.write_text(planted(text, faults), errors="surrogateescape")


def planted(source: str, faults: Sequence[Planted]) -> str:
    """Return a source with the faults in it; InputError if one has no place there."""
    plain = _BLANKED.sub(_blank, source)
    places = sorted(
        (_place(plain, fault) for fault in faults),
        key=lambda place: (place.start, -place.end, place.fault.number),
    )
    return f"extern int {CHOSEN};\n{_render(source, 0, len(source), places)}"


def _render(source: str, start: int, end: int, places: Sequence[_Place]) -> str:
    """Return source[start:end] with the places within: each is whole in another, or beside it."""
    text, at, rest = [], start, list(places)
    while rest:
        first = rest[0]
        same = [each for each in rest if (each.start, each.end) == (first.start, first.end)]
        inside = [each for each in rest if each.start < first.end and each not in same]
        crossing = next((each for each in inside if each.end > first.end), None)
        if crossing is not None:
            raise InputError(
                f"the faults {first.fault.name} and {crossing.fault.name} overlap: plant them at "
                "places that are one in the other, or apart"
            )
        rest = [each for each in rest if each.start >= first.end]
        original = source[first.start : first.end]
        inner = _render(source, first.start, first.end, inside)
        for each in same:
            inner = _choice(each.fault, original, inner)
        text += [source[at : first.start], inner]
        at = first.end
    return "".join((*text, source[at:end]))


def _choice(fault: Planted, original: str, otherwise: str) -> str:
    becomes = fault.becomes.replace("{}", original)
    if fault.way == "statement":
        return f"if ({CHOSEN} == {fault.number}) {{ {becomes}; }} else {{ {otherwise} }}"
    return f"({CHOSEN} == {fault.number} ? ({becomes}) : ({otherwise}))"


def _place(plain: str, fault: Planted) -> _Place:
    start, end = _body(plain, fault)
    ways = {
        "check": _checks,
        "condition": _conditions,
        "value": _values,
        "statement": _statements,
    }
    found = [
        (first, last)
        for first, last in ways[fault.way](plain, start, end)
        if _mentions(plain[first:last], fault.mentions)
    ]
    if fault.nth >= len(found):
        raise InputError(
            f"the fault {fault.name} has no place: {fault.function}() in {fault.file} has "
            f"{len(found)} {fault.way}(s) that mention {', '.join(fault.mentions) or 'anything'}"
        )
    return _Place(*found[fault.nth], fault)


def _mentions(text: str, names: Sequence[str]) -> bool:
    """Whether each name stands in a text, whole: by itself, or as a part of a->b.c."""
    told = _NAME.findall(text)
    parts = {part for name in told for part in re.split(r"->|\.", name)}
    return all(name in told or name in parts for name in names)


def _body(plain: str, fault: Planted) -> tuple[int, int]:
    """Return where the body of a function is, without its braces."""
    head = re.compile(
        rf"^(?:[A-Za-z_][^\n;={{}}]*?\b)?{re.escape(fault.function)}\([^;{{}}]*\)\s*^\{{", re.M
    )
    found = head.search(plain)
    if found is None:
        raise InputError(
            f"the fault {fault.name} has no place: {fault.file} defines no {fault.function}()"
        )
    return found.end(), _closing(plain, found.end(), "{", "}")


def _checks(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield each CC() as a whole: its text stays what KVM traces."""
    for found in _CHECK.finditer(plain, start, end):
        yield found.start(), _closing(plain, found.end(), "(", ")") + 1


def _conditions(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for found in _CONDITION.finditer(plain, start, end):
        yield found.end(), _closing(plain, found.end(), "(", ")")


def _values(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for found in _VALUE.finditer(plain, start, end):
        last = plain.find(";", found.end(), end)
        value = plain[found.end() : last]
        if last > 0 and value.strip() and "{" not in value:
            yield found.end(), last


def _statements(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield statements that end with a semicolon and are no declaration, return or jump."""
    for found in _STATEMENT.finditer(plain, start - 1, end):
        first = found.end()
        last = plain.find(";", first, end)
        text = plain[first:last]
        if last < 0 or "{" in text or _NO_STATEMENT.match(text):
            continue
        if _CALL_OR_ASSIGNMENT.match(text):
            yield first, last + 1


def _closing(plain: str, start: int, opening: str, closing: str) -> int:
    """Return where the bracket is closed that is open at `start`."""
    depth = 1
    for at in range(start, len(plain)):
        depth += (plain[at] == opening) - (plain[at] == closing)
        if depth == 0:
            return at
    return len(plain)


def _blank(text: re.Match[str]) -> str:
    """Return spaces of the same length, with the lines kept."""
    return "".join(char if char == "\n" else " " for char in text[0])

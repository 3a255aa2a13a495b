# SPDX-License-Identifier: GPL-2.0-only
"""Reads tables of capability MSRs in the forms in which people have them.

* The project's TOML (a profile) or JSON: a profile, `{"msrs": {...}}`, the raw form's
  `{"profile": ...}`, or `{"0x480": "0x..."}` alone.
* Lines with an index or an SDM or kernel name, and a value: `0x480 = 0xda04...`,
  `480: 00da04...`, `IA32_VMX_BASIC 0xda04...`, with or without a time stamp of dmesg, syslog or
  journalctl. **Both numbers are hexadecimal, with 0x or without.** A value of `-` says that the
  MSR does not exist. `#` begins a comment.
* A transcript of `rdmsr` commands and what they printed. As for rdmsr itself, an index without 0x
  is decimal there, a value hexadecimal unless an option says otherwise; with `-a` all
  processors must agree.
* A VirtualBox log: its lines `HM: MSR_IA32_VMX_... = ...` (`HWACCM:` in old versions, which
  also leave out 0x), and nothing else of it.

Other MSRs than the VMX capability MSRs (0x480 to 0x493) are passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NoReturn

from nvmxfuzz.arch.msr import VMX_CAPABILITY_MSRS
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.document import toml_table, without_comments
from nvmxfuzz.machine import profile_check
from nvmxfuzz.machine.profile import Profile, load_profile

MAX_BYTES = 1 << 20
"""A longer file is refused."""

_MAX_LINE = 1024
_EXAMPLE = "give lines such as '0x480 = 0xda040000000004'"

# Names of old VirtualBox versions beside those of the SDM.
_ALIASES = {"IA32_VMX_BASIC_INFO": 0x480, "IA32_VMX_EPT_VPID_CAPS": 0x48C}
_INDICES = frozenset(index for index, _ in VMX_CAPABILITY_MSRS)
_INDEX_BY_NAME = {name: index for index, name in VMX_CAPABILITY_MSRS} | _ALIASES

_TOML = re.compile(r"^[ \t]*(\[[ \t]*msrs[ \t]*\]|msrs(\.\S+)?[ \t]*=)", re.MULTILINE)
_VBOX = re.compile(r"\b(?:HM|HWACCM):[ \t]+MSR_(IA32_VMX_\w+)[ \t]*=[ \t]*(.*)")
_PREFIX = re.compile(
    r"<\d+>"  # kernel log level
    r"|\[ *\d+\.\d+\](?:\[ *[TC]\d+\])?"  # dmesg, with caller
    r"|(?:[A-Z][a-z]{2} +\d+ [\d:]{8}|\d{4}-\d\d-\d\dT[\d:.,+Z-]+) \S+ [^\s:]+:"  # syslog, journal
    r"|\d\d:\d\d:\d\d(?:\.\d+)?"
    r"|(?i:msr)\b:?"
)
_PAIR = re.compile(
    r"(?P<index>(?:0[xX])?[0-9a-fA-F]+|(?:MSR_)?IA32_\w+)"
    r"(?:[ \t]*\((?P<alias>[^()]*)\))?"
    r"(?:[ \t]*(?:=>|->|=|:|,)[ \t]*|[ \t]+)(?P<value>(?![=:,]|->)\S+)"
)
_COMMAND = re.compile(
    r"(?:.*[\s#$>/])?rdmsr[ \t]+"
    r"(?P<arguments>(?:(?:--processor=[0-9]+|[^\s=:]+)[ \t]+)*(?:0[xX][0-9a-fA-F]+|[0-9]+))"
)
_CANNOT_READ = re.compile(r"(?:.*\s)?rdmsr: ?.*cannot read MSR (?P<index>0x[0-9a-fA-F]+)")
_HEX = re.compile(r"(?:0[xX])?[0-9a-fA-F]+(?:[_`][0-9a-fA-F]+)*")
_ABSENT = ("-", "absent", "n/a", "#GP")


def parse_processor(data: bytes, name: str = "custom") -> Profile:
    """Return the processor that `data` describes; what it leaves out has the profile's default.

    Raises InputError, with the number of the line, for what cannot be understood.
    """
    text = _text(data)
    if text.lstrip().startswith("{"):
        return _from_json(text, name)
    if _TOML.search(text):
        return _from_toml(text, name)
    msrs = _vbox_log(text) if _VBOX.search(text) else _lines(text)
    if not msrs:
        raise InputError(f"no capability MSR was found: {_EXAMPLE}")
    return Profile.from_mapping({"msrs": msrs}, name)


def _text(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise InputError(
            f"an MSR table of {len(data)} bytes is too long: give at most {MAX_BYTES} bytes"
        )
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding, errors="replace")


def _bad(number: int, problem: str) -> NoReturn:
    raise InputError(f"line {number}: {problem}")


def _quote(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:57] + "...")


# JSON and TOML.


def _from_json(text: str, name: str) -> Profile:
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _unique(text, pairs))
    except json.JSONDecodeError as error:
        _bad(error.lineno, f"this is not JSON ({error.msg}); correct it or {_EXAMPLE}")
    except (ValueError, RecursionError):
        raise InputError("the JSON is nested too deeply or has too long a number") from None
    if "profile" in data and "msrs" in data:
        raise InputError('both "profile" and "msrs" are given; leave one of them out')
    profile = data.get("profile", data)
    if isinstance(profile, str):
        return load_profile(profile)
    if not isinstance(profile, dict):
        raise InputError('"profile" is neither a name nor a table: give {"msrs": {...}} there')
    if "msrs" not in profile and all(key[:1].isdigit() for key in profile):
        profile = {"msrs": profile}
    return _from_table(text, profile, name)


def _unique(text: str, pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            _bad(_line_of(text, key, 2), f"{_quote(key)} is given twice; give it once")
        found[key] = value
    return found


def _from_toml(text: str, name: str) -> Profile:
    return _from_table(without_comments(text), toml_table(text), name)


def _from_table(text: str, table: Mapping[str, object], name: str) -> Profile:
    msrs = table.get("msrs", {})
    for key, value in msrs.items() if isinstance(msrs, Mapping) else ():
        try:
            profile_check.msrs({key: value})
        except InputError as error:
            _bad(_line_of(text, key, 1), str(error))
    return Profile.from_mapping(table, name)


def _line_of(text: str, key: str, occurrence: int) -> int:
    """Return the line that gives `key` for the n-th time, 1 where it is written otherwise."""
    at = 0
    given = re.compile(rf"(?:^|[{{,.])[ \t]*[\"']?({re.escape(key)})[\"']?[ \t]*[:=]", re.MULTILINE)
    for _ in range(occurrence):
        found = given.search(text, at)
        if found is None:
            break
        at = found.start(1)
    return text.count("\n", 0, at) + 1


# Lines.


class _Table:
    """The MSRs found so far, and the lines on which they were."""

    def __init__(self) -> None:
        self.msrs: dict[int, int] = {}
        self._lines: dict[int, int] = {}

    def add(self, number: int, index: int, value: int | None) -> None:
        """Take the value of an MSR, or None where it does not exist; each may come once."""
        if index in self._lines:
            _bad(
                number,
                f"MSR {index:#x} was already given on line {self._lines[index]}; give it once",
            )
        self._lines[index] = number
        if value is not None and index in _INDICES:
            self.msrs[index] = value


def _hex(number: int, text: str, width: int) -> int:
    if not _HEX.fullmatch(text):
        _bad(number, f"{_quote(text)} is no hexadecimal number; {_EXAMPLE}")
    value = int(text.replace("_", "").replace("`", ""), 16)
    if value >> width:
        _bad(number, f"{_quote(text)} has more than {width} bits; {_EXAMPLE}")
    return value


def _split(text: str) -> list[str]:
    """Return the lines that editors count: str.splitlines() knows further ends of lines."""
    return re.split(r"\r\n?|\n", text)


def _vbox_log(text: str) -> dict[int, int]:
    table = _Table()
    for number, line in enumerate(_split(text), 1):
        found = _VBOX.search(line[:_MAX_LINE])
        # Parts of a register are logged like registers of their own: MSR_IA32_VMX_MISC_CR3_TARGET.
        if found and found[1] in _INDEX_BY_NAME:
            table.add(number, _INDEX_BY_NAME[found[1]], _hex(number, found[2].strip(), 64))
    return table.msrs


def _lines(text: str) -> dict[int, int]:
    table = _Table()
    command: _Rdmsr | None = None
    for number, raw in enumerate(_split(text), 1):
        if len(raw) > _MAX_LINE:
            _bad(number, f"this is longer than {_MAX_LINE} characters; {_EXAMPLE}")
        line = _without_prefix(raw)
        started = _COMMAND.fullmatch(line)
        refused = _CANNOT_READ.fullmatch(line)
        if refused:
            _cannot_read(number, _hex(number, refused["index"], 32), command, table)
            command = None
        elif started:
            _finish(command, table)
            command = _Rdmsr(number, started["arguments"])
        elif command and not _PAIR.fullmatch(line) and _without_comment(line):
            command.printed(number, _without_comment(line))
        elif _without_comment(line):
            _finish(command, table)
            command = None
            _pair(number, _without_comment(line), table)
    _finish(command, table)
    return table.msrs


def _without_prefix(line: str) -> str:
    line = line.strip()
    while found := _PREFIX.match(line):
        line = line[found.end() :].lstrip()
    return line


def _without_comment(line: str) -> str:
    """Return the line without a comment; `#GP` is a value."""
    return re.sub(r"(?:^|\s)#(?!GP\b).*", "", line).rstrip(" \t,;")


def _pair(number: int, line: str, table: _Table) -> None:
    if line.startswith("rdmsr"):
        line = line.removeprefix("rdmsr").lstrip()
    found = _PAIR.fullmatch(line)
    if not found:
        _bad(number, f"{_quote(line)} is no MSR and its value; {_EXAMPLE}")
    value = None if found["value"] in _ABSENT else _hex(number, found["value"], 64)
    name = found["index"].removeprefix("MSR_")
    if not name.startswith("IA32_"):
        table.add(number, _hex(number, name, 32), value)
    elif name in _INDEX_BY_NAME:
        table.add(number, _INDEX_BY_NAME[name], value)
    elif name.startswith("IA32_VMX_"):
        _bad(number, f"no VMX capability MSR is named {_quote(name)}; {_EXAMPLE}")


# rdmsr.

_WITH_ARGUMENT = ("-p", "--processor", "-f", "--bitfield")
_BASES = {"d": 10, "u": 10, "o": 8, "x": 16, "X": 16, "c": 16}
_LONG = {"--decimal": 10, "--unsigned": 10, "--octal": 8}


class _Rdmsr:
    """A command of a transcript, and the value that it has printed so far."""

    def __init__(self, number: int, arguments: str) -> None:
        self.number = number
        self.value: int | None = None
        self.base = 16
        self.index = self._parse(arguments.split())

    def _parse(self, arguments: list[str]) -> int:
        indices = []
        rest = iter(arguments)
        for argument in rest:
            if not argument.startswith("-"):
                indices.append(argument)
                continue
            if argument.startswith(("-f", "--bitfield", "-r", "--raw")):
                _bad(self.number, "rdmsr prints raw bytes or a part of the MSR with this option")
            self._option(argument)
            if argument in _WITH_ARGUMENT:
                next(rest, None)
        if len(indices) != 1 or not re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}", indices[0]):
            _bad(self.number, f"rdmsr of {_quote(' '.join(arguments))} names no single MSR")
        # strtoul() with base 0, as rdmsr has it; nobody writes octal here.
        return int(indices[0], 16 if indices[0][:2] in ("0x", "0X") else 10)

    def _option(self, argument: str) -> None:
        if argument.startswith("--"):
            self.base = _LONG.get(argument, self.base)
            return
        for letter in argument[1:]:
            if letter == "p":  # the rest is the number of the processor
                return
            self.base = _BASES.get(letter, self.base)

    def printed(self, number: int, line: str) -> None:
        """Take a line of output: one value, the same for each processor."""
        value = self._number(number, line)
        if self.value is not None and value != self.value:
            _bad(number, f"MSR {self.index:#x} differs between processors; give those of one")
        self.value = value

    def _number(self, number: int, line: str) -> int:
        if self.base == 16:
            return _hex(number, line, 64)
        digits = r"-?[0-9]{1,20}" if self.base == 10 else "[0-7]{1,22}"
        if not re.fullmatch(digits, line):
            _bad(number, f"{_quote(line)} is no number as rdmsr prints it with these options")
        value = int(line, self.base)
        if not -(1 << 63) <= value < 1 << 64:
            _bad(number, f"{_quote(line)} has more than 64 bits")
        return value & (1 << 64) - 1


def _cannot_read(number: int, index: int, command: _Rdmsr | None, table: _Table) -> None:
    """Note an MSR that does not exist, and leave the command that tried to read it."""
    if command and command.index != index:
        _finish(command, table)
    table.add(number, index, None)


def _finish(command: _Rdmsr | None, table: _Table) -> None:
    if command is None:
        return
    if command.value is None:
        _bad(command.number, f"the value is missing that rdmsr printed for {command.index:#x}")
    table.add(command.number, command.index, command.value)

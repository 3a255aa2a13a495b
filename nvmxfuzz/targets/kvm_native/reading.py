# SPDX-License-Identifier: GPL-2.0-only
"""Reading struct nvmx_result: counts at once for loops, the whole as a value when asked."""

from __future__ import annotations

import ctypes
import re
from typing import Final

from nvmxfuzz.targets.kvm_native import native
from nvmxfuzz.targets.kvm_native.results import CallResult, CallStatus, Check, Warn
from nvmxfuzz.targets.kvm_native.symbols import Symbols

_FOLDERS: Final = ("arch/x86/", "virt/kvm/", "include/", "lib/", "kernel/", "mm/")
"""Folders at the top of a kernel tree, with what they hold that may warn; the first one counts."""

_PLACE: Final = re.compile(r"(?P<file>[^ :]*/[^ :]*)(?=:\d)")
_CHECK: Final = native.Result.check.offset
_SITE: Final = ctypes.sizeof(native.Site)
_NEAR_ZERO: Final = 0x10000
_ERRNOS: Final = range(0xFFFF_F000, 1 << 32)


class ResultReader:
    """Reads the result of the last guarded call. `words` are those of the structure, 32 bits each.

    The constants are indices into them; reading one so is faster than any attribute.
    """

    STATUS: Final = native.Result.status.offset // 4
    STEPS: Final = native.Result.steps.offset // 4
    WARNINGS: Final = native.Result.warnings.offset // 4
    CHECKS: Final = native.Result.checks.offset // 4
    UNKNOWN_MSRS: Final = native.Result.unknown_msrs.offset // 4

    def __init__(self, result: native.Result, symbols: Symbols) -> None:
        self._result = result
        self._symbols = symbols
        self._texts: dict[int, str] = {0: ""}
        self._bytes = memoryview(result).cast("B")
        self.words = self._bytes.cast("I")

    def text(self, address: int | None) -> str:
        """Return the string constant at an address of the object, "" for none."""
        key = address or 0
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = ctypes.string_at(key).decode("utf-8", "replace")
        return text

    def check_sites(self) -> bytes:
        """Return what names the consistency checks that failed: the same bytes, the same checks."""
        count = min(self.words[self.CHECKS], native.SITES)
        return bytes(self._bytes[_CHECK : _CHECK + count * _SITE])

    def first_check(self) -> Check | None:
        """Return the consistency check that failed first, None if none did."""
        return self._check(self._result.check[0]) if self.words[self.CHECKS] else None

    def result(self) -> CallResult:
        """Return all there is to know."""
        raw = self._result
        status = _status(raw.status)
        faulted = status == "signal"
        checks = raw.check[: min(raw.checks, native.SITES)]
        warnings = raw.warning[: min(raw.warnings, native.SITES)]
        return CallResult(
            value=_signed(raw.value) if status == "returned" else 0,
            status=status,
            message=_PLACE.sub(_relative, _decoded(raw.message)),
            signal=raw.signal if faulted else 0,
            place=self._symbols.place(raw.fault_offset) if faulted else "",
            caller=self._symbols.place(raw.caller_offset) if faulted else "",
            fault_address=_near_zero(raw.fault_address) if faulted else None,
            warnings=tuple(
                [Warn(kernel_path(self.text(site.where)), site.line) for site in warnings]
            ),
            checks=tuple([self._check(site) for site in checks]),
            log=tuple([_decoded(line.value) for line in raw.log[: min(raw.lines, native.LINES)]]),
            warning_count=raw.warnings,
            check_count=raw.checks,
            line_count=raw.lines,
            unknown_msrs=raw.unknown_msrs,
            first_unknown_msr=raw.unknown_msr if raw.unknown_msrs else None,
            steps=raw.steps,
        )

    def _check(self, site: native.Site) -> Check:
        return Check(self.text(site.text), self.text(site.where), site.code)


def kernel_path(file: str) -> str:
    """Return a file's path from the top of the kernel tree, or its name if that is not told."""
    for folder in _FOLDERS:
        start = f"/{file}".rfind(f"/{folder}")
        if start >= 0:
            return file[start:]
    return file.rpartition("/")[2]


def _relative(match: re.Match[str]) -> str:
    return kernel_path(match["file"])


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _status(number: int) -> CallStatus:
    return native.STATUS_NAMES[number]


def _signed(value: int) -> int:
    # An int of C that is negative leaves the upper half of the word alone.
    return value - (1 << 32) if value in _ERRNOS else value


def _near_zero(address: int) -> int | None:
    return address if address < _NEAR_ZERO else None

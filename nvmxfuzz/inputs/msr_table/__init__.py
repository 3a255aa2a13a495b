# SPDX-License-Identifier: GPL-2.0-only
"""Reads tables of capability MSRs in the forms in which people have them.

* The project's TOML (a profile) or JSON: a profile, `{"msrs": {...}}`, the raw form's
  `{"profile": ...}`, or `{"0x480": "0x..."}` alone.
* Lines with an index or an SDM or kernel name, and a value: `0x480 = 0xda04...`,
  `480: 00da04...`, `IA32_VMX_BASIC 0xda04...`, WinDbg's `msr[480] = 00da0400`00000004`,
  CHIPSEC's `CPU0: RDMSR( 0x480 ) = ...`; with or without a time stamp of dmesg, syslog or
  journalctl, or the processor. **Both numbers are hexadecimal, with 0x or without.** A value of `-`
  says that the MSR does not exist. `#` begins a comment; parentheses behind a value are one.
* A transcript of `rdmsr` commands and what they printed. As for rdmsr itself, an index without 0x
  is decimal there, a value hexadecimal unless an option says otherwise; with `-a` all
  processors must agree, and so must commands with different `-p`.
* What QEMU's `vmxcap` prints; a table of `turbostat --add msr0x480,u64,raw`.
* A VirtualBox log: its lines `HM: MSR_IA32_VMX_... = ...` (`HWACCM:` in old versions, which
  also leave out 0x), and nothing else of it. A log of QEMU or of kvm-unit-tests: the lines that are
  about an MSR of VMX.

Other MSRs than the VMX capability MSRs (0x480 to 0x493) are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.msr_table import logs, turbostat, vmxcap
from nvmxfuzz.inputs.msr_table.found import EXAMPLE
from nvmxfuzz.inputs.msr_table.lines import from_lines
from nvmxfuzz.inputs.msr_table.structured import from_json, from_toml
from nvmxfuzz.machine.profile import Profile

MAX_BYTES: Final = 1 << 20
"""A longer file is refused."""

_TOML: Final = re.compile(r"^[ \t]*(\[[ \t]*msrs[ \t]*\]|msrs(\.\S+)?[ \t]*=)", re.MULTILINE)

_FORMS: Final[tuple[tuple[re.Pattern[str], Callable[[str], dict[int, int]]], ...]] = (
    (vmxcap.HEADING, vmxcap.from_vmxcap),
    (logs.VIRTUALBOX, logs.from_virtualbox),
    (turbostat.HEADER, turbostat.from_turbostat),
    (logs.TEST_LOG, logs.from_test_log),
)
"""By what a form is known, and who reads it."""


def parse_processor(data: bytes, name: str = "custom") -> Profile:
    """Return the processor that `data` describes; what it leaves out has the profile's default.

    Raises InputError, with the number of the line, for what cannot be understood.
    """
    text = _text(data)
    if text.lstrip().startswith("{"):
        return from_json(text, name)
    if _TOML.search(text):
        return from_toml(text, name)
    read = next((reader for form, reader in _FORMS if form.search(text)), from_lines)
    msrs = read(text)
    if not msrs:
        raise InputError(f"no capability MSR was found: {EXAMPLE}")
    return Profile.from_mapping({"msrs": msrs}, name)


def _text(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise InputError(
            f"an MSR table of {len(data)} bytes is too long: give at most {MAX_BYTES} bytes"
        )
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding, errors="replace")

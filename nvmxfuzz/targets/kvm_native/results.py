# SPDX-License-Identifier: GPL-2.0-only
"""What came of a call into KVM, as a value: nothing in it depends on the process or the machine."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

CallStatus = Literal[
    "returned", "bug", "unresolved", "signal", "steps", "time", "heap", "full", "port"
]
"""How the call ended: enum nvmx_status of shim/nvmx.h."""


@dataclass(frozen=True, slots=True)
class Warn:
    """A WARN of the kernel: the file, from the top of the kernel tree, and the line."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Check:
    """A consistency check that failed: the text of its condition, and the function it stands in.

    `code` is the entry failure code that was traced with it (enum vm_entry_failure_code).
    """

    text: str
    function: str
    code: int = 0


@dataclass(frozen=True, slots=True)
class CallResult:
    """What came of one call.

    `value` is what the function returned, signed; 0 if it did not return. `message` belongs to
    the status: file and line of a BUG, the name nobody defines, what is wrong with the heap...
    `place` and `caller` are function+0xoffset of a signal and of the top of its stack, or "?";
    `fault_address` is where the fault went, if that is near 0: greater ones depend on the process.
    Of warnings, checks and lines the first are kept; the counts count all.
    """

    value: int
    status: CallStatus
    message: str = ""
    signal: int = 0
    place: str = ""
    caller: str = ""
    fault_address: int | None = None
    warnings: tuple[Warn, ...] = ()
    checks: tuple[Check, ...] = ()
    log: tuple[str, ...] = ()
    warning_count: int = 0
    check_count: int = 0
    line_count: int = 0
    unknown_msrs: int = 0
    first_unknown_msr: int | None = None
    steps: int = 0

    def sentence(self) -> str:
        """Return how the call ended, for a report."""
        match self.status:
            case "returned":
                return f"returned {self.value}"
            case "bug":
                at_line = self.message.rpartition(":")[2].isdigit()
                return f"BUG at {self.message}" if at_line else f"BUG: {self.message}"
            case "unresolved":
                return f"{self.message} is called, which nothing defines"
            case "signal":
                return f"{_signal_name(self.signal)} {self._where()}"
            case "steps":
                return f"no end after {self.steps} steps"
            case "time":
                return "no end within the time limit"
            case "heap":
                return f"heap damage: {self.message}"
            case "full":
                return f"out of memory: {self.message}"
            case "port":
                return f"hardware port: {self.message}"

    def _where(self) -> str:
        place = f"in {self.place}, called from {self.caller}"
        match self.fault_address:
            case None:
                return place
            case 0:
                # The processor tells no address where it is not canonical.
                return f"{place}, for address 0 or one that is not canonical"
            case address:
                return f"{place}, for address {address:#x}"


class Stopped(Exception):  # noqa: N818 # it is no error of the harness, but what came of a case
    """A call that did not return: the state is undefined until a snapshot is restored."""

    def __init__(self, result: CallResult) -> None:
        super().__init__(result.sentence())
        self.result = result

    def __reduce__(self) -> tuple[type[Stopped], tuple[CallResult]]:
        return Stopped, (self.result,)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

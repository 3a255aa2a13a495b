# SPDX-License-Identifier: GPL-2.0-only
"""Reads the dumps that KVM and QEMU print when a VM entry fails, out of a log.

* `dump_vmcs()` of KVM, which prints where kvm_intel.dump_invalid_vmcs=1: kernels 5.x to 6.x, with
  what dmesg, journalctl, syslog or a console put before each line.
* The registers that QEMU prints below "KVM: entry failed, hardware error ..." or "KVM internal
  error", of 32-bit and 64-bit guests; the error alone is a dump as well.

Foreign lines may stand anywhere between; a dump may be cut off at either end.
"""

from __future__ import annotations

from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.dumps.dump import Dump
from nvmxfuzz.inputs.dumps.kernel import KernelReader
from nvmxfuzz.inputs.dumps.lines import Line, lines_of
from nvmxfuzz.inputs.dumps.qemu import QemuReader

MAX_BYTES: Final = 16 << 20
"""A longer file is refused."""

_MOST_DUMPS: Final = 256
_TOO_MANY: Final = (
    f"more than {_MOST_DUMPS} different dumps are in it: cut out the part with the first"
)
_ADVICE: Final = (
    "give a kernel log with kvm_intel.dump_invalid_vmcs=1 set, or QEMU's output with its registers"
)


def read_dumps(data: bytes) -> tuple[Dump, ...]:
    """Return the dumps in a log, in the order of their first lines; a repeated one comes once.

    Raises InputError where there is none, where two are mixed, and for what is no text.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"it is larger than {MAX_BYTES >> 20} MiB: cut out the part with the dump")
    if not data.strip():
        raise InputError(f"it is empty: {_ADVICE}")
    kernels: dict[str, KernelReader] = {}
    qemu = QemuReader()
    for line in lines_of(data):
        if not _taken(line, kernels):
            qemu.take(line)
    found = [dump for kernel in kernels.values() for dump in kernel.finish()]
    found += qemu.finish()
    if not found:
        raise InputError(f"no dump of a failed VM entry is in it: {_ADVICE}")
    return _distinct(sorted(found, key=lambda dump: dump.line))


def _taken(line: Line, kernels: dict[str, KernelReader]) -> bool:
    """Give a line to the reader of the task that has printed it; tell whether it is of a dump.

    Where the log does not name tasks, all lines are of one. Two dumps at once do not mix so.
    """
    reader = kernels.get(line.caller)
    if reader is not None:
        return reader.take(line)
    reader = KernelReader()
    taken = reader.take(line)
    if taken:
        kernels[line.caller] = reader
    if len(kernels) > _MOST_DUMPS:
        raise InputError(_TOO_MANY)
    return taken


def _distinct(dumps: list[Dump]) -> tuple[Dump, ...]:
    first: dict[tuple[object, ...], Dump] = {}
    for dump in dumps:
        known = first.get(dump.content)
        first[dump.content] = dump if known is None else known.again()
    if len(first) > _MOST_DUMPS:
        raise InputError(_TOO_MANY)
    return tuple(first.values())

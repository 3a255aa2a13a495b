# SPDX-License-Identifier: GPL-2.0-only
"""Which lines of nested.c cases reach in the object that `nvmxfuzz build kvm --gcov` makes.

The counts of gcov are written when a process ends, so that one of its own runs the cases:
`python -m nvmxfuzz.targets.kvm_native.line_coverage KERNEL FOLDER SECONDS`. Nothing of the kernel's
text is looked at: lines are told by number, functions by name.
"""

from __future__ import annotations

import faulthandler
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.targets.kvm_native.bench.gcov import Counts, counted
from nvmxfuzz.targets.kvm_native.build.objects import find_object
from nvmxfuzz.targets.kvm_native.target import KvmTarget, loader

_VARIANT: Final = "gcov"
_COUNT: Final = "count"
_GRACE: Final = 60.0
"""Seconds after which a case that does not come back ends it all."""


@dataclass(frozen=True, slots=True)
class FunctionLines:
    """The lines of a function that have code: those that were executed, and those that were not."""

    name: str
    reached: tuple[int, ...]
    missed: tuple[int, ...]


def lines_reached(
    kernel: str, cases: Sequence[str], seconds: float
) -> tuple[tuple[FunctionLines, ...], int]:
    """Return the functions of nested.c in their order, and how many of the cases were run.

    A case is TOML of a VM entry; others are passed over. After `seconds` no further one is begun.
    InputError if the object or gcov is not there, or the process fails.
    """
    with TemporaryDirectory() as folder:
        for number, text in enumerate(cases):
            Path(folder, f"{number:06}.toml").write_text(text)
        words = [sys.executable, "-m", __name__, kernel, folder, str(seconds)]
        try:
            counts = counted(find_object(kernel, _VARIANT), words)
        except subprocess.SubprocessError as error:
            raise InputError(f"its lines could not be counted ({error}): see above") from error
        return _functions(counts), int(Path(folder, _COUNT).read_text())


def _functions(counts: Counts) -> tuple[FunctionLines, ...]:
    lines: dict[str, dict[int, int]] = {}
    for (function, line), count in counts.lines.items():
        lines.setdefault(function, {})[line] = count
    return tuple(
        FunctionLines(
            name,
            tuple(line for line in sorted(found) if found[line]),
            tuple(line for line in sorted(found) if not found[line]),
        )
        for name, found in sorted(lines.items(), key=lambda each: min(each[1]))
    )


def _run(kernel: str, folder: Path, seconds: float) -> int:
    """Run the cases of a folder, as far as the time goes; return how many those were."""
    faulthandler.dump_traceback_later(seconds + _GRACE, exit=True)
    target, end = KvmTarget(kernel, load=loader(kernel, _VARIANT)), monotonic() + seconds
    count = 0
    for path in sorted(folder.glob("*.toml")):
        if monotonic() > end:
            break
        case = load_case(path.read_bytes(), path.name)
        if isinstance(case, EntryCase):
            count += 1
            if target.run(case.attempt).outcome == ENTERED:
                target.on_hardware(case.attempt)
    target.close()
    return count


def main() -> None:
    """Run the cases, and leave their number behind."""
    kernel, folder, seconds = sys.argv[1:]
    count = _run(kernel, Path(folder), float(seconds))
    Path(folder, _COUNT).write_text(str(count))


if __name__ == "__main__":
    main()

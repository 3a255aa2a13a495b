# SPDX-License-Identifier: GPL-2.0-only
"""Which lines of nested.c cases reach in the object that `nvmxfuzz build kvm --gcov` makes.

The counts of gcov are written when a process ends, so that one of its own runs the cases:
`python -m nvmxfuzz.targets.kvm_native.line_coverage KERNEL KIND FOLDER SECONDS`. Nothing of the
kernel's text is looked at: lines are told by number, functions by name.
"""

from __future__ import annotations

import faulthandler
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from types import MappingProxyType
from typing import Final, Literal

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case, EntryCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.targets.kvm_native.bench.corpus_runs import sessions
from nvmxfuzz.targets.kvm_native.bench.gcov import Counts, counted, together
from nvmxfuzz.targets.kvm_native.build.objects import find_object
from nvmxfuzz.targets.kvm_native.target import KvmTarget, loader

Kind = Literal["vm_entry", "session"]
KINDS: Final[tuple[Kind, ...]] = ("vm_entry", "session")

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
    kernel: str, cases: Mapping[Kind, Sequence[str]], seconds: float
) -> tuple[tuple[FunctionLines, ...], int]:
    """Return the functions of nested.c in their order, and how many of the cases were run.

    A case is TOML of its kind. After `seconds` for each kind no further one is begun. InputError
    if the object or gcov is not there, or a process fails.
    """
    parts = [_counted(kernel, kind, texts, seconds) for kind, texts in cases.items() if texts]
    return _functions(together(counts for counts, _ in parts)), sum(run for _, run in parts)


def _counted(kernel: str, kind: Kind, cases: Sequence[str], seconds: float) -> tuple[Counts, int]:
    with TemporaryDirectory() as folder:
        for number, text in enumerate(cases):
            Path(folder, f"{number:06}.toml").write_text(text)
        words = [sys.executable, "-m", __name__, kernel, kind, folder, str(seconds)]
        try:
            counts = counted(find_object(kernel, _VARIANT), words)
        except subprocess.SubprocessError as error:
            raise InputError(f"its lines could not be counted ({error}): see above") from error
        return counts, int(Path(folder, _COUNT).read_text())


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


def _entries(kernel: str, cases: Iterable[Case]) -> None:
    target = KvmTarget(kernel, load=loader(kernel, _VARIANT))
    for case in cases:
        if isinstance(case, EntryCase) and target.run(case.attempt).outcome == ENTERED:
            target.on_hardware(case.attempt)
    target.close()


_PLAY: Final[Mapping[Kind, Callable[[str, Iterable[Case]], None]]] = MappingProxyType(
    {"vm_entry": _entries, "session": sessions}
)


@dataclass(slots=True)
class _Cases:
    """The cases of a folder, as far as the time goes; `taken` are those that were."""

    folder: Path
    seconds: float
    taken: int = 0

    def __iter__(self) -> Iterator[Case]:
        end = monotonic() + self.seconds
        for path in sorted(self.folder.glob("*.toml")):
            if monotonic() > end:
                return
            self.taken += 1
            yield load_case(path.read_bytes(), path.name)


def main() -> None:
    """Run the cases, and leave their number behind."""
    kernel, kind, folder, seconds = sys.argv[1:]
    faulthandler.dump_traceback_later(float(seconds) + _GRACE, exit=True)
    cases = _Cases(Path(folder), float(seconds))
    next(play for name, play in _PLAY.items() if name == kind)(kernel, cases)
    Path(folder, _COUNT).write_text(str(cases.taken))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: GPL-2.0-only
"""What a campaign is asked to do, and the harness file it runs."""

from __future__ import annotations

import importlib.util
import os
import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.settings import EngineName
from nvmxfuzz.errors import InputError

ROOT = Path(__file__).parents[2]
"""The checkout."""

DEFAULT_CASE_SECONDS = 10.0
DEFAULT_MEMORY = 2 << 30
DEFAULT_TURN = 300.0
DEFAULT_RERUNS = 5
_LONGEST_REASON = 300
_LIBRARIES = {"atheris": "atheris", "hypothesis": "hypothesis", "random": None}


@dataclass(frozen=True, slots=True)
class Job:
    """A part of a campaign: one harness, one engine, perhaps a second witness.

    `workers` are for this job alone; without, it takes turns with the other jobs that have none,
    in the ratio of their weights.
    """

    file: Path
    engine: EngineName
    target: str | None = None
    weight: int = 1
    workers: int | None = None

    @property
    def reference(self) -> str:
        """What a store notes of the harness."""
        return harness_reference(self.file)

    @property
    def label(self) -> str:
        """The job in a few words."""
        place = f" on {self.target}" if self.target else ""
        return f"{self.reference}{place} by {self.engine}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The jobs of a campaign, its seed, and where to stop; None is no limit.

    `idle_seconds` is how long there may be no new behaviour, `until_seen` ends the campaign when
    every rule (or other point) was seen held and broken. `case_seconds` is how long one input may
    take before the worker counts as hung, `memory` the address space of a worker in bytes, beyond
    what its witnesses take, `turn_seconds` how long a worker stays with a job if there are more
    jobs than workers, `reruns` how often a finding is run again. `resumptions` counts how often
    the campaign was taken up again.
    """

    jobs: tuple[Job, ...]
    seed: int
    workers: int = 1
    runs: int | None = None
    seconds: float | None = None
    idle_seconds: float | None = None
    until_seen: bool = False
    case_seconds: float = DEFAULT_CASE_SECONDS
    memory: int = DEFAULT_MEMORY
    turn_seconds: float = DEFAULT_TURN
    reruns: int = DEFAULT_RERUNS
    resumptions: int = 0


def harness_names() -> tuple[str, ...]:
    """Return the names of the harnesses in the checkout."""
    return tuple(sorted(path.stem for path in (ROOT / "fuzz").glob("*.py")))


def harness_file(name: str) -> Path:
    """Return the file of a harness by its name, or by the path of a Python file of one's own."""
    if name in harness_names():
        return ROOT / "fuzz" / f"{name}.py"
    path = Path(name)
    if path.suffix == ".py" and os.path.isfile(path):
        return path.resolve()
    raise InputError(
        f"there is no harness {name[:80]!r}: choose among {', '.join(harness_names())}, "
        "or give the path of a Python file that defines HARNESS"
    )


def harness_reference(file: Path) -> str:
    """Return what a store notes of a harness, which `referenced_harness` finds again.

    It is the name of a harness in `fuzz/`, else the path of the file: from the checkout if it is
    in there, which may then be moved, else from the root.
    """
    file, root = file.resolve(), ROOT.resolve()
    if not file.is_relative_to(root):
        return str(file)
    path = file.relative_to(root)
    return path.stem if path.parent == Path("fuzz") else str(path)


def referenced_harness(reference: str) -> Path:
    """Return the file of a harness that a store names; InputError if it is not there any more."""
    name = f"fuzz/{reference}.py" if Path(reference).suffix != ".py" else reference
    file = ROOT / name
    if not os.path.isfile(file):
        # A store may be anybody's, and name anything.
        told = str(file)[:_LONGEST_REASON]
        raise InputError(f"the harness {told} is not there any more: bring the file back")
    return file


def load_harness(file: Path) -> Harness:
    """Return what the harness file defines as HARNESS; whatever else it does is an InputError.

    Nothing bounds how long the file runs: one that loops waits for Ctrl-C, which works. In a
    worker process, where the file is run again, the runner gives up after
    `workers.START_SECONDS`.
    """
    try:
        harness = runpy.run_path(str(file)).get("HARNESS")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # It is code of the user's: it may raise anything, and SystemExit would end us in silence.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]
        raise InputError(f"{file} is no harness that can be loaded: {reason}") from error
    if not isinstance(harness, Harness):
        raise InputError(f"{file} is no harness: it must define HARNESS, see fuzz/vm_entry.py")
    return harness


def require_engine(engine: EngineName) -> None:
    """Raise InputError if the library of an engine is not installed for this Python."""
    library = _LIBRARIES[engine]
    if library is not None and importlib.util.find_spec(library) is None:
        raise InputError(
            f"engine {engine} needs the package {library}, which is not installed for this "
            "Python: use --engine random, or set up again with a Python that has it"
        )


def corpus_files(harness: str) -> Iterator[Path]:
    """Yield the files that a campaign may begin with: the harness' seeds, then every vector."""
    yield from sorted((ROOT / "corpus" / "seeds" / harness).rglob("*.toml"))
    yield from sorted((ROOT / "corpus" / "vectors").rglob("*.toml"))

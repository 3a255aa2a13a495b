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
_LONGEST_REASON = 300
_LIBRARIES = {"atheris": "atheris", "hypothesis": "hypothesis", "random": None}


@dataclass(frozen=True, slots=True)
class Plan:
    """One harness, one engine, one seed, and where to stop; None is no limit.

    `case_seconds` is how long one input may take before the worker counts as hung, `memory` the
    address space of a worker in bytes, beyond what its witnesses take, `seeds` the encoded inputs
    to begin with, `target` the name of a second witness.
    """

    file: Path
    engine: EngineName
    seed: int
    runs: int | None = None
    seconds: float | None = None
    seeds: tuple[bytes, ...] = ()
    case_seconds: float = DEFAULT_CASE_SECONDS
    memory: int = DEFAULT_MEMORY
    target: str | None = None


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
        raise InputError(f"the harness {file} is not there any more: bring the file back")
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

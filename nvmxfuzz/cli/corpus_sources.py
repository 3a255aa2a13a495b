# SPDX-License-Identifier: GPL-2.0-only
"""What `nvmxfuzz corpus` is given: cases, encoded inputs, folders of them, and stores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nvmxfuzz.campaign.harness import WITNESS_ERRORS, Harness
from nvmxfuzz.campaign.plan import (
    harness_file,
    harness_names,
    harness_reference,
    load_harness,
    referenced_harness,
)
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.campaign.store import Store, is_store, open_store
from nvmxfuzz.campaign.store.values import StoredInput
from nvmxfuzz.cli.files import MAX_BYTES, read_file, what
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.text import dump_text

_CASES = (".toml", ".json")


@dataclass(frozen=True, slots=True)
class Found:
    """An input, where it comes from, and what it is an input of."""

    name: str
    harness: str
    target: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Bad:
    """What is no input, and why, in a sentence that names it."""

    reason: str


@dataclass(slots=True)
class Harnesses:
    """The harnesses by the names that stores have for them, each loaded once.

    A store may be anybody's: a Python file that it names is run only if the user names it as well,
    as `chosen`.
    """

    chosen: str | None = None
    _loaded: dict[tuple[str, str], Harness] = field(default_factory=dict)

    @classmethod
    def naming(cls, name: str | None) -> Harnesses:
        """Return the harnesses where the user has named one, by `--harness`."""
        return cls(None if name is None else harness_reference(harness_file(name)))

    def get(self, reference: str, target: str) -> Harness:
        """Return a harness on a target, "" for none; InputError if it cannot be had."""
        if reference not in (*harness_names(), self.chosen):
            raise InputError(
                f"the harness {reference[:200]} is a file of somebody's: name it with --harness to "
                "have it run"
            )
        key = reference, target
        if key not in self._loaded:
            harness = load_harness(referenced_harness(reference))
            self._loaded[key] = with_target(harness, target or None, isolated=True)
        return self._loaded[key]

    def wants(self, reference: str) -> bool:
        """Tell whether inputs of a harness are asked for."""
        return self.chosen in (None, reference)

    def text(self, found: Found) -> str:
        """Return the TOML case that an input is."""
        return dump_text(self.get(found.harness, found.target).decode(found.data))


@dataclass(frozen=True, slots=True)
class Sources:
    """Reads what is named; `target` is what cases and inputs are for, None if it is not said.

    The files of the store `own` are left alone: closing one would drop the locks on it.
    """

    harnesses: Harnesses
    target: str | None
    own: Path | None = None

    def read(self, path: Path) -> Iterator[Found | Bad]:
        """Yield the inputs in a file, a folder or a store, and what is none."""
        if self._is_own(path):
            yield Bad(f"{path} is the store itself: name something else")
        elif os.path.isdir(path):
            for file in files_below(path):
                if not self._is_own(file):
                    yield from self._file(file, within=True)
        elif is_store(path):
            yield from self._store(path)
        else:
            yield from self._file(path)

    def _is_own(self, path: Path) -> bool:
        if self.own is None:
            return False
        if path.exists() and self.own.exists() and path.samefile(self.own):
            return True
        own, folder = Path(os.path.realpath(self.own)), os.path.realpath(path.parent)
        return path.name.startswith(own.name) and folder == str(own.parent)

    def _file(self, path: Path, *, within: bool = False) -> Iterator[Found | Bad]:
        """Yield what a file is; `within` a folder that is named nothing, if it is not wanted."""
        try:
            data = read_file(path)
            if path.suffix in _CASES:
                found = self._of_case(path, load_case(data, str(path)), within)
            else:
                found = self._encoded(path, data)
        except InputError as error:
            yield Bad(str(error))
        else:
            if found is not None:
                yield found

    def _of_case(self, path: Path, case: Case, within: bool) -> Found | None:
        reference = self.harnesses.chosen or case.harness
        target = self.target or ""
        harness = self.harnesses.get(reference, target)
        if harness.kind != case.harness:
            if within:
                return None
            raise InputError(f"{path} is {what(case)}: the harness {reference} takes none")
        return Found(path.name, reference, target, harness.encode(case))

    def _encoded(self, path: Path, data: bytes) -> Found:
        if self.harnesses.chosen is None:
            raise InputError(
                f"{path} is no .toml, no .json and no store: if it is an encoded input, name its "
                "harness with --harness"
            )
        return Found(path.name, self.harnesses.chosen, self.target or "", data)

    def _store(self, path: Path) -> Iterator[Found | Bad]:
        try:
            with open_store(path, create=False) as store:
                for harness, target in store.count_inputs():
                    if self.harnesses.wants(harness):
                        for each in store.inputs(harness, target):
                            yield self._stored(path, each)
        except InputError as error:
            yield Bad(str(error))

    def _stored(self, path: Path, stored: StoredInput) -> Found | Bad:
        name = f"input {stored.number} of {path}"
        if len(stored.data) > MAX_BYTES:
            return Bad(f"{name} is larger than 1 MiB: no case is that large")
        found = Found(stored.provenance.name, stored.harness, stored.target, stored.data)
        if self.target in (None, stored.target):
            return found
        target = self.target or ""
        try:
            case = self.harnesses.get(stored.harness, stored.target).decode(stored.data)
            data = self.harnesses.get(stored.harness, target).encode(case)
        except InputError as error:
            return Bad(f"{name}: {error}")
        except WITNESS_ERRORS as error:
            return Bad(f"{name} is no case on {target or 'the rules'} ({error})")
        return Found(found.name, stored.harness, target, data)


def inputs_of(store: Store, harness: str, target: str) -> Iterator[Found]:
    """Yield the corpus of a store."""
    for each in store.inputs(harness, target):
        yield Found(each.provenance.name, harness, target, each.data)


def files_below(path: Path) -> Iterator[Path]:
    """Yield the cases below a folder and what has no suffix, as encoded inputs are called.

    In order of names, without what is hidden.
    """

    def unreadable(error: OSError) -> None:
        raise InputError(
            f"the folder {error.filename} cannot be read ({error.strerror}): make it readable, or "
            "name other folders"
        ) from error

    for folder, folders, names in os.walk(path, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and file.suffix in ("", *_CASES) and file.is_file():
                yield file

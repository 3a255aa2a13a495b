# SPDX-License-Identifier: GPL-2.0-only
"""The finding that a user names: one of a store by its identity, or a case in a file."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nvmxfuzz.campaign.store import StoredFinding, open_store
from nvmxfuzz.cli.files import read_file
from nvmxfuzz.cli.fuzz import DEFAULT_STORE
from nvmxfuzz.cli.invocation import typed_path
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.inputs.expectation import Vector
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.machine.outside import show
from nvmxfuzz.triage.case_finding import CaseFinding, file_of, shown_finding, stored_finding

_SUFFIXES: Final = (".toml", ".json")


@dataclass(frozen=True, slots=True)
class Named:
    """A case, and what it is known to show if it comes from a store or says so itself.

    `again` are the words by which `nvmxfuzz replay` knows it, `reference` those of `export`.
    """

    name: str
    vector: Vector
    again: str
    reference: str
    shows: CaseFinding | None = None

    @property
    def case(self) -> Case:
        """The case alone."""
        return self.vector.case

    @property
    def target(self) -> str | None:
        """The target that it shows on, if it takes one."""
        return self.shows.setting.target if self.shows else None


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare what names a finding."""
    command.add_argument(
        "finding",
        metavar="FINDING",
        help="the identity of a finding, as a campaign prints it, or a file with a case",
    )
    command.add_argument(
        "--store",
        type=Path,
        default=DEFAULT_STORE,
        metavar="FILE",
        help="the store of the campaign (default: that of the checkout)",
    )


def named(name: str, store: Path) -> Named:
    """Return what a user names; InputError if it is not there, or has no case."""
    path = Path(name)
    if path.is_dir():
        raise InputError(
            f"{show(name)} is a folder: name one case file in it, or a finding of the store"
        )
    if path.suffix in _SUFFIXES or path.is_file():
        vector = load_vector(read_file(path), name)
        typed = shlex.quote(name)
        shows = shown_finding(vector) if vector.shown else None
        return Named(shows.finding.identity if shows else path.stem, vector, typed, typed, shows)
    return of_stored(_stored(name, store), store)


def of_stored(stored: StoredFinding, store: Path) -> Named:
    """Return a finding of a store; InputError if it has no case."""
    found = stored_finding(stored)
    identity, kept = found.finding.identity, shlex.quote(typed_path(store))
    again, reference = f"{kept} --finding {identity}", f"{identity} --store {kept}"
    return Named(identity, file_of(found), again, reference, found)


def _stored(name: str, path: Path) -> StoredFinding:
    if not path.exists():
        raise InputError(
            f"{name} is no file, and there is no store {path}: name the store with --store"
        )
    with open_store(path, create=False) as store:
        return store.findings_named(name)[0]

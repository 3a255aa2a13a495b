# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz corpus`: bring inputs into a corpus, take them out, keep it small."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nvmxfuzz.campaign.harness import WITNESS_ERRORS
from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.campaign.store.values import Provenance
from nvmxfuzz.cli.build_progress import shown_progress
from nvmxfuzz.cli.corpus_files import folder_of, write_case
from nvmxfuzz.cli.corpus_merging import Merged, merged, pruned
from nvmxfuzz.cli.corpus_sources import Found, Harnesses, Sources, inputs_of
from nvmxfuzz.cli.invocation import typed_path
from nvmxfuzz.cli.streams import complain
from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.outside import printable, show

_BAD_INPUT = 2
_TOGETHER = 256
"""Inputs that are written in one transaction."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and what belongs to it."""
    command = commands.add_parser(
        "corpus",
        help="import inputs, export them as TOML, merge and prune a corpus",
        description="A campaign begins with the inputs in its store, and adds those that show "
        "something new. They are encoded; a case in TOML is the readable form of one.",
    )
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_import(actions)
    _add_export(actions)
    _add_merge(actions)
    _add_prune(actions)


def _add_import(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    action = actions.add_parser(
        "import",
        help="bring inputs into a store",
        description="Bring cases (TOML, raw JSON), encoded inputs, folders of them and the corpora "
        "of other stores into a store, all of them. What is no input is named, and skipped.",
        epilog="Exit status: 0 all are in the store, 2 some are not.",
    )
    _add_store(action)
    _add_sources(action)
    action.set_defaults(run=_import)


def _add_export(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    action = actions.add_parser(
        "export",
        help="write the corpus of a store as TOML",
        description="Write each input of a store as a case, into a folder for each harness below "
        "FOLDER. A file is called by what is in it, so that to export again changes nothing.",
    )
    _add_store(action)
    action.add_argument("folder", type=Path, metavar="FOLDER", help="such as corpus/seeds")
    _add_choice(action)
    action.set_defaults(run=_export)


def _add_merge(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    action = actions.add_parser(
        "merge",
        help="bring in what adds to a corpus, and no more",
        description="Run the harness on what is in DEST and in the sources, and bring a smallest "
        "set of inputs into DEST that together show every behaviour which DEST does not show yet. "
        "What is in DEST stays. A folder gets TOML cases.",
    )
    action.add_argument("dest", metavar="DEST", help="a store, or a folder that exists")
    _add_sources(action)
    action.set_defaults(run=_merge)


def _add_prune(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    action = actions.add_parser(
        "prune",
        help="drop the inputs of a store that show nothing of their own",
        description="Run the harness on every input of a store, and keep a smallest set that shows "
        "all the same behaviours; of two inputs that show the same, the smaller one.",
    )
    _add_store(action)
    action.add_argument("--dry-run", action="store_true", help="drop nothing, only tell")
    _add_choice(action)
    action.set_defaults(run=_prune)


def _add_store(action: argparse.ArgumentParser) -> None:
    action.add_argument("store", type=Path, metavar="STORE", help="the store of a campaign")


def _add_sources(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a file, a folder or another store"
    )
    action.add_argument(
        "--strict", action="store_true", help="bring in nothing if one of them is no input"
    )
    _add_choice(action)


def _add_choice(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--harness", metavar="HARNESS", help="only inputs of this one; encoded files are of it"
    )
    action.add_argument(
        "--target", metavar="NAME", help="inputs for this target: see nvmxfuzz targets"
    )
    action.add_argument("--json", action="store_true", help="one JSON object")


def _import(args: argparse.Namespace) -> int:
    sources = Sources(Harnesses.naming(args.harness), args.target, own=args.store)
    reader = _Reader(sources, strict=args.strict)
    new = known = 0
    with open_store(args.store) as store:
        store.claim()

        def keep(part: Iterable[Found]) -> int:
            return sum(
                store.keep_input(
                    each.harness, each.target, each.data, Provenance("import", each.name)
                )
                for each in part
            )

        # Strictly, nothing is in the store before the last one has been read.
        for part in _parts(reader.read(args.paths), None if args.strict else _TOGETHER):
            with store.together():
                added = keep(part)
            new, known = new + added, known + len(part) - added
    reply = {"imported": new, "known": known, "bad": reader.bad}
    _reply(args, reply, f"{new} imported, {known} there already, {reader.bad} bad")
    return _BAD_INPUT if reader.bad else 0


def _export(args: argparse.Namespace) -> int:
    harnesses = Harnesses.naming(args.harness)
    written = there = bad = 0
    with open_store(args.store, create=False) as store, shown_progress(sys.stderr) as progress:
        for (harness, target), count in store.count_inputs().items():
            if not harnesses.wants(harness) or args.target not in (None, target):
                continue
            progress.stage(f"writing {harness} {target}".strip(), count)
            for found in inputs_of(store, harness, target):
                progress.advance()
                text = _text(harnesses, found)
                if text is None:
                    bad += 1
                    continue
                new = write_case(folder_of(args.folder, harness), text)
                written, there = written + new, there + (not new)
    place = typed_path(args.folder)
    reply = {"written": written, "there": there, "bad": bad, "folder": place}
    _reply(args, reply, f"{written} written to {place}, {there} there already, {bad} bad")
    return _BAD_INPUT if bad else 0


def _text(harnesses: Harnesses, found: Found) -> str | None:
    """Return an input as a case; if that fails, name the reason and return None."""
    try:
        return harnesses.text(found)
    except InputError as error:
        complain(str(error))
    except WITNESS_ERRORS as error:
        complain(f"an input of {found.harness} is no case ({type(error).__name__}: {error})")
    return None


def _merge(args: argparse.Namespace) -> int:
    dest = _destination(args.dest)
    harnesses = Harnesses.naming(args.harness)
    sources = Sources(harnesses, args.target, own=None if dest.is_dir() else dest)
    reader = _Reader(sources, strict=args.strict)
    with shown_progress(sys.stderr) as progress:
        groups = merged(dest, reader.read(args.paths), harnesses, progress)
        bad = reader.bad + _tell(groups)
    _reply_groups(args, groups, "added", bad)
    return _BAD_INPUT if bad else 0


def _destination(name: str) -> Path:
    """Return the store or folder of that name; a folder must be there."""
    if name.endswith(os.sep) and not os.path.isdir(name):
        raise InputError(f"there is no folder {show(name)}: make it, or name a store")
    return Path(name)


def _prune(args: argparse.Namespace) -> int:
    harnesses = Harnesses.naming(args.harness)
    if (
        not args.store.exists()
    ):  # Whoever mistypes a name is not to get an empty store of that name.
        raise InputError(f"there is no store {args.store}: nvmxfuzz fuzz makes one")
    with open_store(args.store, create=not args.dry_run) as store:
        if not args.dry_run:
            store.claim()
        with shown_progress(sys.stderr) as progress:
            groups = pruned(store, harnesses, args.target, progress, dry_run=args.dry_run)
        bad = _tell(groups)
    _reply_groups(args, groups, "kept", bad)
    return _BAD_INPUT if bad else 0


class _Reader:
    """Reads sources one after another; counts what is bad, and names it unless that ends it all."""

    def __init__(self, sources: Sources, *, strict: bool) -> None:
        self._sources = sources
        self._strict = strict
        self.bad = 0

    def read(self, paths: Sequence[Path]) -> Iterator[Found]:
        """Yield the inputs."""
        for path in paths:
            for found in self._sources.read(path):
                if isinstance(found, Found):
                    yield found
                elif self._strict:
                    raise InputError(found.reason)
                else:
                    self.bad += 1
                    complain(found.reason)


def _parts(found: Iterator[Found], size: int | None) -> Iterator[list[Found]]:
    """Yield the inputs in lists of that size; in one list if there is none."""
    part: list[Found] = []
    for each in found:
        part.append(each)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _tell(groups: Sequence[Merged]) -> int:
    """Name what could not be measured; return how many there are."""
    bad = [reason for group in groups for reason in group.bad]
    for reason in bad:
        complain(reason)
    return len(bad)


def _reply_groups(args: argparse.Namespace, groups: Sequence[Merged], verb: str, bad: int) -> None:
    reply = {"corpora": [group.to_json(verb) for group in groups], "bad": bad}
    lines = [group.to_text(verb) for group in groups] or ["there is nothing in it"]
    _reply(args, reply, "\n".join(lines))


def _reply(args: argparse.Namespace, reply: Mapping[str, object], text: str) -> None:
    if args.json:
        print(json.dumps(reply))
    else:
        print("\n".join(map(printable, text.splitlines())))

# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz bisect`: in which of the kernels at hand a finding shows."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nvmxfuzz.cli.fuzz import DEFAULT_STORE
from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.outside import printable, show

if TYPE_CHECKING:
    from nvmxfuzz.triage.bisecting import OnKernel, Place
    from nvmxfuzz.triage.case_finding import CaseFinding


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "bisect",
        help="in which kernels a finding shows, and which is the first",
        description="Run the smallest case of a finding on every kernel that is built, and on the "
        "trees given, oldest first: each shows it, does not, shows another finding, or cannot "
        "represent it. What is known of a kernel counts as well.",
        epilog="Exit status: 0 answered, 2 bad input. A tree is built as nvmxfuzz build kvm "
        "--source does, but beside the kernels that the targets use.",
    )
    command.add_argument(
        "finding",
        metavar="FINDING",
        help="an identity of the store, or a case file; one without a table [finding] is about "
        "what the newest kernel shows",
    )
    command.add_argument(
        "--store", type=Path, default=DEFAULT_STORE, metavar="FILE", help="default: %(default)s"
    )
    command.add_argument(
        "--tree",
        action="append",
        default=[],
        type=Path,
        metavar="TREE|TARBALL",
        help="another kernel; repeatable",
    )
    command.add_argument(
        "--target", metavar="NAME", help="of a case file: where it runs, such as kvm-6.12+rules"
    )
    command.add_argument(
        "--keep", action="store_true", help="note in the store which kernel is the first"
    )
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what each kernel shows, and the first that shows the finding."""
    # Imported late: they load every kind of case, and each command imports this file.
    from nvmxfuzz.triage.bisecting import bisect, first_bad

    trees = list(_trees(args.tree))
    found = _found(args, trees)
    results = bisect(found, [*_at_hand(found), *trees])
    first = first_bad(results)
    if args.keep and first is not None:
        _keep(args, found, first.place.version)
    if args.json:
        reply = {
            "finding": found.finding.identity,
            "first_bad": first.place.version if first else None,
            "kernels": [each.to_json() for each in results],
        }
        print(json.dumps(reply))
        return 0
    for line in _lines(found, results, first):
        print(printable(line))
    return 0


def _found(args: argparse.Namespace, trees: list[Place]) -> CaseFinding:
    from nvmxfuzz.campaign.store import open_store
    from nvmxfuzz.cli.files import read_file
    from nvmxfuzz.inputs.load import load_vector
    from nvmxfuzz.triage.case_finding import shown_finding, stored_finding
    from nvmxfuzz.triage.first_seen import first_seen

    if os.path.isdir(args.finding):
        raise InputError(
            f"{show(args.finding)} is a folder: name one case file in it, or a finding of the store"
        )
    if not os.path.isfile(args.finding):
        if args.target is not None:
            raise InputError("--target goes with a case file: leave it out")
        with open_store(args.store, create=False) as store:
            return stored_finding(store.finding(args.finding))
    vector = load_vector(read_file(Path(args.finding)), args.finding)
    if vector.shown is not None:
        return shown_finding(vector, args.target)
    return first_seen(vector.case, args.target, [*_built(), *trees])


def _keep(args: argparse.Namespace, found: CaseFinding, version: str) -> None:
    from nvmxfuzz.campaign.store import open_store

    if os.path.isfile(args.finding):
        raise InputError("--keep goes with a finding of a store, and this is a file: leave it out")
    with open_store(args.store) as store:
        store.set_first_bad(found.setting.harness, found.finding.identity, version)


def _at_hand(found: CaseFinding) -> Iterator[Place]:
    """Yield the kernels that are built; for a finding on models, those that there are models of."""
    from nvmxfuzz.inputs.layout import KERNELS
    from nvmxfuzz.triage.bisecting import Place

    target = found.setting.target
    if target is not None and "model" not in target:
        yield from _built()
        return
    for kernel in KERNELS:
        yield Place(kernel, f"{kernel} (model)")


def _built() -> Iterator[Place]:
    from nvmxfuzz.targets.kvm_native.build.objects import built_kernels, find_object
    from nvmxfuzz.triage.bisecting import Place

    for kernel in built_kernels():
        yield Place(kernel, find_object(kernel).version)


def _trees(trees: list[Path]) -> Iterator[Place]:
    """Build trees, each in a cache of its own: the kernels that the targets use stay."""
    from nvmxfuzz.cli.build_progress import shown_progress
    from nvmxfuzz.targets.kvm_native.build.builder import Request, build
    from nvmxfuzz.targets.kvm_native.build.cache import VARIABLE, Cache, cache_folder
    from nvmxfuzz.targets.kvm_native.build.objects import standard_cache
    from nvmxfuzz.targets.kvm_native.build.source import named_source
    from nvmxfuzz.triage.bisecting import Place

    for tree in trees:
        source = named_source(tree)
        environment = {VARIABLE: str(standard_cache().folder / "bisect" / source.key)}
        cache = Cache(cache_folder(environment))
        with shown_progress(sys.stderr) as progress:
            jobs = len(os.sched_getaffinity(0))
            manifest = build(Request(source, "plain", jobs), cache, progress).object.manifest
        yield Place(manifest.kernel, manifest.version, environment)


def _lines(
    found: CaseFinding, results: tuple[OnKernel, ...], first: OnKernel | None
) -> Iterator[str]:
    width = max((len(each.place.version) for each in results), default=0)
    yield f"{found.finding.identity}: {found.finding.message}"
    for each in results:
        known = ", which is known" if each.known else ""
        told = f": {each.detail}" if each.detail else ""
        yield f"{each.place.version:{width}}  {each.result}{known}{told}"
    if first is None:
        yield "none of these kernels shows it"
    else:
        told = ", the oldest at hand" if first is results[0] else ""
        yield f"first bad of these: {first.place.version}{told}"

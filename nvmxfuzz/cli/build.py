# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz build kvm`: the real KVM compiled on this machine, for kvm-6.1 and kvm-6.12."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.outside import printable
from nvmxfuzz.targets.kvm_native.build.manifest import Manifest
from nvmxfuzz.targets.kvm_native.build.objects import (
    BuiltObject,
    all_objects,
    numbers_of,
    standard_cache,
)
from nvmxfuzz.targets.kvm_native.build.recipe import load_recipe, shim_hash
from nvmxfuzz.targets.kvm_native.build.source import named_source, package_source, packaged

if TYPE_CHECKING:
    from nvmxfuzz.targets.kvm_native.build.builder import Built

DEFAULT_KERNEL = "6.12"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "build",
        help="compile the real KVM for this machine",
        description="Compile what a target needs that cannot be shipped.",
    )
    kinds = command.add_subparsers(title="what", metavar="WHAT", required=True)
    kvm = kinds.add_parser(
        "kvm",
        help="KVM of a Linux kernel, unmodified, as a library for user space",
        description="Compile arch/x86/kvm of a Linux kernel, unmodified, into a library that "
        "the targets kvm-6.1 and kvm-6.12 load; another kernel V becomes the target kvm-V. What "
        "is built already is not built again.",
        epilog="The result is in $NVMXFUZZ_CACHE, else in ~/.cache/nvmxfuzz. The kernel that was "
        "asked for last is the one that is used, if two of one version are built.",
    )
    _add_kernel(kvm)
    _add_variant(kvm)
    kvm.add_argument(
        "--jobs", type=_jobs, metavar="N", help="compilers side by side (default: all processors)"
    )
    kvm.add_argument("--force", action="store_true", help="build again what is built")
    instead = kvm.add_mutually_exclusive_group()
    instead.add_argument(
        "--list", action="store_true", help="print what is built and what can be, build nothing"
    )
    instead.add_argument(
        "--prune",
        action="store_true",
        help="remove what only other versions of nvmxfuzz can use, build nothing",
    )
    kvm.add_argument("--json", action="store_true", help="one JSON object")
    kvm.set_defaults(run=run)


def _add_kernel(command: argparse.ArgumentParser) -> None:
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "--kernel",
        metavar="V",
        help=f"that of Debian's package linux-source-V, such as 6.1 (default: {DEFAULT_KERNEL})",
    )
    which.add_argument(
        "--source",
        type=Path,
        metavar="TREE|TARBALL",
        help="any other kernel; one that is not known is tried, and what is missing is listed",
    )


def _add_variant(command: argparse.ArgumentParser) -> None:
    variant = command.add_mutually_exclusive_group()
    for name, sentence in (
        ("coverage", "by clang, with the counters that guide nvmxfuzz fuzz"),
        ("gcov", "with the counters of gcov, for reports of the lines that were reached"),
        ("debug", "with debug information and little optimisation"),
    ):
        variant.add_argument(
            f"--{name}", action="store_const", const=name, dest="variant", help=sentence
        )
    command.set_defaults(variant="plain")


def _jobs(text: str) -> int:
    number = int(text) if text.isdecimal() and len(text) < 5 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number of jobs, such as 4")
    return number


def run(args: argparse.Namespace) -> int:
    """Build a kernel, list them, or remove old ones."""
    if args.list:
        _demand_nothing_else(args)
        print(json.dumps(_listing()) if args.json else _listing_text())
        return 0
    if args.prune:
        return _prune(as_json=args.json)
    # Imported late: they load large libraries, and every command imports this file.
    from nvmxfuzz.cli.build_progress import shown_progress
    from nvmxfuzz.targets.kvm_native.build.builder import Request, build

    kernel = args.kernel or DEFAULT_KERNEL
    source = package_source(kernel) if args.source is None else named_source(args.source)
    jobs = args.jobs or len(os.sched_getaffinity(0))
    with shown_progress(sys.stderr) as progress:
        built = build(Request(source, args.variant, jobs, args.force), standard_cache(), progress)
    print(json.dumps(to_json(built)) if args.json else to_text(built))
    return 0


def _demand_nothing_else(args: argparse.Namespace) -> None:
    given = {
        "--kernel": args.kernel is not None,
        "--source": args.source is not None,
        f"--{args.variant}": args.variant != "plain",
        "--jobs": args.jobs is not None,
        "--force": args.force,
    }
    for name, is_given in given.items():
        if is_given:
            raise InputError(f"{name} goes with a build, and --list builds nothing: leave one out")


def _prune(*, as_json: bool) -> int:
    from nvmxfuzz.cli.build_progress import shown_progress
    from nvmxfuzz.targets.kvm_native.build.pruning import prune_cache

    with shown_progress(sys.stderr) as progress:
        pruned = prune_cache(standard_cache(), progress)
    if as_json:
        print(json.dumps(asdict(pruned)))
    else:
        print(
            f"removed {len(pruned.objects)} objects, {len(pruned.trees)} trees and "
            f"{len(pruned.logs)} logs, {pruned.bytes // 1_000_000} MB"
        )
    return 0


def to_json(built: Built) -> dict[str, object]:
    """Return the reply of a build."""
    return {"new": built.is_new, **_object_json(built.object)}


def _object_json(built: BuiltObject) -> dict[str, object]:
    return {"path": str(built.path), **built.manifest.to_json()}


def to_text(built: Built) -> str:
    """Return what a person wants to know of a build."""
    manifest = built.object.manifest
    lines = [
        f"{describe(manifest)} {'is built' if built.is_new else 'was built already'}: "
        f"{printable(str(built.object.path))}",
        f"of what KVM refers to, {len(manifest.functions)} functions are stubs, and a case that "
        f"calls one ends with its name; {len(manifest.data)} data are zeroes",
    ]
    if not manifest.known:
        lines += [
            f"Linux {manifest.kernel} is not one that this version was tried with; its stubs:",
            f"  functions: {' '.join(manifest.functions) or '-'}",
            f"  data: {' '.join(manifest.data) or '-'}",
        ]
    return "\n".join(lines)


def describe(manifest: Manifest) -> str:
    """Return which kernel it is, in words."""
    variant = "" if manifest.variant == "plain" else f", {manifest.variant}"
    return f"KVM of Linux {manifest.kernel} ({manifest.version}{variant})"


def _listing() -> dict[str, object]:
    cache, shim = standard_cache(), shim_hash()
    return {
        "cache": str(cache.folder),
        "sources": {kernel: str(path) for kernel, path in packaged().items()},
        "built": [
            {"usable": built.manifest.shim == shim, **_object_json(built)}
            for built in all_objects(cache)
        ],
    }


def _listing_text() -> str:
    cache, sources, shim = standard_cache(), packaged(), shim_hash()
    everything = all_objects(cache)
    ours = [built for built in everything if built.manifest.shim == shim]
    kernels = {*load_recipe().kernels, *sources, *(built.kernel for built in ours)}
    lines = []
    for kernel in sorted(kernels, key=numbers_of):
        lines += [
            f"{kernel:6}built: {_versions(kernel, ours)}",
            f"{'':6}source: {printable(str(sources.get(kernel) or _other_source(kernel, ours)))}",
        ]
    lines.append(f"all of it is in {printable(str(cache.folder))}")
    if others := len(everything) - len(ours):
        lines.append(
            f"{others} {'object' if others == 1 else 'objects'} there of other versions of "
            "nvmxfuzz: --prune removes them"
        )
    return "\n".join(lines)


def _other_source(kernel: str, objects: list[BuiltObject]) -> str:
    """Return where a kernel comes from, or can come from, of which Debian has no package here."""
    if kernel in load_recipe().kernels:
        return f"none, run apt-get install linux-source-{kernel}"
    places = [built.manifest.source for built in objects if built.kernel == kernel]
    return ", ".join(dict.fromkeys(places))


def _versions(kernel: str, objects: list[BuiltObject]) -> str:
    """Return the versions of a kernel that are built, each with its variants."""
    versions: dict[str, list[str]] = {}
    for built in objects:
        if built.kernel == kernel:
            versions.setdefault(built.version, []).append(built.variant)
    return ", ".join(f"{name} ({', '.join(each)})" for name, each in versions.items()) or "nothing"

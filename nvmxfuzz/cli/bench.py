# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz bench`: what KVM's checks of a VM entry cost, and how soon planted faults are found."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nvmxfuzz.cli import bench_faults
from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject, find_object, usable
from nvmxfuzz.targets.kvm_native.build.recipe import load_recipe

if TYPE_CHECKING:
    from nvmxfuzz.targets.kvm_native.bench.software_checks import EntryCosts

_TITLE = 40
_COLUMN = 15


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "bench",
        help="what the real KVM executes, and how soon planted faults are found",
        description="Count what the real KVM executes, or measure how soon a campaign finds "
        "faults.",
    )
    kinds = command.add_subparsers(title="what", metavar="WHAT", required=True)
    checks = kinds.add_parser(
        "software-checks",
        help="KVM's own checks of a VM entry, those it leaves to the processor, and the dry run",
        description="Count the instructions of KVM's own checks of a VM entry, of the checks "
        "before VMfail that it leaves to the processor, and of the dry run that makes up for them.",
        epilog="What the processor takes is not in it. A kernel takes some seconds.",
    )
    checks.add_argument(
        "--kernel",
        action="append",
        metavar="V",
        help="a kernel that is built, such as 6.12; may be given again (default: all known ones)",
    )
    checks.add_argument("--json", action="store_true", help="one JSON document")
    checks.set_defaults(run=run)
    bench_faults.add_parser(kinds)


def run(args: argparse.Namespace) -> int:
    """Print the costs for each kernel."""
    # It needs a compiler and ptrace, which no other command does.
    from nvmxfuzz.targets.kvm_native.bench.software_checks import measure

    measured = [(built, measure(built)) for built in _objects(args.kernel)]
    if args.json:
        replies = [_json(built, cost) for built, costs in measured for cost in costs]
        print(json.dumps(replies))
    else:
        print("\n\n".join(_table(built, costs) for built, costs in measured))
    return 0


def _objects(kernels: Sequence[str] | None) -> list[BuiltObject]:
    """Return the objects of these kernels, or of all known ones that are built."""
    if kernels is not None:
        return [find_object(kernel) for kernel in dict.fromkeys(kernels)]
    reasons = {kernel: usable(kernel) for kernel in load_recipe().kernels}
    found = [find_object(kernel) for kernel, reason in reasons.items() if not reason]
    if not found:
        raise InputError(next(iter(reasons.values())))
    return found


def _json(built: BuiltObject, cost: EntryCosts) -> dict[str, object]:
    return {
        "kernel": built.kernel,
        "version": built.version,
        "compiler": built.manifest.compiler,
        "state": cost.state,
        "instruction": cost.instruction,
        "run": cost.run.to_mapping(),
        "checks": {
            "controls": cost.controls,
            "address_space_size": cost.address_space_size,
            "host_state": cost.host_state,
            "guest_state": cost.guest_state,
        },
        "missing": cost.missing,
        "dry_run": cost.dry_run.to_mapping(),
    }


def _table(built: BuiltObject, costs: Sequence[EntryCosts]) -> str:
    """Return a table: a column for each state and instruction."""

    def row(title: str, count: Callable[[EntryCosts], int]) -> str:
        cells = (f"{count(each):,} {each.share(count(each)):5.1f} %" for each in costs)
        return f"{title:{_TITLE}}" + "".join(f"{cell:>{_COLUMN}}" for cell in cells)

    def heads(title: str, texts: Sequence[str]) -> str:
        return f"{title:{_TITLE}}" + "".join(f"{text:>{_COLUMN}}" for text in texts)

    return "\n".join(
        (
            heads(f"Linux {built.kernel} ({built.version})", [each.state for each in costs]),
            heads("instructions of KVM's", [each.instruction for each in costs]),
            row("nested_vmx_run", lambda each: each.run.instructions),
            row("  its checks before VMfail", lambda each: each.vmfail),
            row("    controls", lambda each: each.controls),
            row("    address-space size", lambda each: each.address_space_size),
            row("    host state", lambda each: each.host_state),
            row("  its checks of the guest state", lambda each: each.guest_state),
            row("what is missing before VMfail adds", lambda each: each.missing),
            row("all checks before VMfail in software", lambda each: each.vmfail + each.missing),
            row("the dry run adds", lambda each: each.dry_run.instructions),
            heads("  and VM entries", [f"{each.dry_run.entries}" for each in costs]),
            heads(
                "VMREAD, VMWRITE in nested_vmx_run",
                [f"{each.run.vmreads}, {each.run.vmwrites}" for each in costs],
            ),
            heads(
                "  and in the dry run",
                [f"{each.dry_run.vmreads}, {each.dry_run.vmwrites}" for each in costs],
            ),
        )
    )

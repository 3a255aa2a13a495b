#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print which checks of the model of nested VM entry the corpus makes fail, and which it passes.

A check has passed where it applied and did not fail: what stands before it in its condition, joined
by `and`, was true. The model is followed line by line for that.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeAlias

from nvmxfuzz import kvm
from nvmxfuzz.cli.files import cases_below, read_file
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.difference import apply, differences
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.kvm.entry_behaviour import ENTRY_KERNELS
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_model import KvmModel

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(next(iter(kvm.__path__)))
PROCESSORS = ("skylake-x", "everything", "ivy-bridge", "penryn")
NAME = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+\.[a-z0-9-]+")
WITHOUT_SCALING = "penryn"
"""On others a first dry run ends in VMfail: docs/findings/dry-run-tsc-multiplier.md."""

OTHERS = ("traced_checks", "entry_run", "msr_restore", "msr_vcpu")
"""Modules with names of checks that are not of a VM entry, or only tell of them."""

_EVMCS = "no attempt says that L1 uses the enlightened VMCS"
_CET = "no kernel here offers L1 CET on these processors"
_LATE = "made only with warn_on_missed_cc=1, which is for developers"
_TAKEN = "KVM offers it wherever it has EPT, and only user space takes it away"
NOT_BOTH = {
    "basic.vmx-operation.on": "each attempt is of an L1 in VMX operation",
    "entry.event.zero-length": "KVM offers L1 no injection with an instruction length of 0",
    "evmcs.entry.supported": _EVMCS,
    "evmcs.exit.supported": _EVMCS,
    "evmcs.pin-based.supported": _EVMCS,
    "evmcs.pointer.memory": _EVMCS,
    "evmcs.primary.supported": _EVMCS,
    "evmcs.revision.known": _EVMCS,
    "evmcs.secondary.supported": _EVMCS,
    "evmcs.vm-functions.supported": _EVMCS,
    "evmcs.vm-functions.width": _EVMCS,
    "execution.eptp.uncacheable": "KVM offers L1 no EPT paging structures that are uncacheable",
    "execution.eptp.walk-of-4": _TAKEN,
    "execution.eptp.write-back": _TAKEN,
    "execution.mode-based-execute.ept": "KVM offers L1 no mode-based execute control",
    "execution.tpr-threshold.virtual-tpr": _LATE,
    "execution.virtual-apic.memory": _LATE,
    "guest.cet.write-protect": _CET,
    "guest.link-pointer.read": "user space has memory behind all memory of L1",
    "guest.perf-global-ctrl.msr": "KVM has checked before what WRMSR would refuse",
    "guest.ssp.width": _CET,
    "hardware.entry.machine-check": "the rules have no machine checks",
    "host.cet.write-protect": _CET,
    "host.s-cet.canonical": _CET,
    "host.s-cet.width": _CET,
    "host.ssp.canonical": _CET,
    "host.ssp.width": _CET,
    "msr-list.x2apic.range": "the local APIC of each L1 is in xAPIC mode",
    "msr-load.list.length": "it takes a list of 513 MSRs that can all be loaded",
}
"""Checks that the corpus does not show both ways, and why; tests/kvm shows those that can be."""

Trace: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Place:
    """A statement that may fail a check: the lines of its condition, of what follows if it fails.

    `guards` are what has to be true for the check to apply.
    """

    name: str
    first: int
    last: int
    body: range
    guards: tuple[CodeType, ...]


@dataclass(slots=True)
class Seen:
    """The checks that have failed and passed."""

    failed: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)


class Follower:
    """Follows the functions of the model that make checks, while it is entered."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self.places = dict(_places())
        self.names = {each.name for found in self.places.values() for each in found}

    def __enter__(self) -> Follower:
        """Begin to follow."""
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        """Be done with it."""
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: object) -> Trace:
        code = frame.f_code
        places = self.places.get((Path(code.co_filename).name, code.co_name))
        return _Frame(places, self._seen).line if event == "call" and places else None


class _Frame:
    """One call of a function that makes checks."""

    def __init__(self, places: tuple[Place, ...], seen: Seen) -> None:
        self._places = places
        self._seen = seen
        self._asked: Place | None = None

    def line(self, frame: FrameType, event: str, value: object) -> Trace:
        """Note what has become of the check before this line, and which one is at it."""
        asked, at = self._asked, frame.f_lineno
        if event == "line" and asked is not None and asked.first <= at <= asked.last:
            return self.line
        if asked is not None:
            failed = value == asked.name if not asked.body else at in asked.body
            if event != "exception":
                (self._seen.failed if failed else self._seen.passed).add(asked.name)
            self._asked = None
        if event == "line":
            for place in self._places:
                if place.first <= at <= place.last and all(
                    eval(guard, frame.f_globals, frame.f_locals) for guard in place.guards
                ):
                    self._asked = place
        return self.line


def _places() -> Iterator[tuple[tuple[str, str], tuple[Place, ...]]]:
    """Yield by file and function where the model makes a check."""
    for path in sorted(PACKAGE.glob("*.py")):
        if path.stem in OTHERS:
            continue
        tree = ast.parse(path.read_text())
        constants = dict(_constants(tree))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                found = tuple(_in_function(function, constants))
                if found:
                    yield (path.name, function.name), found


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name) and isinstance(node.value.value, str):
                    yield target.id, node.value.value


def _in_function(function: ast.FunctionDef, constants: dict[str, str]) -> Iterator[Place]:
    for node in ast.walk(function):
        if isinstance(node, ast.If):
            for name in _names(node.body[-1:], constants):
                first, test = node.lineno, node.test
                last = test.end_lineno or first
                body = range(node.body[0].lineno, (node.body[-1].end_lineno or 0) + 1)
                yield Place(name, first, last, body, _guards(test))
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.IfExp):
            for name in _names([node], constants):
                yield Place(name, node.lineno, node.end_lineno or 0, range(0), ())


def _names(nodes: Iterable[ast.AST], constants: dict[str, str]) -> Iterator[str]:
    """Yield the names of checks in statements that end a function, not in those within them."""
    for statement in nodes:
        if not isinstance(statement, ast.Return | ast.Raise | ast.Expr | ast.Assign):
            continue
        for node in ast.walk(statement):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(node, ast.Name):
                value = constants.get(node.id)
            if isinstance(value, str) and NAME.fullmatch(value):
                yield value


def _guards(test: ast.expr) -> tuple[CodeType, ...]:
    if not isinstance(test, ast.BoolOp) or not isinstance(test.op, ast.And):
        return ()
    return tuple(compile(ast.Expression(part), "guard", "eval") for part in test.values[:-1])


def attempts(model: KvmModel, processors: Iterable[str]) -> Iterator[Attempt]:
    """Yield the VM entries of the corpus, on what a KVM on these processors offers L1."""
    virtual = [model.virtual(load_profile(name)) for name in processors]
    for path in cases_below(ROOT / "corpus"):
        case = load_case(read_file(path), str(path))
        if isinstance(case, EntryCase):
            for profile in virtual:
                start = EntryCase(base(case.base, profile), case.base)
                moved = apply(start, differences(case))
                assert isinstance(moved, EntryCase)
                yield moved.attempt


def look(kernel: str, follower: Follower, processors: Iterable[str] = PROCESSORS) -> None:
    """Run the corpus on the model of a kernel; with dry runs too, where they can pass."""
    with KvmModel(kernel) as model, KvmModel(kernel, dry_run=True) as dry:
        for attempt in attempts(model, processors):
            with follower:
                model.on_hardware(attempt)
            if attempt.profile.name.endswith(WITHOUT_SCALING):
                with follower:
                    dry.on_hardware(attempt)


def main() -> None:
    """Report on all kernels together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", nargs="*", default=ENTRY_KERNELS)
    args = parser.parse_args()
    seen = Seen()
    follower = Follower(seen)
    for kernel in args.kernels:
        look(kernel, follower)
    names = sorted(follower.names)
    both = seen.failed & seen.passed
    print(f"{len(both & set(names))} of {len(names)} checks of the model have failed and passed")
    for name in names:
        if name not in both:
            never = [way for way in ("failed", "passed") if name not in getattr(seen, way)]
            why = NOT_BOTH.get(name, "and nothing says why")
            print(f"  {name}: has never {' nor '.join(never)}, {why}")


if __name__ == "__main__":
    main()

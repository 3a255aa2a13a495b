# SPDX-License-Identifier: GPL-2.0-only
"""The lines of nested.c that the corpus of a store reaches, where a kernel is built for gcov."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.plan import ROOT, harness_names, load_harness
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.campaign.store import Store
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.expectation import Vector
from nvmxfuzz.inputs.text import dump_text
from nvmxfuzz.reports.campaign.content import Coverage
from nvmxfuzz.targets.kvm_native.build.objects import built_kernels, find_object, usable
from nvmxfuzz.targets.kvm_native.line_coverage import KINDS, Kind, lines_reached
from nvmxfuzz.targets.registry import all_targets

MOST_INPUTS: Final = 3000
"""Of a kind."""

SECONDS: Final = 60.0
_VARIANT: Final = "gcov"


def coverage_of(store: Store) -> tuple[tuple[Coverage, ...], str]:
    """Return what VM entries and sessions of the corpus reach, by kernel.

    Beside that a sentence about what is missing. It runs them all, which takes `SECONDS` for each
    kernel and kind at most.
    """
    kernels = [kernel for kernel in built_kernels() if not usable(kernel, _VARIANT)]
    if not kernels:
        return (), "No kernel is built for it: nvmxfuzz build kvm --gcov builds one."
    found: list[Coverage] = []
    problems: list[str] = []
    for kernel in kernels:
        try:
            cases = {
                kind: tuple(islice(_cases(store, kernel, kind), MOST_INPUTS)) for kind in KINDS
            }
            if not any(cases.values()):
                problems.append(f"Linux {kernel}: the corpus has no VM entry and no session.")
                continue
            functions, run = lines_reached(kernel, cases, SECONDS)
        except InputError as error:
            problems.append(f"Linux {kernel}: {error}.")
            continue
        version = find_object(kernel, _VARIANT).version
        found.append(Coverage(version, run, functions))
    return tuple(found), " ".join(problems)


def _cases(store: Store, kernel: str, kind: Kind) -> Iterator[str]:
    """Yield the cases of the corpus of one kind, those first that ran on this kernel."""
    targets = all_targets()
    places = [
        (harness, target)
        for harness, target in store.count_inputs()
        if harness in harness_names() and (not target or target in targets)
    ]
    places.sort(key=lambda place: not (place[1] and targets[place[1]].kernel == kernel))
    for name, target in places:
        harness = load_harness(ROOT / "fuzz" / f"{name}.py")
        if harness.kind == kind:
            yield from _texts(store, name, target, harness)


def _texts(store: Store, name: str, target: str, harness: Harness) -> Iterator[str]:
    """Yield the corpus of one place as TOML; nothing where its target is not usable here."""
    try:
        reading = with_target(harness, target or None, isolated=True)
    except InputError:
        return
    for each in store.inputs(name, target):
        yield dump_text(Vector(reading.decode(each.data)))

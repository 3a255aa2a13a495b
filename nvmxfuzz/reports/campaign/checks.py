# SPDX-License-Identifier: GPL-2.0-only
"""The consistency checks of KVM: which of those that a kernel has were seen to fire."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.traced_checks import check_names
from nvmxfuzz.reports.campaign.content import MOST_ROWS, Check, Checks, clipped
from nvmxfuzz.targets.kvm_native.build.objects import built_kernels, find_object, numbers_of
from nvmxfuzz.targets.kvm_native.check_runs import UNREACHABLE
from nvmxfuzz.targets.kvm_native.checks_in_source import Site, nested_source, place_of, sites_of
from nvmxfuzz.targets.registry import all_targets

_OTHER: Final = "other"
"""What stands for the kernel where a target names none that is known here."""


@dataclass(frozen=True, slots=True)
class _Fired:
    """A check that fired, and on which kernels."""

    function: str
    condition: str
    kernels: frozenset[str]


def checks_of(targets: Iterable[str], fired: Iterable[tuple[str, str]]) -> Checks:
    """Return the checks of the kernels of `targets`.

    `fired` are those of a store: target, and "CONDITION in FUNCTION".
    """
    found = _fired(fired)
    notes: list[str] = []
    built = built_kernels()
    kernels = tuple(sorted({*map(_kernel, targets)} - {""}, key=_order))
    sites = {
        kernel: each for kernel in kernels if kernel in built and (each := _sites(kernel, notes))
    }
    rows = _rows(kernels, sites, found)
    return Checks(kernels, tuple(rows)[:MOST_ROWS], tuple(notes))


def _fired(fired: Iterable[tuple[str, str]]) -> dict[str, _Fired]:
    found: dict[str, _Fired] = {}
    for target, point in fired:
        if not _kernel(target):
            continue
        condition, _, function = point.rpartition(" in ")
        place = place_of(function, condition)
        before = found[place].kernels if place in found else frozenset()
        found[place] = _Fired(function, condition, before | {_kernel(target)})
    return found


def _kernel(target: str) -> str:
    entry = all_targets().get(target)
    return entry.kernel if entry else _OTHER if target else ""


def _order(kernel: str) -> tuple[bool, list[int]]:
    return (True, []) if kernel == _OTHER else (False, numbers_of(kernel))


def _sites(kernel: str, notes: list[str]) -> dict[str, Site]:
    """Return the checks of a kernel by place; none, and a note, where its source is not there."""
    try:
        return {site.place: site for site in sites_of(nested_source(find_object(kernel)))}
    except InputError as error:
        notes.append(f"The checks of Linux {kernel} that never fired are not known: {error}.")
        return {}


def _rows(
    kernels: tuple[str, ...], sites: dict[str, dict[str, Site]], found: dict[str, _Fired]
) -> Iterator[Check]:
    for place in dict.fromkeys([*(p for each in sites.values() for p in each), *found]):
        known = [sites[kernel][place] for kernel in kernels if place in sites.get(kernel, {})]
        hit = found.get(place)
        function, condition = (
            (hit.function, hit.condition) if hit else (known[-1].function, known[-1].condition)
        )
        yield Check(
            function=clipped(function, 200),
            names=check_names(function, condition),
            condition=clipped(condition, 300) if hit else "",
            line=known[-1].line if known else None,
            kernels=tuple(_state(kernel, place, sites, hit) for kernel in kernels),
            why_never="" if hit else UNREACHABLE.get(place, ""),
        )


def _state(kernel: str, place: str, sites: dict[str, dict[str, Site]], hit: _Fired | None) -> str:
    if hit is not None and kernel in hit.kernels:
        return "fired"
    return "never" if place in sites.get(kernel, {}) else "not there"

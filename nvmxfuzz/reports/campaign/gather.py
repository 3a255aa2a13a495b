# SPDX-License-Identifier: GPL-2.0-only
"""Collects what a report tells: from a store, the kernels that are built, and this machine."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from typing import Final

from nvmxfuzz import __version__
from nvmxfuzz.campaign.store import Store, StoredFinding
from nvmxfuzz.campaign.store.standing import Standing, standing
from nvmxfuzz.campaign.store.values import Sample
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.reports.campaign.checks import checks_of
from nvmxfuzz.reports.campaign.content import (
    MOST_CAMPAIGNS,
    MOST_GROUPS,
    MOST_PLACES,
    MOST_ROWS,
    MOST_WORKERS,
    Coverage,
    FindingPage,
    KnownSeen,
    Matrix,
    Point,
    Report,
    clipped,
)
from nvmxfuzz.reports.campaign.known_reasons import known_reasons
from nvmxfuzz.reports.reproduction import Reproduction
from nvmxfuzz.targets.kvm_native.build.objects import all_objects, built_kernels, standard_cache
from nvmxfuzz.targets.kvm_native.build.recipe import shim_hash
from nvmxfuzz.triage.groups import Group, groups_of

_PACKAGES: Final = ("atheris", "hypothesis", "bochscpu-python")


@dataclass(frozen=True, slots=True)
class Told:
    """One finding that was run again; `told` is None where it could not be, for the reason `why`.

    `programs` are stand-alone reproducers by the name of their form.
    """

    told: Reproduction | None
    why: str
    programs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sources:
    """How the parts that take time are made.

    `again` runs a finding again, for the first `pages` groups. `coverage` gives the lines that are
    reached, and what to say of them.
    """

    again: Callable[[StoredFinding], Told]
    pages: int
    coverage: Callable[[Store], tuple[tuple[Coverage, ...], str]]
    command: str


def gather(
    store: Store, name: str, number: int | None, since: int | None, parts: Sources
) -> Report:
    """Return the report on a campaign, the last one if `number` is None, and on all the findings.

    Findings are new if a campaign after `since` was the first to see them; without it, those that
    the campaign of the report was the first to see.
    """
    with store.at_once():
        stands = standing(store, number)
        after = stands.campaign.number - 1 if since is None else since
        if since:
            store.campaign(since)  # One that the store does not have would hide all there is.
        found = store.findings()
        seen = _seen(store)
        samples = store.samples(stands.campaign.number)
        series = dict(_series(store, stands))
        campaigns = store.campaigns()[-MOST_CAMPAIGNS:]
    groups = groups_of(found)
    coverage, note = parts.coverage(store)
    return Report(
        store=clipped(name),
        standing=stands,
        campaigns=campaigns,
        samples=samples,
        series=series,
        since=after,
        pages=tuple(_pages(groups, after, parts)),
        groups=len(groups),
        findings=len(found),
        matrices=tuple(_matrices(seen)),
        checks=checks_of((target for _, target in seen), _fired(seen)),
        coverage=coverage,
        coverage_note=note,
        known=tuple(_known(stands.known)),
        environment=tuple(_environment(stands, parts.command)),
    )


_Seen = dict[tuple[str, str], dict[str, set[str]]]


def _seen(store: Store) -> _Seen:
    """Return by harness and target, and by point, the verdicts that were seen."""
    seen: _Seen = {}
    for each in store.behaviours():
        points = seen.setdefault((each.harness, each.target), {})
        points.setdefault(each.behaviour.point, set()).add(each.behaviour.verdict)
    return seen


def _fired(seen: _Seen) -> Iterator[tuple[str, str]]:
    """Yield each target with each condition in it that has fired."""
    for (_, target), points in seen.items():
        yield from ((target, name) for name, verdicts in points.items() if "fired" in verdicts)


def _series(store: Store, stands: Standing) -> Iterator[tuple[int, tuple[Sample, ...]]]:
    numbers = sorted({worker.number for worker in stands.workers})
    for number in numbers[:MOST_WORKERS]:
        yield number, store.samples(stands.campaign.number, number)


def _pages(groups: tuple[Group, ...], since: int, parts: Sources) -> Iterator[FindingPage]:
    """Yield the groups, new ones first; the first of them with a page."""
    told = [(frozenset(_new(group, since)), group) for group in groups]
    ordered = sorted(told, key=lambda each: not each[0])[:MOST_GROUPS]
    for place, (new, group) in enumerate(ordered):
        if place >= parts.pages:
            yield FindingPage(group, None, "it was not run again for this report", {}, new)
            continue
        again = parts.again(_representative(group))
        yield FindingPage(group, again.told, clipped(again.why), again.programs, new)


def _new(group: Group, since: int) -> Iterator[str]:
    return (each.identity for each in group.members if each.campaign > since)


def _representative(group: Group) -> StoredFinding:
    """Return the member with the smallest case, one that is not flaky if there is one."""

    def rank(member: StoredFinding) -> tuple[bool, bool, int]:
        return not member.text, bool(member.flaky), len(member.text)

    return min(group.members, key=rank)


def _matrices(seen: _Seen) -> Iterator[Matrix]:
    """Yield the rules of VM entry, then what else harnesses have points for."""
    rules = {
        where: points
        for where, points in seen.items()
        if any(point in CHAPTER.index for point in points)
    }
    yield Matrix(
        "Rules of VM entry",
        tuple(_place(*where) for where in islice(rules, MOST_PLACES)),
        tuple(
            Point(
                rule.name,
                rule.sentence,
                rule.section,
                tuple(
                    _verdicts(points, rule.name) for points in islice(rules.values(), MOST_PLACES)
                ),
            )
            for rule in CHAPTER.rules
        ),
    )
    for where, points in islice(((w, p) for w, p in seen.items() if w not in rules), MOST_PLACES):
        names = sorted(point for point, verdicts in points.items() if verdicts != {"fired"})
        if names:
            shown = names[:MOST_ROWS]
            yield Matrix(
                f"Points of {_place(*where)}",
                (_place(*where),),
                tuple(Point(clipped(n), "", "", (_verdicts(points, n),)) for n in shown),
                len(names) - len(shown),
            )


def _verdicts(points: Mapping[str, set[str]], name: str) -> frozenset[str]:
    return frozenset(points.get(name, ())) - {"fired"}


def _place(harness: str, target: str) -> str:
    return clipped(f"{harness} on {target}" if target else harness, 80)


def _known(counts: Mapping[str, int]) -> Iterator[KnownSeen]:
    reasons = known_reasons()
    for name, count in islice(sorted(counts.items(), key=lambda each: -each[1]), MOST_ROWS):
        yield KnownSeen(clipped(name, 200), count, reasons.get(name, ""))


def _environment(stands: Standing, command: str) -> Iterator[tuple[str, str]]:
    yield "nvmxfuzz", __version__
    yield "Python", platform.python_version()
    yield "SQLite", sqlite3.sqlite_version
    for package in _PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            yield package, "not installed"
    yield "this machine", f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield "real KVM built", ", ".join(_built()) or "none"
    yield "seed of the campaign", str(stands.campaign.seed)
    yield "this report by", clipped(command)


def _built() -> Iterator[str]:
    """Yield the kernels that are built for this version of nvmxfuzz."""
    kernels, shim = built_kernels(), shim_hash()
    for kernel in kernels:
        ours = [
            each
            for each in all_objects(standard_cache())
            if each.kernel == kernel and each.manifest.shim == shim
        ]
        versions = sorted({each.version for each in ours})
        variants = sorted({each.variant for each in ours})
        yield f"Linux {', '.join(versions)} ({', '.join(variants)})"

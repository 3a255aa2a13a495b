#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print what becomes of VMs that migrate from KVM 6.1 to 6.12: the real kernels, in one process.

The arguments are the number of migrations, the seed, and the number of processes. Each pair of
worlds has a seed of its own, and a block of migrations with other CPUIDs, MSRs and VM entries. A
breach that is not known is an error.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing import get_context
from random import Random
from time import perf_counter, process_time

from nvmxfuzz.machine.profile import profile_names
from nvmxfuzz.oracles.migration.carrier import Carrier
from nvmxfuzz.oracles.migration.known import known
from nvmxfuzz.oracles.migration.oracles import BREACHES
from nvmxfuzz.oracles.migration.tries import Tried, attempts_of, try_way, way, worlds
from nvmxfuzz.oracles.restore.offer import NAMES
from nvmxfuzz.targets.kvm_native.migrating import side

SOURCE, DESTINATION = "6.1", "6.12"
MIGRATIONS = 10_000
BLOCK = 64
"""Migrations between two worlds."""
TOLD = 50_000
SHOWN = 60


@dataclass(slots=True)
class Tally:
    """What came of some migrations; `examples` has where to find a group again."""

    migrations: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    groups: Counter[tuple[str, str]] = field(default_factory=Counter)
    breaches: Counter[tuple[str, str]] = field(default_factory=Counter)
    profiles: set[str] = field(default_factory=set)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Add what came of others."""
        self.migrations += other.migrations
        self.seconds += other.seconds
        self.counts += other.counts
        self.groups += other.groups
        self.breaches += other.breaches
        self.profiles |= other.profiles
        self.examples = {**other.examples, **self.examples}

    def note(self, tried: Tried, place: str) -> None:
        """Count what a migration came to at a place."""
        self.migrations += 1
        hardware = relation(tried)
        self.counts[f"between {hardware}"] += 1
        carried = tried.carried
        self.counts["taken" if carried.complete else "refused"] += 1
        for fate in carried.refused:
            for reason in carried.reasons(fate):
                self._group(hardware, f"refused {NAMES[fate.index]}: {reason}", place)
        for fate in carried.fates:
            if fate.changed:
                self._group(hardware, f"changed {NAMES[fate.index]}", place)
        if carried.complete:
            for verb, names in (("lost", carried.lost), ("gained", carried.gained)):
                for name in names:
                    self._group(hardware, f"{verb} {name}", place)
        for before, resumed, after in tried.passages:
            self.counts["L2 entered on the source" if before.entered else "VM entry failed"] += 1
            if before.entered and carried.complete:
                goes_on = resumed.entered and after.entered
                self.counts["L2 went on" if goes_on else "L2 did not go on"] += 1
        self._breaches(tried, place)

    def _group(self, hardware: str, what: str, place: str) -> None:
        self.groups[hardware, what] += 1
        self.examples.setdefault((hardware, what), place)

    def _breaches(self, tried: Tried, place: str) -> None:
        for name, breaches in BREACHES.items():
            for site, message in breaches(tried):
                entry = known(name, site, tried.kernels)
                if entry is not None:
                    self.breaches[name, f"known: {entry.name}"] += 1
                    self.examples.setdefault((name, f"known: {entry.name}"), place)
                    continue
                self.breaches[name, site] += 1
                self.examples.setdefault((name, site), place)
                print(f"BREACH of {name} at {place}: {site}: {message}", file=sys.stderr)


def relation(tried: Tried) -> str:
    """Return what the two worlds have in common, in words."""
    here, there = tried.worlds
    if here.host == there.host:
        return "the same" if here.params == there.params else "other parameters"
    return "other MSRs" if here.profile == there.profile else "other processors"


def run_block(seed: str) -> Tally:
    """Carry VMs between two worlds."""
    tally, source = Tally(), Random(seed)
    carrier = Carrier(side(SOURCE), side(DESTINATION))
    if not carrier.load(*worlds(source)):
        tally.counts["pairs of worlds on which KVM does not load"] += 1
        return tally
    tally.counts["pairs of worlds"] += 1
    tally.profiles.add(carrier.source.world.profile)
    for number in range(BLOCK):
        how = way(carrier, source)
        tried = try_way(carrier, how, lambda profile: attempts_of(profile, source))
        tally.note(tried, f"{seed}, migration {number}")
    return tally


def run_share(arguments: tuple[int, int, int, int]) -> Tally:
    """Do every so many blocks until there are enough migrations: what one process does."""
    first, count, seed, processes = arguments
    tally, begin, told = Tally(), process_time(), TOLD
    number = first
    while tally.migrations < count:
        tally.add(run_block(f"{seed}/{number}"))
        number += processes
        if tally.migrations >= told:
            told += TOLD
            said = (
                f"process {first}: {tally.migrations:,} migrations, {process_time() - begin:,.0f} s"
            )
            print(
                f"{said}, {sum(tally.groups.values()):,} things refused or changed", file=sys.stderr
            )
    tally.seconds = process_time() - begin
    return tally


def report(tally: Tally, wall: float, processes: int) -> None:
    """Print the table and the figures."""
    print(f"migrations, {SOURCE} to {DESTINATION}: {tally.migrations:,}")
    for what, count in sorted(tally.counts.items()):
        print(f"  {what}: {count:,}")
    print(f"  profiles: {len(tally.profiles)} of {len(profile_names())}")
    for hardware in sorted({group[0] for group in tally.groups}):
        mine = [(group, count) for group, count in tally.groups.items() if group[0] == hardware]
        print(f"  between {hardware}, refused or changed: {len(mine)} groups")
        for group, count in sorted(mine, key=lambda each: (-each[1], each[0]))[:SHOWN]:
            print(f"    {count:>9,}  {group[1]}  [{tally.examples[group]}]")
    for breach, count in sorted(tally.breaches.items()):
        print(f"  {breach[0]}, {breach[1]}: {count:,}  [{tally.examples[breach]}]")
    print(
        f"migrations, speed: {tally.migrations / tally.seconds:,.0f} a second of one core, "
        f"{tally.migrations / wall:,.0f} a second in {processes} "
        f"process{'es' if processes > 1 else ''}",
        flush=True,
    )


def main() -> int:
    """Carry VMs; then do the first block twice again, which must come to the same."""
    given = [int(argument) for argument in sys.argv[1:]]
    count, seed, processes = (*given, *(MIGRATIONS, 1, 1)[len(given) :])
    share = -(-count // processes)
    begin, tally = perf_counter(), Tally()
    with get_context("fork").Pool(processes) as pool:
        work = [(first, share, seed, processes) for first in range(processes)]
        for part in pool.map(run_share, work, chunksize=1):
            tally.add(part)
        wall = perf_counter() - begin
        again = pool.map(run_block, [f"{seed}/0"] * 2, chunksize=1)
    report(tally, wall, processes)
    if again[0] != again[1]:
        print("migrations: DIFFERENT answers to the same seed")
    unknown = any(not site.startswith("known: ") for _, site in tally.breaches)
    return 1 if unknown or again[0] != again[1] else 0


if __name__ == "__main__":
    sys.exit(main())

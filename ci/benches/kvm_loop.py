#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how fast real KVM runs on the rules and on Bochs, against what is asked of it.

An entry is an attempt of L1's through KVM's software, vmcs02 on the processor, the exit of L2 and
L1 again, from Python and back. Below stand the other ways to make one, and what KVM's software
takes alone; ratios are to that. Seconds are those of the processor's time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import process_time_ns
from typing import Any

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native.loop import KvmLoop
from nvmxfuzz.targets.registry import TARGETS

PROFILE = "skylake-x"
ROUNDS = 15
ENTRIES = 500
ASKED = 40_000
"""Entries a second with Bochs below, from Python."""


@dataclass(frozen=True)
class Way:
    """Something that takes an attempt, and a sample of attempts; `goal` of them a second."""

    title: str
    work: Callable[[Attempt], Any]
    given: Sequence[Attempt]
    goal: int = 0


def attempts() -> tuple[Attempt, ...]:
    """Return attempts that all enter, each with a VMCS of its own."""
    plain = base("guest-64", load_profile(PROFILE))
    return tuple(
        replace(plain, vmcs=plain.vmcs.replace({"guest_rip": rip})) for rip in range(ENTRIES)
    )


def other_places(count: int) -> tuple[Attempt, ...]:
    """Return attempts without IA-32e mode whose page tables are not where they were before.

    So the processor reads other memory each time, and Bochs is asked by Python.
    """
    plain = base("guest-pae", load_profile(PROFILE))
    tables = (plain.vmcs.guest_cr3, plain.vmcs.guest_cr3 + 0x200)
    data = plain.memory.read(plain.vmcs.guest_cr3, 32)
    memory = Memory.of({**dict(plain.memory.regions), tables[1]: data})
    moved = [plain.vmcs.replace({"guest_cr3": table}) for table in tables]
    return tuple(replace(plain, vmcs=moved[at % 2], memory=memory) for at in range(count))


def measured(ways: Sequence[Way]) -> list[tuple[float, float]]:
    """Return how many a second each way makes, taking turns: the median, and the best round."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, each in zip(ways, times, strict=True):
            start = process_time_ns()
            for attempt in way.given:
                way.work(attempt)
            each.append((process_time_ns() - start) / len(way.given))
    return [(1e9 / median(each), 1e9 / min(each)) for each in times]


def report(name: str, ways: Sequence[Way]) -> None:
    """Print a line for each way; the last one is what the others are compared to."""
    rates = measured(ways)
    for way, (usual, best) in zip(ways, rates, strict=True):
        asked = f" ({way.goal:,} asked for)" if way.goal else ""
        ratio = usual / rates[-1][0]
        print(
            f"{name}, {way.title}: {usual:,.0f} a second{asked}, {best:,.0f} at best, "
            f"ratio {ratio:.2f}"
        )


def main() -> None:
    """Measure each loop that is usable."""
    given = attempts()
    moving = other_places(ENTRIES)
    for name in (each for each, entry in TARGETS.items() if entry.is_loop):
        reason = TARGETS[name].usable()
        if reason:
            print(f"{name}: skipped, {reason}")
            continue
        with TARGETS[name].make() as loop, TARGETS[name.partition("+")[0]].make() as kvm:
            assert isinstance(loop, KvmLoop)
            report(
                name,
                (
                    Way("an entry", loop.run, given, ASKED if "bochs" in name else 0),
                    Way("an entry with other memory each time", loop.run, moving),
                    Way("followed", loop.follow, given),
                    Way("followed with a dry run", loop.follow_dry, given),
                    Way("KVM's software alone", kvm.run, given),
                ),
            )


if __name__ == "__main__":
    main()

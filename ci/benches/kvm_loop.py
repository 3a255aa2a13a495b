#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how fast real KVM runs on the rules and on Bochs, against what is asked of it.

An entry is an attempt of L1's through KVM's software, vmcs02 on the processor, the exit of L2 and
L1 again, from Python and back. Below stands what the parts of it take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter_ns

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native.loop import KvmLoop
from nvmxfuzz.targets.registry import TARGETS

PROFILE = "skylake-x"
ROUNDS = 15
ENTRIES = 500
ASKED = 40_000
"""Entries a second with Bochs below, from Python."""


def attempts() -> tuple[Attempt, ...]:
    """Return attempts that all enter, each with a VMCS of its own."""
    plain = base("guest-64", load_profile(PROFILE))
    return tuple(
        replace(plain, vmcs=plain.vmcs.replace({"guest_rip": rip})) for rip in range(ENTRIES)
    )


def rate(work: Callable[[Attempt], object], given: Sequence[Attempt]) -> tuple[float, float]:
    """Return how many a second: the median, and the best round."""
    times = []
    for _ in range(ROUNDS):
        start = perf_counter_ns()
        for attempt in given:
            work(attempt)
        times.append((perf_counter_ns() - start) / len(given))
    return 1e9 / median(times), 1e9 / min(times)


def report(name: str, title: str, rates: tuple[float, float], goal: int = 0) -> None:
    """Print a line."""
    asked = f" ({goal:,} asked for)" if goal else ""
    print(f"{name}, {title}: {rates[0]:,.0f} a second{asked}, {rates[1]:,.0f} at best")


def main() -> None:
    """Measure each loop that is usable."""
    given = attempts()
    for name in (each for each, entry in TARGETS.items() if entry.is_loop):
        reason = TARGETS[name].usable()
        if reason:
            print(f"{name}: skipped, {reason}")
            continue
        with TARGETS[name].make() as loop:
            assert isinstance(loop, KvmLoop)
            loop.open(given[0].profile)
            loop.follow_dry(given[0])
            report(name, "an entry", rate(loop.run, given), ASKED if "bochs" in name else 0)
            report(name, "followed", rate(loop.follow, given))
            report(name, "followed with a dry run", rate(loop.follow_dry, given))
        with TARGETS[name.partition("+")[0]].make() as kvm:
            report(name, "KVM's software alone", rate(kvm.run, given))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how far the model of nested VM entry and KVM itself agree on random VM entries of L1.

The arguments are the number of entries, the seed, and the kernels ("6.1,6.12"). Processor, module
parameters, L1's CPUID and capability MSRs, its registers and memory, vmcs12, and what the processor
below answers are random; each kernel that is built meets as many entries. Any difference is an
error.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from random import Random
from time import perf_counter
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.nested_enter import vm_entry
from nvmxfuzz.kvm.traced_checks import OUTER_SITES, SITES
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, load_profile
from nvmxfuzz.oracles.kvm.model import Both, NoEntry, compare, ending
from nvmxfuzz.targets.kvm_native.agreement.configuration import Configuration
from nvmxfuzz.targets.kvm_native.agreement.random_case import random_configuration, random_launch
from nvmxfuzz.targets.kvm_native.agreement.witness import EntryWitness, entry_witness
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.results import Stopped

ENTRIES = 20_000
KERNELS = "6.1,6.12"
OF_ONE_CONFIGURATION: Final = 200
"""How many VM entries one vCPU makes, if nothing ends its life before."""
MODEL_ROUNDS: Final = 10
SHOWN: Final = 40
TOLD: Final = 100_000


@dataclass(slots=True)
class Tally:
    """What came of the VM entries on one kernel; `examples` has a place for each difference."""

    entries: int = 0
    configurations: int = 0
    refused: int = 0
    relations: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, both: Both, place: str) -> None:
        """Count one entry."""
        found, real = compare(both), both.real
        self.entries += 1
        self.relations[found.relation] += 1
        self.checks[both.model.check] += 1
        if isinstance(real, NoEntry):
            self.reasons[real.reason] += 1
        else:
            self.outcomes[ending(real.outcome, real.died)] += 1
        for what, where, message in found.differences:
            name = f"{what}: {where}"
            self.different[name] += 1
            self.examples.setdefault(name, f"{message} ({place})")


def witness(kernel: str) -> EntryWitness | None:
    """Return KVM of a kernel, None if it is not built."""
    try:
        return entry_witness(kernel)
    except InputError as error:
        print(f"kvm-entry, {kernel} is left out: {error}", flush=True)
        return None


def lives(real: EntryWitness, seed: str) -> Iterator[tuple[int, Random | None]]:
    """Load KVM again and again; yield the number of the life and its source of chance."""
    number = 0
    while True:
        number += 1
        source = Random(f"{seed}/{number}")
        try:
            real.configure(random_configuration(source))
        except (IoctlError, Stopped):
            yield number, None
            continue
        yield number, source


def run(real: EntryWitness, count: int, seed: str) -> Tally:
    """Let L1 enter L2 so many times."""
    tally, begin = Tally(), perf_counter()
    for number, source in lives(real, seed):
        tally.configurations += 1
        if source is None:
            tally.refused += 1
            continue
        one_life(real, source, tally, f"{seed}/{number}")
        if tally.entries // TOLD != (tally.entries - OF_ONE_CONFIGURATION) // TOLD:
            told(real.kernel, tally, perf_counter() - begin)
        if tally.entries >= count:
            break
    return tally


def one_life(real: EntryWitness, source: Random, tally: Tally, place: str) -> None:
    """Make VM entries on one vCPU."""
    kvm, capabilities = real.kvm, real.capabilities
    for number in range(OF_ONE_CONFIGURATION):
        both = real.enter(random_launch(source, kvm, capabilities))
        tally.note(both, f"{place}/{number}")


def told(kernel: str, tally: Tally, seconds: float) -> None:
    """Say how far it is, for those who wait."""
    said = f"{kernel}: {tally.entries:,} entries, {seconds:,.0f} s, {dict(tally.relations)}"
    print(f"{said}, {dict(tally.different.most_common(5))}", file=sys.stderr, flush=True)


def report(kernel: str, tally: Tally, seconds: float) -> None:
    """Print the figures of one kernel."""
    print(
        f"kvm-entry, {kernel}: {tally.entries:,} entries on {tally.configurations:,} "
        f"configurations, of which KVM refuses {tally.refused:,}"
    )
    print("  " + ", ".join(f"{name} {count:,}" for name, count in tally.relations.most_common()))
    print("  ended: " + ", ".join(f"{k} {n:,}" for k, n in tally.outcomes.most_common(SHOWN)))
    for reason, number in tally.reasons.most_common(SHOWN):
        print(f"  no return: {reason} {number:,}")
    for where, number in tally.different.most_common(SHOWN):
        print(f"  DIFFERENT: {where} {number:,}: {tally.examples[where]}")
    named = set(chain(*SITES.values(), *OUTER_SITES.values()))
    missing = sorted(named - set(tally.checks))
    print(f"  checks that decided: {len(set(tally.checks) - {''})}; of those traced not seen:")
    print("    " + ", ".join(missing))
    print(f"  {tally.entries / seconds:,.0f} entries a second", flush=True)


def report_model(real: EntryWitness) -> None:
    """Print how fast the model is alone, on requests of one life."""
    source = Random(1)
    real.configure(Configuration(load_profile(DEFAULT_PROFILE)))
    launches = [
        random_launch(source, real.kvm, real.capabilities) for _ in range(OF_ONE_CONFIGURATION)
    ]
    requests = [real.enter(replace(launch, answers=())).request for launch in launches]
    begin = perf_counter()
    for request in requests * MODEL_ROUNDS:
        vm_entry(real.kvm, request)
    seconds = perf_counter() - begin
    print(f"  the model alone: {len(requests) * MODEL_ROUNDS / seconds:,.0f} entries a second")


def main() -> int:
    """Run each kernel on as many entries."""
    given = sys.argv[1:]
    count, seed, kernels = (*given, *(str(ENTRIES), "1", KERNELS)[len(given) :])
    wrong = False
    for kernel in kernels.split(","):
        real = witness(kernel)
        if real is None:
            continue
        begin = perf_counter()
        tally = run(real, int(count), seed)
        report(kernel, tally, perf_counter() - begin)
        report_model(real)
        wrong |= bool(tally.different) or "stopped" in tally.relations
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

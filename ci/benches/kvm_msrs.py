#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how far the model of the capability MSRs and the real KVM agree on random sequences.

The arguments are the number of sequences for each kernel, the seed, and the number of processes.
Each processor that KVM is loaded on has a seed of its own and lives through a block of sequences.
Any difference is an error.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from random import Random
from time import perf_counter
from zlib import crc32

from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, load_profile
from nvmxfuzz.oracles.restore.kvm_msrs import Comparison, compare, compare_loading
from nvmxfuzz.oracles.restore.sequences import sequence, values_of, world
from nvmxfuzz.oracles.restore.witness import VMX_MSRS, ModelMsrs, MsrWorld
from nvmxfuzz.targets.kvm_native.msrs import msr_witness

SEQUENCES = 10_000
BLOCK = 64
"""Sequences on one processor."""
TOLD = 100_000
SHOWN = 20
CALLS = 100_000
KERNELS = ("6.1", "6.12")


@dataclass(slots=True)
class Tally:
    """What came of some sequences; `examples` has where to find a difference again."""

    sequences: int = 0
    calls: int = 0
    relations: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    checksum: int = 0

    def add(self, other: Tally) -> None:
        """Add what came of others."""
        self.sequences += other.sequences
        self.calls += other.calls
        self.relations += other.relations
        self.steps += other.steps
        self.different += other.different
        self.examples = {**other.examples, **self.examples}
        self.checksum ^= other.checksum

    def note(self, found: Comparison, place: str) -> None:
        """Count what two witnesses came to at a place."""
        self.calls += found.calls
        self.relations[found.relation] += 1
        if found.relation != "agreed":
            where = f"{found.what} {found.where}"
            self.different[where] += 1
            self.examples.setdefault(where, f"{place}: {found.message}")
            print(f"DIFFERENT at {place}: {where}: {found.message}", file=sys.stderr, flush=True)


@cache
def kernels() -> tuple[str, ...]:
    """Return the kernels that are built."""
    found = []
    for kernel in KERNELS:
        try:
            msr_witness(kernel)
        except InputError as error:
            print(f"kvm-msrs, {kernel} is left out: {error}", flush=True)
        else:
            found.append(kernel)
    return tuple(found)


@cache
def model_of(kernel: str) -> ModelMsrs:
    """Return the model of a kernel."""
    return ModelMsrs(kernel)


def run_block(kernel: str, seed: str) -> Tally:
    """Compare on one processor."""
    tally, source = Tally(), Random(seed)
    model, real = model_of(kernel), msr_witness(kernel)
    found = compare_loading(model, real, world(source))
    tally.note(found, seed)
    if found.relation != "agreed":
        return tally
    if model.module is None:
        tally.relations["refused"] += 1
        return tally
    values = values_of(model.module, source)
    for number in range(BLOCK):
        place = f"{seed}, sequence {number}"
        steps = sequence(source, values)
        found = compare(model, real, steps)
        tally.sequences += 1
        tally.note(found, place)
        tally.steps.update(type(step).__name__ for step in steps[: found.calls])
        if found.relation == "agreed":
            # Numbers as text: the hash of a string is another one in each process.
            tally.checksum ^= crc32(f"{place} {real.read()}".encode())
    return tally


def run_share(arguments: tuple[str, int, int, int, int]) -> Tally:
    """Compare every so many blocks until there are enough sequences: what one process does."""
    kernel, first, count, seed, processes = arguments
    tally, begin, told = Tally(), perf_counter(), TOLD
    number = first
    while tally.sequences < count:
        tally.add(run_block(kernel, f"{seed}/{number}"))
        number += processes
        if tally.sequences >= told:
            told += TOLD
            seconds = perf_counter() - begin
            said = f"{kernel}, process {first}: {tally.sequences:,} sequences, {seconds:,.0f} s"
            print(f"{said}, {dict(tally.relations)}", file=sys.stderr, flush=True)
    return tally


def report(kernel: str, tally: Tally, seconds: float, processes: int) -> None:
    """Print the figures of a kernel."""
    relations = ", ".join(f"{count:,} {name}" for name, count in sorted(tally.relations.items()))
    print(f"kvm-msrs, {kernel}: {tally.sequences:,} sequences, {tally.calls:,} calls: {relations}")
    steps = ", ".join(f"{count:,} {name}" for name, count in tally.steps.most_common())
    print(f"  steps: {steps}")
    for where, number in tally.different.most_common(SHOWN):
        print(f"  DIFFERENT: {where} {number:,}: {tally.examples[where]}")
    print(
        f"kvm-msrs, {kernel}, speed: {tally.sequences / seconds:,.0f} sequences, "
        f"{tally.calls / seconds:,.0f} calls a second, each with all MSRs read after it, in "
        f"{processes} process{'es' if processes > 1 else ''}; "
        f"checksum of the last values {tally.checksum:08x}",
        flush=True,
    )


def report_calls(kernel: str) -> None:
    """Print how fast the real KVM takes and refuses values."""
    real = msr_witness(kernel)
    profile = load_profile(DEFAULT_PROFILE)
    loaded = real.load(MsrWorld(profile.name, HostCpu.of(profile), DEFAULT_PARAMS))
    real.set_cpuid(loaded.supported)
    values = dict(zip(VMX_MSRS, loaded.system, strict=True))
    writes = [((index, values[index] ^ bit),) for index in loaded.indices for bit in (0, 1 << 31)]
    begin = perf_counter()
    taken = sum(real.set_msrs(writes[number % len(writes)]) for number in range(CALLS))
    seconds = perf_counter() - begin
    print(
        f"kvm-msrs, {kernel}, KVM_SET_MSRS: {CALLS / seconds:,.0f} calls a second, "
        f"{taken / CALLS:.0%} of the values taken"
    )


def main() -> int:
    """Run each kernel; then its first block twice again, which must come to the same."""
    given = [int(argument) for argument in sys.argv[1:]]
    count, seed, processes = (*given, *(SEQUENCES, 1, 1)[len(given) :])
    right = True
    for kernel in kernels():
        share = -(-count // processes)
        begin = perf_counter()
        tally = Tally()
        with get_context("fork").Pool(processes) as pool:
            work = [(kernel, first, share, seed, processes) for first in range(processes)]
            for part in pool.map(run_share, work, chunksize=1):
                tally.add(part)
            seconds = perf_counter() - begin
            again = pool.starmap(run_block, [(kernel, f"{seed}/0")] * 2, chunksize=1)
        report(kernel, tally, seconds, processes)
        report_calls(kernel)
        right = right and not tally.different and again[0] == again[1]
        if again[0] != again[1]:
            print(f"kvm-msrs, {kernel}: DIFFERENT answers to the same seed")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())

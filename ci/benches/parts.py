#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print what the parts of an execution cost, one by one: decode, repair, judge, KVM's config."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import perf_counter_ns
from typing import TypeVar

from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.codec import decode
from nvmxfuzz.inputs.mutate import mutator
from nvmxfuzz.inputs.repair import repair
from nvmxfuzz.kvm.host import HostCpu
from nvmxfuzz.kvm.source import KERNELS, find_kernel
from nvmxfuzz.kvm.vmcs_config import setup_vmcs_config
from nvmxfuzz.machine.profile import load_profile, profile_names

T = TypeVar("T")

ROUNDS = 9
INPUTS = 500


def report(title: str, work: Callable[[T], object], items: Sequence[T]) -> None:
    """Print the median over rounds of the time of one item."""
    times = []
    for _ in range(ROUNDS):
        start = perf_counter_ns()
        for item in items:
            work(item)
        times.append((perf_counter_ns() - start) / len(items) / 1000)
    print(f"{title}: {median(times):.1f} us")


def mutated(seed: int) -> list[bytes]:
    """Return inputs as an engine makes them: a few mutations away from a legal state."""
    source = random.Random(seed)
    mutate = mutator("vm_entry", lambda _data, size: source.randbytes(source.randrange(size)))
    inputs = []
    for _ in range(INPUTS):
        data = b""
        for _ in range(source.randint(1, 4)):
            data = mutate(data, 1024, source.getrandbits(32))
        inputs.append(data)
    return inputs


def main() -> None:
    """Measure each part."""
    inputs = mutated(1)
    attempts = [decode(data, "vm_entry").attempt for data in inputs]
    report("decode a mutated input", lambda data: decode(data, "vm_entry"), inputs)
    report("judge its state", vm_entry, attempts)
    report("repair its state", repair, attempts)
    hosts = [HostCpu.of(load_profile(name)) for name in profile_names()]
    for version in KERNELS:
        kernel = find_kernel(version)
        report(f"setup_vmcs_config of {version}", partial(setup_vmcs_config, kernel=kernel), hosts)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how fast Bochs judges, whether its two paths agree, and whether it leaks memory."""

import random
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from time import perf_counter

from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.codec import BOTH, REPAIR, decode
from nvmxfuzz.inputs.layout import VERSION
from nvmxfuzz.inputs.mutate import mutator
from nvmxfuzz.inputs.order import PROFILES
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.base import Target
from nvmxfuzz.targets.bochs.fast import FastPath
from nvmxfuzz.targets.bochs.models import MODELS
from nvmxfuzz.targets.bochs.target import Bochs, BochsComplete, fast_engine
from nvmxfuzz.targets.registry import TARGETS

STATES = 100_000
RUNS = 1_000_000
ROUNDS = 50_000
SLOW_ROUNDS = 5_000
MOST_BYTES = 4096


def states(seed: int) -> Iterator[Attempt]:
    """Yield random states on every model: repaired, then edited."""
    source = random.Random(seed)
    mutate = mutator("vm_entry", lambda data, _size: data)
    models = [PROFILES.index(model) for model in MODELS]
    while True:
        header = (VERSION, REPAIR | BOTH, source.choice(models), 255 - source.randrange(60), 0)
        words = source.randbytes(source.choice((0, 0, 400, 2000)))
        data = mutate(bytes(header) + words, MOST_BYTES, source.getrandbits(32))
        case = decode(data, "vm_entry")
        if isinstance(case, EntryCase):
            yield case.attempt


def named_states() -> dict[str, Attempt]:
    """Return one state of each kind of outcome."""
    plain = base("guest-64", load_profile("skylake-x"))
    edits = {
        "entered": {},
        "invalid guest state": {"guest_rflags": 0xA},
        "invalid control": {"pin_based_vm_exec_control": 0},
    }
    return {name: replace(plain, vmcs=plain.vmcs.replace(fields)) for name, fields in edits.items()}


def speed() -> None:
    """Print verdicts a second: from a ready image, from an attempt, by the complete path."""
    own, complete = Bochs(), BochsComplete()
    isolated = TARGETS["bochs"].make_isolated()
    for name, attempt in named_states().items():
        print(
            f"bochs, {name}: {image_rate(attempt):,.0f}/s from a ready image, "
            f"{run_rate(own, [attempt] * ROUNDS):,.0f}/s from an attempt, "
            f"{run_rate(isolated, [attempt] * SLOW_ROUNDS):,.0f}/s in a child, "
            f"{run_rate(complete, [attempt] * SLOW_ROUNDS):,.0f}/s by the complete path"
        )
    isolated.close()
    print(f"bochs, random states: {run_rate(own, list(islice(states(1), SLOW_ROUNDS))):,.0f}/s")


def image_rate(attempt: Attempt) -> float:
    """Return how many verdicts a second there are if the image of the VMCS is made already."""
    engine = fast_engine(attempt.profile.name)
    path = FastPath(engine, attempt.profile, attempt.profile.name)
    place = path.ready(attempt.processor).address
    image = engine.format.image(attempt.vmcs, attempt.launch_state)
    instruction = engine.instructions[attempt.instruction]
    start = perf_counter()
    for _ in range(ROUNDS):
        engine.enter(place, image, instruction)
    return ROUNDS / (perf_counter() - start)


def run_rate(target: Target, attempts: list[Attempt]) -> float:
    """Return how many of `attempts` a target runs in a second."""
    for attempt in attempts[:100]:
        target.run(attempt)
    start = perf_counter()
    for attempt in attempts:
        target.run(attempt)
    return len(attempts) / (perf_counter() - start)


def equality(count: int) -> bool:
    """Print on how many random states both paths say the same, message for message."""
    one, two = Bochs(), BochsComplete()
    seen: Counter[str] = Counter()
    different = 0
    for attempt in islice(states(2), count):
        first, second = one.run(attempt), two.run(attempt)
        seen[str(first.outcome or first.status)] += 1
        if first != second:
            different += 1
            print(f"different: {first} and {second}")
    common = ", ".join(f"{number} {outcome}" for outcome, number in seen.most_common(8))
    print(f"bochs, both paths: {different} differences in {count:,} states ({common})")
    return different == 0


def growth(count: int) -> None:
    """Print how much more memory the process has after a million runs."""
    target = Bochs()
    attempts = list(islice(states(3), 5000))
    for attempt in attempts:
        target.run(attempt)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        target.run(attempts[number % len(attempts)])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"bochs, memory: {after - before:,} KiB more after {count:,} runs ({after:,} KiB)")


def main() -> int:
    """Print everything; the argument is the number of states for both paths."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else STATES
    speed()
    growth(RUNS)
    return 0 if equality(count) else 1


if __name__ == "__main__":
    sys.exit(main())

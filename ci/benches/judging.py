#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print what judging one VMCS against all rules costs, against as many empty Python functions."""

import random
from collections.abc import Callable
from statistics import median
from time import perf_counter_ns

from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.bases import base, base_names
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.codec import decode
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import load_profile

ROUNDS = 31
STATES = 200


def empty_functions() -> list[Callable[[object], None]]:
    """Return as many functions of their own as there are rules; each does nothing."""

    def make() -> Callable[[object], None]:
        def nothing(_entry: object) -> None:
            return None

        return nothing

    return [make() for _ in CHAPTER.rules]


def call_all(functions: list[Callable[[object], None]], attempt: Attempt) -> None:
    """Call each function once."""
    for function in functions:
        function(attempt)


def decoded_states(seed: int) -> list[Attempt]:
    """Return states as the random engine makes them."""
    source = random.Random(seed)
    cases = (decode(source.randbytes(source.randrange(200)), "vm_entry") for _ in range(STATES))
    return [case.attempt for case in cases if isinstance(case, EntryCase)]


def per_state(work: Callable[[Attempt], object], states: list[Attempt]) -> float:
    """Return the time of one state in nanoseconds."""
    start = perf_counter_ns()
    for state in states:
        work(state)
    return (perf_counter_ns() - start) / len(states)


def compare(title: str, states: list[Attempt]) -> None:
    """Print the medians over rounds in which both loops take turns."""
    functions = empty_functions()
    empty, judged = [], []
    for _ in range(ROUNDS):
        empty.append(per_state(lambda state: call_all(functions, state), states))
        judged.append(per_state(vm_entry, states))
    ratio = median(j / e for j, e in zip(judged, empty, strict=True))
    print(
        f"{title}: {ratio:.2f} times {len(functions)} empty functions "
        f"({median(judged) / 1000:.1f} us against {median(empty) / 1000:.1f} us)"
    )


def main() -> None:
    """Print one line for the plain base, for every base of every kind, and for random states."""
    plain = load_profile("skylake-x")
    rich = load_profile("everything")
    compare("judging guest-64 on skylake-x", [base("guest-64", plain)] * STATES)
    for name in base_names(rich):
        compare(f"judging {name} on everything", [base(name, rich)] * STATES)
    compare("judging decoded random bytes", decoded_states(1))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how many sessions a second KVM and its model live through, and what became of them.

The arguments are the number of sessions for each world, the seed, and the kernels. Sessions are
those of `nvmxfuzz.inputs.random_session`, cut or filled up to 20 steps, made beforehand; times are
of the processor. A witness that stops, or results that differ when the same sessions are repeated,
are an error.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from time import process_time

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.random_session import following_step, random_session
from nvmxfuzz.inputs.session_steps import VCPUS, SessionStep
from nvmxfuzz.inputs.world import World, parameters_of, world_on
from nvmxfuzz.oracles.session.witness import SessionWitness, StepResult, VcpuView
from nvmxfuzz.targets.kvm_native.session import session_witness
from nvmxfuzz.targets.session_model import ModelSessions

SESSIONS = 200
STEPS = 20
KERNELS = ("6.1", "6.12")
PARAMETERS: tuple[dict[str, int], ...] = (
    {},
    {"unrestricted_guest": 0},
    {"ept": 0},
    {"enable_shadow_vmcs": 0},
)

Session = tuple[SessionStep, ...]
Seen = tuple[StepResult, tuple[VcpuView, ...]]


def sessions(count: int, seed: str) -> tuple[Session, ...]:
    """Return sessions of `STEPS` steps."""
    return tuple(_session(Random(f"{seed}/{number}")) for number in range(count))


def _session(rng: Random) -> Session:
    steps = random_session(rng, STEPS)
    while len(steps) < STEPS:
        steps = (*steps, following_step(rng, steps))
    return steps


def worlds(kernel: str) -> Iterator[tuple[str, World]]:
    """Yield the worlds that sessions are lived in, with their names."""
    plain = world_on("skylake-x", kernel)
    for parameters in PARAMETERS:
        name = " ".join(f"{key}={value}" for key, value in parameters.items()) or "as it is"
        yield name, replace(plain, parameters=parameters_of(parameters))


def live(witness: SessionWitness, session: Session, *, views: bool) -> tuple[Seen, ...]:
    """Return what the steps of a session came to; with what can be read behind each."""
    witness.renew()
    seen = []
    for step in session:
        result = witness.do(step)
        looks = views and not result.stopped
        seen.append((result, tuple(map(witness.read, range(VCPUS))) if looks else ()))
        if result.stopped:
            break
    return tuple(seen)


def measure(witness: SessionWitness, made: Sequence[Session], *, views: bool) -> float:
    """Return how many sessions there are a second."""
    start = process_time()
    for session in made:
        live(witness, session, views=views)
    return len(made) / (process_time() - start)


def main(count: int, seed: str, kernels: Sequence[str]) -> int:
    """Print the figures of each kernel and world; 1 if a witness stopped or was not the same."""
    made = sessions(count, seed)
    wrong = 0
    for kernel in kernels:
        witness = session_witness(kernel)
        for name, world in worlds(kernel):
            refused = witness.load(world)
            if refused:
                raise InputError(f"KVM of {kernel} refuses the world: {refused}")
            plain, full = (measure(witness, made, views=views) for views in (False, True))
            outcomes: Counter[str] = Counter()
            for session in made:
                first, second = (live(witness, session, views=True) for _ in range(2))
                outcomes["not the same again"] += first != second
                outcomes.update(_words(first))
            wrong += outcomes["not the same again"] + outcomes["stopped"]
            print(f"{kernel}, {name}: {plain:,.0f} sessions a second, {full:,.0f} with all views")
            print("  " + ", ".join(f"{word} {number}" for word, number in outcomes.most_common()))
            model = ModelSessions(kernel)
            model.load(world)
            plain, full = (measure(model, made, views=views) for views in (False, True))
            print(f"  the model: {plain:,.0f} sessions a second, {full:,.0f} with all views")
    return 1 if wrong else 0


def _words(seen: Sequence[Seen]) -> Iterator[str]:
    for result, _ in seen:
        if result.stopped:
            yield "stopped"
        elif result.outcome:
            yield result.outcome.split(" ")[0]
        elif result.errno:
            yield "errno"


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else SESSIONS
    sys.exit(main(number, sys.argv[2] if len(sys.argv) > 2 else "0", sys.argv[3:] or KERNELS))

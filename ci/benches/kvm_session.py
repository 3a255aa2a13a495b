#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how far the model of KVM and KVM itself agree on random sessions.

The arguments are the number of sessions, the seed, and the kernels ("6.1,6.12"). Each kernel that
is built meets as many sessions, in worlds that take turns. Any difference is an error.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from random import Random
from time import process_time
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.world import World, world_on
from nvmxfuzz.oracles.session.agreement import compare_session
from nvmxfuzz.targets.kvm_native.agreement.random_session import random_session
from nvmxfuzz.targets.kvm_native.session import session_witness
from nvmxfuzz.targets.session_model import ModelSessions

SESSIONS = 400
KERNELS = "6.1,6.12"
_WORLDS: Final = (
    ("skylake-x", ()),
    ("everything", ()),
    ("skylake-x", (("unrestricted_guest", 0),)),
    ("everything", (("ept", 0),)),
)
_SHOWN: Final = 12


def main(arguments: list[str]) -> int:
    """Compare, print, and return the exit status."""
    sessions = int(arguments[0]) if arguments else SESSIONS
    seed = int(arguments[1]) if len(arguments) > 1 else 1
    kernels = (arguments[2] if len(arguments) > 2 else KERNELS).split(",")
    return max(_kernel(kernel, sessions, seed) for kernel in kernels)


def _kernel(kernel: str, sessions: int, seed: int) -> int:
    try:
        session_witness(kernel)
    except InputError as error:
        print(f"{kernel}: {error}")
        return 0
    different: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    steps, start = 0, process_time()
    source = Random(seed)
    for name, parameters in _WORLDS:
        world = replace(world_on(name, kernel), parameters=parameters)
        steps += _world(world, source, sessions // len(_WORLDS), different, ended)
    seconds = process_time() - start
    print(f"{kernel}: {sessions} sessions, {steps} steps the same, {seconds:.0f} s")
    for text, count in ended.most_common(_SHOWN):
        print(f"  {count:6} ended: {text}")
    for text, count in different.most_common(_SHOWN):
        print(f"  {count:6} DIFFERENT: {text}")
    return 1 if different else 0


def _world(
    world: World, source: Random, sessions: int, different: Counter[str], ended: Counter[str]
) -> int:
    real = session_witness(world.kernel)
    model = ModelSessions(world.kernel)
    refused = real.load(world), model.load(world)
    if all(refused):
        return 0
    if any(refused):
        different[f"load: {refused}"] += 1
        return 0
    steps = 0
    for _ in range(sessions):
        compared = compare_session(random_session(source), model, real)
        steps += compared.steps
        if compared.finding is not None:
            different[f"{compared.finding.site}: {compared.finding.message}"] += 1
        ended[compared.ended or ("a difference" if compared.finding else "all steps")] += 1
    return steps


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

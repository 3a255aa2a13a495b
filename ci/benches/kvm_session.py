#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how far the model of KVM and KVM itself agree on random sessions.

The arguments are the number of sessions, the seed, and the kernels ("6.1,6.12"). Each kernel that
is built meets as many sessions of up to 50 steps, in worlds that take turns. Any difference is an
error; where the model ends a session early, the cause is printed with what it costs.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field, replace
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
_SHOWN: Final = 24


def main(arguments: list[str]) -> int:
    """Compare, print, and return the exit status."""
    sessions = int(arguments[0]) if arguments else SESSIONS
    seed = int(arguments[1]) if len(arguments) > 1 else 1
    kernels = (arguments[2] if len(arguments) > 2 else KERNELS).split(",")
    return max(_kernel(kernel, sessions, seed) for kernel in kernels)


@dataclass
class Tally:
    """What came of the sessions of one kernel."""

    sessions: int = 0
    whole: int = 0
    """Compared to their end."""
    steps: int = 0
    same: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    """Steps that were not compared, by what ended the session before."""
    different: Counter[str] = field(default_factory=Counter)


def _kernel(kernel: str, sessions: int, seed: int) -> int:
    try:
        session_witness(kernel)
    except InputError as error:
        print(f"{kernel}: {error}")
        return 0
    tally, start = Tally(), process_time()
    source = Random(seed)
    for name, parameters in _WORLDS:
        world = replace(world_on(name, kernel), parameters=parameters)
        _world(world, source, sessions // len(_WORLDS), tally)
    _print(kernel, tally, process_time() - start)
    return 1 if tally.different else 0


def _print(kernel: str, tally: Tally, seconds: float) -> None:
    steps = max(tally.steps, 1)
    print(
        f"{kernel}: {tally.sessions} sessions, {tally.whole / max(tally.sessions, 1):.1%} to their "
        f"end; {tally.same} steps the same, {tally.same / steps:.1%} of all; {seconds:.0f} s"
    )
    for text, count in tally.lost.most_common(_SHOWN):
        print(f"  {tally.ended[text]:6} ended, {count / steps:6.2%} of steps lost: {text}")
    for text, count in tally.different.most_common(_SHOWN):
        print(f"  {count:6} DIFFERENT: {text}")


def _world(world: World, source: Random, sessions: int, tally: Tally) -> None:
    real = session_witness(world.kernel)
    model = ModelSessions(world.kernel)
    refused = real.load(world), model.load(world)
    if all(refused):
        return
    if any(refused):
        tally.different[f"load: {refused}"] += 1
        return
    for _ in range(sessions):
        steps = random_session(source)
        compared = compare_session(steps, model, real)
        tally.sessions += 1
        tally.steps += len(steps)
        tally.same += compared.steps
        ended = compared.ended
        if compared.finding is not None:
            tally.different[f"{compared.finding.site}: {compared.finding.message}"] += 1
            ended = "a difference"
        if ended:
            tally.ended[ended] += 1
            tally.lost[ended] += len(steps) - compared.steps
        else:
            tally.whole += 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# SPDX-License-Identifier: GPL-2.0-only
"""The plain random engine: needs no library, and a seed with a number of runs fixes all of it.

Half of the inputs are random bytes, which decode to far-away states; the others begin with a valid
state and take a few steps of the mutator that Atheris uses as well.
"""

from __future__ import annotations

from random import Random

from nvmxfuzz.campaign.session import Session
from nvmxfuzz.inputs.mutate import mutator

MAX_SIZE = 1024
MOST_STEPS = 4


def run(session: Session) -> None:
    """Feed the session from a Mersenne twister."""
    rng = Random(session.settings.seed)

    def random_bytes(_: bytes, size: int) -> bytes:
        return rng.randbytes(rng.randrange(size))

    mutate = mutator(session.harness.kind, random_bytes, session.harness.profiles)
    while not session.finished:
        data = b""
        if rng.getrandbits(1):
            data = random_bytes(data, MAX_SIZE)
        else:
            for _ in range(rng.randint(1, MOST_STEPS)):
                data = mutate(data, MAX_SIZE, rng.getrandbits(32))
        session.execute(data)

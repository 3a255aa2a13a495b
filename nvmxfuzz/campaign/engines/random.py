# SPDX-License-Identifier: GPL-2.0-only
"""The plain random engine: needs no library, and a seed with a number of runs fixes all of it.

Half of the inputs are random bytes, which decode to far-away states; the others begin with a valid
state, or with an input that was kept, and take a few steps of Atheris' mutator.
"""

from __future__ import annotations

from random import Random

from nvmxfuzz.campaign.session import Session
from nvmxfuzz.inputs.mutate import mutator

MAX_SIZE = 1024
MOST_STEPS = 4
ROUND = 100
"""Inputs from one look at what other workers have kept to the next."""


def run(session: Session) -> None:
    """Feed the session from a Mersenne twister."""
    rng = Random(session.settings.seed)

    def random_bytes(_: bytes, size: int) -> bytes:
        return rng.randbytes(rng.randrange(size))

    mutate = mutator(session.harness.kind, random_bytes, session.harness.profiles)
    session.execute_all()
    while not session.finished:
        session.execute_arrivals()
        for _ in range(ROUND):
            if session.finished:
                return
            session.parent = data = b""
            if rng.getrandbits(1):
                data = random_bytes(data, MAX_SIZE)
            else:
                if session.parents and rng.getrandbits(1):
                    session.parent = data = rng.choice(session.parents)
                for _ in range(rng.randint(1, MOST_STEPS)):
                    data = mutate(data, MAX_SIZE, rng.getrandbits(32))
            session.execute(data)

# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of targets share: random states, and the targets that are usable here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import TypeAlias

import pytest

from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.codec import BOTH, REPAIR, decode
from nvmxfuzz.inputs.layout import VERSION
from nvmxfuzz.inputs.mutate import mutator
from nvmxfuzz.inputs.order import PROFILES
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.targets.bochs import wheel
from nvmxfuzz.targets.bochs.models import MODELS
from nvmxfuzz.targets.bochs.target import Bochs, BochsComplete

RandomStates: TypeAlias = Callable[[int, int], list[Attempt]]


def _states(seed: int) -> Iterator[Attempt]:
    source = Random(seed)
    mutate = mutator("vm_entry", lambda data, _size: data)
    models = [PROFILES.index(model) for model in MODELS]
    while True:
        header = (VERSION, REPAIR | BOTH, source.choice(models), 255 - source.randrange(60), 0)
        words = source.randbytes(source.choice((0, 0, 400, 2000)))
        data = mutate(bytes(header) + words, 4096, source.getrandbits(32))
        case = decode(data, "vm_entry")
        assert isinstance(case, EntryCase)
        yield case.attempt


@pytest.fixture(scope="session")
def random_states() -> RandomStates:
    """Return a function (seed, count) that makes states: repaired, then edited."""
    return lambda seed, count: list(islice(_states(seed), count))


@pytest.fixture(scope="session")
def bochs() -> Bochs:
    """Return Bochs by its fast path, or skip the test."""
    _need_bochs()
    return Bochs()


@pytest.fixture(scope="session")
def bochs_complete() -> BochsComplete:
    """Return Bochs by its complete path, or skip the test."""
    _need_bochs()
    return BochsComplete()


def _need_bochs() -> None:
    if wheel.usable():
        pytest.skip(wheel.usable())

# SPDX-License-Identifier: GPL-2.0-only
"""Random choices that cost nothing to begin: the mutator begins anew with a seed for each input.

`random.Random` takes 10 us to seed, as long as a mutation. This generator (linear congruential,
with the constants of drand48, of whose 48 bits of state the upper 32 are used) is plenty for a
dozen of choices.
"""

from __future__ import annotations

from random import Random
from typing import Final

_MASK: Final = 0xFFFF_FFFF_FFFF
_FACTOR: Final = 0x5_DEEC_E66D
_STEP: Final = 0xB
_SPREAD: Final = 0x9E37_79B9_7F4B
"""Takes seeds that are close to one another to states that are not."""
_UNUSED: Final = 16
_WORD: Final = 32


class QuickRandom(Random):
    """As `random.Random`, of which it inherits what is made of the methods here."""

    def __init__(self) -> None:
        super().__init__(0)
        self._state = 0

    def begin(self, seed: int) -> None:
        """Make the choices that belong to `seed`."""
        self._state = (seed ^ seed >> _WORD) * _SPREAD & _MASK

    def _next(self) -> int:
        """Return 32 random bits."""
        self._state = state = self._state * _FACTOR + _STEP & _MASK
        return state >> _UNUSED

    def random(self) -> float:
        """Return a number from 0 to below 1."""
        return self._next() * 2.0**-_WORD

    def getrandbits(self, k: int, /) -> int:
        """Return `k` random bits."""
        if k <= _WORD:
            return self._next() >> _WORD - k
        bits = 0
        for _ in range(0, k, _WORD):
            bits = bits << _WORD | self._next()
        return bits >> -k % _WORD

    def _randbelow(self, n: int) -> int:
        """Return a number from 0 to below `n`, which is small: what all other choices ask for."""
        return self._next() * n >> _WORD

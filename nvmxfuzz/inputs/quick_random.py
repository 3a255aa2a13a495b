# SPDX-License-Identifier: GPL-2.0-only
"""Random choices that cost nothing to begin: the mutator begins anew with a seed for each input.

`random.Random` takes 10 us to seed, as long as a mutation. This generator (a counter, mixed as in
SplitMix64) has 64 bits of state, which is plenty for a dozen of choices.
"""

from __future__ import annotations

from random import Random
from typing import Final

_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_STEP: Final = 0x9E37_79B9_7F4A_7C15
_MIX: Final = 0xBF58_476D_1CE4_E5B9
_WORD: Final = 64


class QuickRandom(Random):
    """As `random.Random`, of which it inherits what is made of `random` and `getrandbits`."""

    def __init__(self) -> None:
        super().__init__(0)
        self._state = 0

    def begin(self, seed: int) -> None:
        """Make the choices that belong to `seed`."""
        self._state = seed & _MASK

    def _next(self) -> int:
        self._state = state = self._state + _STEP & _MASK
        state = (state ^ state >> 30) * _MIX & _MASK
        state = (state ^ state >> 27) * _STEP & _MASK
        return state ^ state >> 31

    def random(self) -> float:
        """Return a number from 0 to below 1."""
        return (self._next() >> 11) * 2.0**-53

    def getrandbits(self, k: int, /) -> int:
        """Return `k` random bits."""
        if k <= _WORD:
            return self._next() >> _WORD - k
        bits = 0
        for _ in range(0, k, _WORD):
            bits = bits << _WORD | self._next()
        return bits >> -k % _WORD

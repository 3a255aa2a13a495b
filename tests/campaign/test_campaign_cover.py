# SPDX-License-Identifier: GPL-2.0-only
"""The smallest set with the same behaviours: complete, nothing superfluous, the same each time."""

from collections.abc import Sequence
from itertools import combinations
from random import Random

import pytest

from nvmxfuzz.campaign.cover import Member, cover


def members(*behaviours: int) -> list[Member]:
    return [Member(1, bytes([number]), mask) for number, mask in enumerate(behaviours)]


def union(given: Sequence[Member], places: Sequence[int], covered: int = 0) -> int:
    for place in places:
        covered |= given[place].behaviours
    return covered


def drawn(rng: Random, count: int, bits: int) -> list[Member]:
    return [
        Member(
            rng.randrange(1, 50), rng.randbytes(4), rng.getrandbits(bits) & rng.getrandbits(bits)
        )
        for _ in range(count)
    ]


def smallest(given: Sequence[Member]) -> int:
    """Return how many members it takes, by trying all sets."""
    whole = union(given, range(len(given)))
    return next(
        size
        for size in range(len(given) + 1)
        if any(union(given, places) == whole for places in combinations(range(len(given)), size))
    )


def test_one_that_shows_all_is_enough() -> None:
    assert cover(members(0b001, 0b111, 0b010)) == (1,)


def test_of_two_that_show_the_same_the_smaller_one_stays() -> None:
    large, small = Member(9, b"a", 0b11), Member(3, b"b", 0b11)
    assert cover([large, small]) == (1,)
    assert cover([small, large]) == (0,)


def test_what_others_have_made_superfluous_goes() -> None:
    # The greedy choice begins with the first, which the two after it replace.
    assert cover(members(0b011110, 0b000111, 0b111000)) == (1, 2)


def test_what_is_covered_already_needs_nobody() -> None:
    assert cover(members(0b01, 0b11), covered=0b01) == (1,)
    assert cover(members(0b01, 0b10), covered=0b11) == ()
    assert cover([]) == ()
    assert cover(members(0)) == ()


@pytest.mark.parametrize("seed", range(30))
def test_the_chosen_show_all_of_it_and_none_is_superfluous(seed: int) -> None:
    rng = Random(seed)
    given = drawn(rng, 200, 300)
    covered = rng.getrandbits(300) & rng.getrandbits(300)
    chosen = cover(given, covered)
    whole = union(given, range(len(given)), covered)
    assert union(given, chosen, covered) == whole
    for place in chosen:
        assert union(given, [each for each in chosen if each != place], covered) != whole


@pytest.mark.parametrize("seed", range(10))
def test_the_order_in_which_they_come_plays_no_part(seed: int) -> None:
    rng = Random(seed)
    given = drawn(rng, 100, 200)
    chosen = {given[place] for place in cover(given)}
    rng.shuffle(given)
    assert {given[place] for place in cover(given)} == chosen


def test_it_is_nearly_as_small_as_can_be() -> None:
    rng = Random(1)
    given = [drawn(rng, 10, 16) for _ in range(60)]
    excess = [len(cover(each)) - smallest(each) for each in given]
    assert max(excess) <= 1
    assert sum(excess) <= 12

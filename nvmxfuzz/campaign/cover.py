# SPDX-License-Identifier: GPL-2.0-only
"""The smallest part of a corpus that does all of what the corpus does: a set cover.

The smallest of all is too much to ask (the problem is NP-hard); what is chosen has three
properties. It covers everything; no member of it could be left out; and it depends on nothing but
the members, whatever order they come in.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """An input by its length and digest, and what it does: one bit for each behaviour."""

    size: int
    digest: bytes
    behaviours: int


def cover(members: Sequence[Member], covered: int = 0) -> tuple[int, ...]:
    """Return the places of members that together do all that is not covered, in ascending order.

    Taken is whoever adds most to what the others do, the smaller one of two that add as much; what
    has become superfluous by those that came later is left out, the largest first.
    """
    chosen: list[int] = []
    # What a member adds only shrinks, so that an old figure is a bound: it is looked at again when
    # it is the best one.
    heap = [
        (-(member.behaviours & ~covered).bit_count(), member.size, member.digest, place)
        for place, member in enumerate(members)
    ]
    heapq.heapify(heap)
    done = covered
    while heap:
        bound, size, digest, place = heapq.heappop(heap)
        adds = (members[place].behaviours & ~done).bit_count()
        if not adds:
            continue
        if adds < -bound and heap and (-adds, size, digest, place) > heap[0]:
            heapq.heappush(heap, (-adds, size, digest, place))
            continue
        chosen.append(place)
        done |= members[place].behaviours
    return _needed({place: members[place] for place in chosen}, covered)


def _needed(chosen: Mapping[int, Member], covered: int) -> tuple[int, ...]:
    """Return those of some members that the others cannot replace."""
    left = dict(chosen)
    for place in sorted(chosen, key=lambda place: _size(chosen[place]), reverse=True):
        others = covered
        for other, member in left.items():
            if other != place:
                others |= member.behaviours
        if not left[place].behaviours & ~others:
            del left[place]
    return tuple(sorted(left))


def _size(member: Member) -> tuple[int, bytes]:
    return member.size, member.digest

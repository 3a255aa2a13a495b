#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print how far the rules and Bochs agree on random states: repaired, then one to five edits.

The arguments are the number of states and the seed. Every difference must be a known one; and
where a known difference is said to be, Bochs must differ.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from random import Random
from time import perf_counter
from zlib import crc32

from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.inputs.bases import base, base_names
from nvmxfuzz.inputs.interesting import interesting
from nvmxfuzz.inputs.layout import Slot, layout
from nvmxfuzz.inputs.memory_edit import ADDRESS_BITS, MemoryEdit
from nvmxfuzz.inputs.repair import repair
from nvmxfuzz.inputs.words import build_attempt, entry_word
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.bochs.agreement import compare, explains
from nvmxfuzz.oracles.bochs.known import BOCHS
from nvmxfuzz.oracles.bochs.messages import RULES_OF
from nvmxfuzz.targets.bochs.models import MODELS
from nvmxfuzz.targets.bochs.target import Bochs

STATES = 20_000
PROCESSES = 2
BLOCK = 1000
"""States that come from one seed of their own: what a process takes at a time."""
EDITED = 8
"""States made of each repaired one."""
SLOTS = layout("vm_entry").slots
SHOWN = 20

MSRS = (
    *(0x1B, 0x3A, 0x48, 0x49, 0xFE, 0x10A, 0x10B, 0x200, 0x201, 0x250, 0x258, 0x268, 0x2FF, 0xDA0),
    *(0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, 0xC000_0102, 0xC000_0103),
)
"""MSRs that Bochs refuses for reasons of their own, beside those that are edges of the layout."""


@dataclass(slots=True)
class Tally:
    """What came of some states."""

    relations: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    unexplained: Counter[str] = field(default_factory=Counter)
    templates: Counter[str] = field(default_factory=Counter)
    checksum: int = 0

    def add(self, other: Tally) -> None:
        """Add what came of others."""
        self.relations += other.relations
        self.known += other.known
        self.unexplained += other.unexplained
        self.templates += other.templates
        self.checksum = (self.checksum + other.checksum) % (1 << 64)


def states(seed: str) -> Iterator[Attempt]:
    """Yield states on every model: a legal one, then some that are few edits away from it."""
    source = Random(seed)
    while True:
        profile = load_profile(source.choice(list(MODELS)))
        legal = base(source.choice(base_names(profile)), profile)
        if source.random() < 0.9:
            legal = scattered(legal, source)
        yield legal
        for _ in range(EDITED):
            yield edited(legal, source)


def scattered(start: Attempt, source: Random) -> Attempt:
    """Return a legal state that is anywhere: some slots at random, then repaired."""
    share = source.choice((1.0, 0.5, 0.2, 0.05))
    words = {
        slot: slot.fit(value_of(slot, start, source)) for slot in SLOTS if source.random() < share
    }
    return repair(build_attempt(start, words, ()))


def value_of(slot: Slot, start: Attempt, source: Random) -> int:
    """Return an edge of a slot, or any value."""
    return edge(slot, start, source) if source.random() < 0.3 else source.getrandbits(slot.width)


def edited(start: Attempt, source: Random) -> Attempt:
    """Return the state after one to five edits of any slots, or of memory that a slot points to."""
    words: dict[Slot, int] = {}
    memory: list[MemoryEdit] = []
    for _ in range(source.randint(1, 5)):
        slot = source.choice(SLOTS)
        if source.random() < 0.03:
            address = entry_word(start, slot) & (1 << ADDRESS_BITS) - 1
            memory.append(MemoryEdit(address, source.randbytes(source.choice((4, 8, 16)))))
        else:
            words[slot] = slot.fit(edit(slot, start, source))
    return build_attempt(start, words, memory)


def edit(slot: Slot, start: Attempt, source: Random) -> int:
    """Return another value of a slot: a bit or two flipped, another slot's value, an edge, any."""
    choice = source.random()
    if choice < 0.45:
        flips = (1 << source.randrange(slot.width) for _ in range(source.choice((1, 1, 1, 2))))
        return entry_word(start, slot) ^ sum(set(flips))
    if choice < 0.55:
        return entry_word(start, source.choice(SLOTS)) & slot.mask
    return value_of(slot, start, source) if choice < 0.8 else edge(slot, start, source)


def edge(slot: Slot, start: Attempt, source: Random) -> int:
    """Return an edge of a slot."""
    if slot.area == "memory" and slot.name.endswith("_index") and source.random() < 0.5:
        return source.choice(MSRS)
    return source.choice(interesting(slot, start.profile))


def run_block(target: Bochs, seed: str, count: int) -> Tally:
    """Compare the first states of a seed."""
    tally = Tally()
    for attempt in islice(states(seed), count):
        relation, outcome = examine(target, attempt, tally)
        tally.relations[relation] += 1
        tally.checksum = crc32(f"{relation} {outcome}".encode(), tally.checksum)
    return tally


def examine(target: Bochs, attempt: Attempt, tally: Tally) -> tuple[str, str]:
    """Compare one state: by the rules alone, and by the rules as Bochs is known to have them."""
    seen = target.run(attempt)
    if seen.status != "outcome":
        return seen.status, seen.reason
    tally.templates.update(message.template for message in seen.messages)
    found = compare(vm_entry(attempt), seen, attempt)
    tally.known.update(found.known)
    if found.relation == "unexplained":
        tally.unexplained[f"{found.site} {', '.join(found.rules)}"] += 1
    else:
        outcome = seen.outcome
        if outcome and not explains(BOCHS.judge(attempt), outcome, seen.messages):
            tally.unexplained[f"a known difference that is none: {outcome}"] += 1
    return found.relation, str(seen.outcome)


def run_share(arguments: tuple[int, int, int]) -> Tally:
    """Compare every second block: what one process does."""
    first, count, seed = arguments
    target, tally = Bochs(), Tally()
    for number in range(first, -(-count // BLOCK), PROCESSES):
        tally.add(run_block(target, f"{seed}/{number}", min(BLOCK, count - number * BLOCK)))
    return tally


def report(tally: Tally, count: int, seconds: float) -> None:
    """Print the figures."""
    relations = tally.relations
    print(
        f"agreement, {count:,} states on {len(MODELS)} models: {relations['agreed']:,} agreed, "
        f"{relations['known']:,} with known differences, {relations['unexplained']:,} unexplained, "
        f"{relations['no-opinion']:,} without an opinion, "
        f"{relations['not-representable']:,} not representable, {relations['died']:,} died"
    )
    for name, number in tally.known.most_common():
        print(f"  known: {name} {number:,}")
    for site, number in tally.unexplained.most_common(SHOWN):
        print(f"  UNEXPLAINED: {site} {number:,}")
    missing = set(RULES_OF) - set(tally.templates)
    print(
        f"agreement, messages: {len(tally.templates)} distinct ones provoked, "
        f"{len(RULES_OF) - len(missing)} of the {len(RULES_OF)} that are mapped to rules"
    )
    if len(missing) <= SHOWN:
        for template in sorted(missing):
            print(f"  not provoked: {template}")
    print(
        f"agreement, speed: {count / seconds:,.0f} states a second in {PROCESSES} processes; "
        f"checksum of all verdicts {tally.checksum:016x}"
    )


def main() -> int:
    """Run both processes; then the first block again, which must come to the same."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else STATES
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    start = perf_counter()
    tally = Tally()
    with get_context("fork").Pool(PROCESSES) as pool:
        shares = [(first, count, seed) for first in range(PROCESSES)]
        for share in pool.map(run_share, shares):
            tally.add(share)
        seconds = perf_counter() - start
        again = pool.map(run_share, [(0, min(BLOCK, count), seed)] * PROCESSES, chunksize=1)
    report(tally, count, seconds)
    same = len({share.checksum for share in again}) == 1
    print(f"agreement, the same seed again: {'the same' if same else 'DIFFERENT'} verdicts")
    return 0 if same and not tally.unexplained else 1


if __name__ == "__main__":
    sys.exit(main())

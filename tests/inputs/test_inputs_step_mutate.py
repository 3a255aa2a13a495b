# SPDX-License-Identifier: GPL-2.0-only
"""The mutator of steps: each of its moves does what it says, and all of them are made."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from nvmxfuzz.campaign.engines import random as random_engine
from nvmxfuzz.inputs import mutate, world_mutate
from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.inputs.mutate import cross_over, mutator
from nvmxfuzz.inputs.random_session import SESSION, random_session
from nvmxfuzz.inputs.session_steps import MOST_STEPS, SessionStep
from nvmxfuzz.inputs.step_mutate import Steps
from nvmxfuzz.inputs.world import world_on

NEW = -1
EDITED = 100
ANEW = (7, 7, 7)
START = tuple(range(10))
MOST = 24
TOYS: Steps[int] = Steps(
    MOST,
    following=lambda _rng, before: NEW - len(before),
    edited=lambda step, _rng: step + EDITED,
    anew=lambda _rng: ANEW,
)


def move(changed: tuple[int, ...]) -> str:
    """Return the one move that makes `changed` of START, checking that it makes nothing else."""
    if changed == ANEW:
        return "anew"
    if changed == START:
        return "nothing"
    made = [step for step in changed if step < 0]
    if made:
        at = changed.index(made[0])
        assert made == [NEW - at], "what is put in follows what stands before it"
        assert changed[:at] + changed[at + 1 :] == START
        return "insert"
    edited = [at for at, step in enumerate(changed) if step >= EDITED]
    if edited:
        (at,) = edited
        assert changed == (*START[:at], START[at] + EDITED, *START[at + 1 :])
        return "edit"
    return _of_old_steps(changed)


def _of_old_steps(changed: tuple[int, ...]) -> str:
    if len(changed) < len(START):
        assert any(changed == START[:at] + START[at + 1 :] for at in START)
        return "drop"
    if len(changed) == len(START):
        assert sorted(changed) == list(START)
        assert sum(one != other for one, other in zip(changed, START, strict=True)) == 2
        return "swap"
    copied = len(changed) - len(START)
    for at in range(len(START) + 1):
        stretch = changed[at : at + copied]
        if changed[:at] + changed[at + copied :] == START and stretch == tuple(
            range(stretch[0], stretch[0] + copied)
        ):
            return "repeat" if copied == 1 else "splice"
    raise AssertionError(changed)


def test_every_move_is_made_and_is_that_alone() -> None:
    rng = Random(4)
    moves = Counter(move(TOYS.mutated(START, rng)) for _ in range(4000))
    assert moves.keys() == {
        *("insert", "edit", "drop", "repeat", "swap", "splice", "anew", "nothing"),
    }
    assert moves["nothing"] < 200
    assert min(moves.values()) > 20
    assert moves["insert"] > moves["edit"] > moves["drop"]


def test_a_swap_moves_no_other_step() -> None:
    rng = Random(1)
    assert {move(TOYS.mutated(START, rng)) for _ in range(300)} >= {"swap"}
    one = TOYS.mutated((3,), Random(2))
    assert len(one) in (0, 1, 2, 3)


def test_a_list_stays_within_its_length() -> None:
    rng, full = Random(9), tuple(range(MOST))
    assert max(len(TOYS.mutated(full, rng)) for _ in range(500)) == MOST
    assert TOYS.mutated((), rng) == ANEW


def test_a_crossing_is_the_start_of_one_and_the_end_of_the_other() -> None:
    rng, one, two = Random(3), START, tuple(range(50, 60))
    cuts = set()
    for _ in range(500):
        crossed = TOYS.crossed(one, two, rng)
        kept = sum(step < 50 for step in crossed)
        assert crossed[:kept] == one[:kept]
        assert len(crossed) <= MOST
        rest = crossed[kept:]
        assert rest == two[len(two) - len(rest) :]
        cuts.add((kept, len(rest)))
    assert len(cuts) > 60


def session(seed: int) -> tuple[SessionStep, ...]:
    return random_session(Random(seed), 12)


def test_two_inputs_are_spliced_for_atheris() -> None:
    world, cross = world_on("skylake-x", "6.12"), cross_over("session")
    one, two = session(1), session(2)
    both = set[bool]()
    for seed in range(60):
        data = cross(encode(SessionCase(world, one)), encode(SessionCase(world, two)), 4096, seed)
        case = decode(data, "session")
        assert isinstance(case, SessionCase)
        joined = [
            (first, last)
            for first, last in ((one, two), (two, one))
            for at in range(len(first) + 1)
            for of in range(len(last) + 1)
            if case.steps == (first[:at] + last[of:])[:MOST_STEPS]
        ]
        assert joined
        both.add(joined[0][0] == one)
    assert both == {True, False}


def test_the_mutator_of_steps_is_what_the_session_mutator_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = Counter[str]()

    def mutated(
        _self: object, steps: tuple[SessionStep, ...], _rng: Random
    ) -> tuple[SessionStep, ...]:
        used["moves"] += 1
        return steps

    monkeypatch.setattr(Steps, "mutated", mutated)
    change = mutator("session", lambda data, _: data)
    for seed in range(20):
        change(b"", 4096, seed)
    assert used["moves"] > 10


def test_all_engines_that_mutate_have_the_same_mutator() -> None:
    pytest.importorskip("atheris")
    from nvmxfuzz.campaign.engines import atheris as atheris_engine

    assert vars(atheris_engine)["mutator"] is mutator
    assert vars(random_engine)["mutator"] is mutator
    assert vars(atheris_engine)["cross_over"] is cross_over
    assert vars(world_mutate)["SESSION"] is SESSION
    assert vars(mutate)["mutated_in_world"] is world_mutate.mutated_in_world

# SPDX-License-Identifier: GPL-2.0-only
"""What is new, what libFuzzer is told of it, and that it listens."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nvmxfuzz.campaign import feedback
from nvmxfuzz.campaign.behaviour import Behaviour
from nvmxfuzz.campaign.events import Seen
from nvmxfuzz.campaign.feedback import Counters, FeedbackUnavailableError, VerdictFeedback

CLIMBER = """
import os
import sys
import atheris
from nvmxfuzz.campaign.feedback import Counters

counters = Counters(8)
counters.register()

def climb(data):
    step = 0
    while step < len(data) and step < 4 and data[step] == ord("A") + step:
        step += 1
    counters.cells[step] = 1
    if step == 4:
        print("summit", flush=True)
        os._exit(0)

atheris.Setup(sys.argv, climb)
atheris.Fuzz()
"""

MUTATING = """
import sys
from collections.abc import Callable
from pathlib import Path

from nvmxfuzz.campaign.engines import atheris
from nvmxfuzz.campaign.last_input import LastInput
from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.campaign.session import Session
from nvmxfuzz.campaign.settings import Settings

called = set()

def watched(name):
    make = getattr(atheris, name)

    def made(*arguments):
        inner = make(*arguments)

        def function(*data):
            called.add(name)
            return inner(*data)

        return function

    setattr(atheris, name, made)

def send(event):
    if len(called) == 2:
        print(sorted(called), flush=True)

watched("mutator")
watched("cross_over")
Path("inputs").mkdir()
settings = Settings(0, "atheris", 1, 500, None, ".", "last", -1, 0)
harness = load_harness(harness_file("vm_entry"))
atheris.run(Session(harness, settings, send, LastInput(Path("last"))))
"""


@dataclass(frozen=True)
class Said:
    """Verdicts as a run would give them."""

    asked: int
    broken: tuple[int, ...] = ()
    unknown: tuple[int, ...] = field(default=())


def test_each_verdict_is_new_once() -> None:
    behaviour = Behaviour(4)
    assert behaviour.note(Said(asked=0b0111, broken=(1, 2)))
    assert not behaviour.note(Said(asked=0b0111, broken=(2, 1)))
    assert behaviour.note(Said(asked=0b1111, broken=(1, 2)))
    assert behaviour.note(Said(asked=0b1111, broken=(1, 2), unknown=(3, 3)))
    assert behaviour.seen == Seen(na=0b1000, held=0b1001, broken=0b0110, unknown=0b1000)


def test_a_rule_broken_alone_is_new_though_it_was_broken_before() -> None:
    behaviour = Behaviour(2)
    for verdicts in (Said(0b11, (0, 1)), Said(0b11), Said(0b11)):
        behaviour.note(verdicts)
    assert behaviour.note(Said(0b11, (1,)))
    assert behaviour.sole == 0b10
    assert not behaviour.note(Said(0b11, (1,)))


def features(verdicts: Said, usual: Said = Said(asked=0b0011)) -> list[int]:
    """Return the features of a run after a first run with usual verdicts, of four points."""
    counters = Counters(VerdictFeedback.FEATURES * 4)
    noted = VerdictFeedback(counters, 4)
    noted.note(usual)
    counters.cells[:] = bytes(16)
    noted.note(verdicts)
    return [number for number, cell in enumerate(counters.cells) if cell]


def test_a_run_like_the_first_has_no_feature() -> None:
    assert features(Said(asked=0b0011)) == []


def test_asking_more_or_fewer_rules_is_a_feature_for_each() -> None:
    assert len(features(Said(asked=0b0111))) == 1
    assert len(features(Said(asked=0b0001))) == 1
    assert features(Said(asked=0b0111)) != features(Said(asked=0b1011))


def test_broken_rules_are_features_and_a_sole_one_is_another() -> None:
    assert features(Said(asked=0b0011, broken=(0, 1))) == [4, 5]
    assert features(Said(asked=0b0011, broken=(1,))) == [5, 9]


def test_an_unknown_rule_is_a_feature() -> None:
    assert features(Said(asked=0b0011, unknown=(1, 1))) == [13]


def test_without_the_symbols_feedback_says_that_it_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("nvmxfuzz.campaign.feedback", "nvmxfuzz.no_such_module", "_ctypes"):
        monkeypatch.setattr(feedback, "_LIBFUZZER_MODULE", module)
        with pytest.raises(FeedbackUnavailableError):
            Counters(8).register()


def test_libfuzzer_climbs_by_our_counters(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    # Four bytes by luck would take billions of runs.
    climb = subprocess.run(
        [sys.executable, "-c", CLIMBER, "-seed=1", "-runs=3000000", "-max_len=16"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert "summit" in climb.stdout, climb.stderr


def test_libfuzzer_uses_our_mutator_where_it_has_our_counters(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    runs = subprocess.run(
        [sys.executable, "-c", MUTATING],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert "['cross_over', 'mutator']" in runs.stdout, runs.stderr

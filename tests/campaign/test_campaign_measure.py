# SPDX-License-Identifier: GPL-2.0-only
"""What an input does, measured: the verdicts of its run, and what it does to the harness."""

import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from nvmxfuzz.campaign import measure as measuring
from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.measure import Measure, NotMeasuredError
from nvmxfuzz.campaign.plan import harness_file, load_harness
from nvmxfuzz.campaign.store.values import Behaviour
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case

VECTORS = Path(__file__).parents[2] / "corpus" / "vectors"
BROKEN = VECTORS / "guest-rip-rflags" / "guest.rflags.reserved" / "broken.toml"


@pytest.fixture(scope="module")
def harness() -> Harness:
    return load_harness(harness_file("vm_entry"))


def test_every_verdict_of_a_run_is_a_behaviour(harness: Harness) -> None:
    case = load_case(BROKEN.read_bytes(), "broken")
    assert isinstance(case, EntryCase)
    judgement = vm_entry(case.attempt)
    with Measure(harness) as measure:
        named = set(measure.named(measure.of(harness.encode(case))))
    verdicts = {
        Behaviour(rule.name, judgement.verdict(index)) for index, rule in enumerate(CHAPTER.rules)
    }
    assert named == verdicts | {Behaviour("guest.rflags.reserved", "sole")}


def test_a_witness_that_raises_is_told(harness: Harness) -> None:
    def fails(*_: object) -> NoReturn:
        raise KeyError("of the witness")

    with (
        Measure(replace(harness, run=fails)) as measure,
        pytest.raises(NotMeasuredError, match=r"leads to an error \(KeyError: 'of the witness'\)"),
    ):
        measure.of(b"")


def test_an_input_that_does_not_end_is_given_up(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "SECONDS", 1)

    def hangs(*_: object) -> None:
        time.sleep(60)

    with (
        Measure(replace(harness, run=hangs)) as measure,
        pytest.raises(NotMeasuredError, match="takes longer than 1 seconds"),
    ):
        measure.of(b"")


def test_a_target_adds_the_reasons_that_it_gives(harness: Harness) -> None:
    refused = load_case(b'base = "guest-64"\n[vmcs]\nhost_cr3 = 0x8000000000041000\n', "refused")
    with Measure(harness, "kvm-model-6.12") as measure:
        before = measure.of(b"")
        after = measure.of(harness.encode(refused))
        assert [each.verdict for each in measure.named(before)].count("fired") == 0
        (fired,) = [each.point for each in measure.named(after) if each.verdict == "fired"]
    assert fired == "host.cr3.width"

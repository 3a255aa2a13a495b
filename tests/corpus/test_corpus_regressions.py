# SPDX-License-Identifier: GPL-2.0-only
"""What was found is still there in the kernels that it was found in, by its smallest cases.

Cases of a kernel that is not built are skipped by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.inputs.expectation import Vector
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.inputs.text import dump_text
from nvmxfuzz.targets.registry import target_named
from nvmxfuzz.triage.case_finding import file_of, shown_finding
from nvmxfuzz.triage.standing import GONE, STILL_THERE, Replayer

ROOT = Path(__file__).parents[2]
REGRESSIONS = ROOT / "corpus" / "regressions"
FILES = sorted(REGRESSIONS.rglob("*.toml"))
NAMES = [str(file.relative_to(REGRESSIONS)) for file in FILES]


def load(file: Path) -> Vector:
    return load_vector(file.read_bytes(), str(file.relative_to(ROOT)))


def skip_unless_built(vector: Vector) -> None:
    assert vector.shown is not None
    if not vector.shown.target:
        return
    entry = target_named(vector.shown.target)
    reason = entry.usable()
    if reason and entry.kernel in os.environ.get("NVMXFUZZ_REQUIRE_KVM", "").split(","):
        pytest.fail(f"required by NVMXFUZZ_REQUIRE_KVM: {reason}")
    if reason:
        pytest.skip(f"{entry.name}: {reason}")


@pytest.fixture(scope="module")
def replayer() -> Iterator[Replayer]:
    with Replayer() as made:
        yield made


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_it_is_still_there(file: Path, replayer: Replayer) -> None:
    vector = load(file)
    skip_unless_built(vector)
    assert replayer.standing(shown_finding(vector)).status == STILL_THERE


def test_what_is_not_shown_is_gone(replayer: Replayer) -> None:
    vector = load(REGRESSIONS / "capability-timer-rate" / "models.toml")
    assert vector.shown is not None
    other = replace(vector, shown=replace(vector.shown, site="elsewhere"))
    assert replayer.standing(shown_finding(other)).status == GONE


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_each_has_a_page_and_is_told_in_the_form_that_is_written(file: Path) -> None:
    assert (ROOT / "docs" / "findings" / f"{file.parent.name}.md").is_file()
    vector = load(file)
    assert vector.note
    assert file.read_text() == dump_text(file_of(shown_finding(vector)))

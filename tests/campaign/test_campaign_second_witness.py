# SPDX-License-Identifier: GPL-2.0-only
"""A campaign with a second witness finds a fault that the rules alone cannot show."""

import json
from pathlib import Path

import pytest

from nvmxfuzz.cli.command_line import run
from nvmxfuzz.targets.registry import TARGETS

FORGETFUL = Path(__file__).parent / "harnesses" / "forgetful_of_ti.py"

pytestmark = pytest.mark.skipif(
    bool(TARGETS["bochs"].usable()), reason=f"Bochs: {TARGETS['bochs'].usable()}"
)


def test_a_forgotten_rule_is_found_by_disagreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "found.db"
    arguments = ["--engine", "atheris", "--runs", "3000", "--seed", "1", "--json"]
    status = run(["fuzz", str(FORGETFUL), "--target", "bochs", "--store", str(store), *arguments])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == 1
    assert any(each.startswith("agreement.cpu-bochs-") for each in summary["findings"])
    assert run(["replay", str(store), "--json"]) == 1
    replayed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert any("still there" in line["complaints"][0] for line in replayed)


def test_without_the_second_witness_nothing_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "found.db")
    arguments = ["--engine", "atheris", "--runs", "3000", "--seed", "1", "--json"]
    assert run(["fuzz", str(FORGETFUL), "--store", store, *arguments]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["findings"] == []

# SPDX-License-Identifier: GPL-2.0-only
"""A campaign finds a changed bit of KVM's model by asking the kernel itself, and minimises it."""

import json
from pathlib import Path

import pytest

from nvmxfuzz.cli.command_line import run
from nvmxfuzz.targets.kvm_native.build.objects import usable

FORGETFUL = Path(__file__).parent / "harnesses" / "forgetful_of_monitor_trap.py"
RUNS = ["--engine", "atheris", "--runs", "1000", "--seed", "1", "--json"]

pytestmark = pytest.mark.skipif(bool(usable("6.12")), reason=usable("6.12"))


def test_a_changed_bit_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "found.db")
    assert run(["fuzz", str(FORGETFUL), "--target", "kvm-6.12", "--store", store, *RUNS]) == 1
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(summary["findings"]) == 1
    assert summary["findings"][0].startswith("agreement.kvm-config-")
    assert run(["replay", store, "--json"]) == 1
    replayed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "cpu_based_exec_ctrl" in replayed[0]["complaints"][0]
    assert "still there" in replayed[0]["complaints"][0]


def test_in_the_model_as_it_is_nothing_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "found.db")
    arguments = ["capability_config", "--target", "kvm-6.12", "--store", store]
    assert run(["fuzz", *arguments, *RUNS]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["findings"] == []

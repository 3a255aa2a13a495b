# SPDX-License-Identifier: GPL-2.0-only
"""The corpus makes every check of the model fail and pass, but for those that say why not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nvmxfuzz.arch.controls import Primary
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_model import KvmModel

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "ci" / "benches" / "model_checks.py"

ELSEWHERE = {
    "entry.event.monitor-trap-flag": "penryn",
    "entry.root.memory": "6.1",
    "execution.eptp.accessed-dirty": "ivy-bridge",
    "execution.eptp.walk-of-5": "everything",
    "execution.tpr-threshold.width": "6.19",
    "execution.tsc-multiplier.zero": "6.19",
    "guest.bndcfgs.canonical": "everything",
    "guest.bndcfgs.reserved": "everything",
    "hardware.early-check.vmfail": "a dry run",
    "msr-load.list.memory": "everything",
}
"""Checks that take another kernel or processor than 6.12 on skylake-x; the bench has them all."""


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """Return the program that prints the figures."""
    spec = importlib.util.spec_from_file_location("model_checks", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_check_fails_and_passes_or_says_why_not(bench: ModuleType) -> None:
    seen = bench.Seen()
    follower = bench.Follower(seen)
    bench.look("6.12", follower, ("skylake-x",))
    never = follower.names - (seen.failed & seen.passed)
    assert set(bench.NOT_BOTH) <= follower.names
    assert never == set(bench.NOT_BOTH) | set(ELSEWHERE)


def test_a_check_passes_only_where_it_applies(bench: ModuleType) -> None:
    plain = base("guest-64", load_profile("kvm-6.12-skylake-x"))
    controls = plain.vmcs.cpu_based_vm_exec_control
    seen = bench.Seen()
    with KvmModel("6.12") as model, bench.Follower(seen):
        model.run(plain)
        assert "execution.cr3-targets.count" in seen.passed
        assert "execution.vpid.zero" not in seen.passed | seen.failed
        edits = {
            "cpu_based_vm_exec_control": controls | Primary.ACTIVATE_SECONDARY_CONTROLS,
            "secondary_vm_exec_control": 1 << 5,
            "virtual_processor_id": 1,
        }
        model.run(type(plain)(plain.profile, plain.vmcs.replace(edits), plain.processor))
        assert "execution.vpid.zero" in seen.passed - seen.failed
        edits["virtual_processor_id"] = 0
        model.run(type(plain)(plain.profile, plain.vmcs.replace(edits), plain.processor))
    assert "execution.vpid.zero" in seen.failed

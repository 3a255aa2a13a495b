# SPDX-License-Identifier: GPL-2.0-only
"""The harnesses as properties, and the files in fuzz/ as plain Atheris targets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.plan import ROOT, load_harness
from nvmxfuzz.inputs.codec import encode
from nvmxfuzz.inputs.strategies import (
    config_cases,
    entry_cases,
    migration_cases,
    restore_cases,
    session_cases,
)

FUZZ = ROOT / "fuzz"
VM_ENTRY = load_harness(FUZZ / "vm_entry.py")
CAPABILITY_CONFIG = load_harness(FUZZ / "capability_config.py")
CAPABILITY_RESTORE = load_harness(FUZZ / "capability_restore.py")
MIGRATION = load_harness(FUZZ / "migration.py")
SESSION = load_harness(FUZZ / "session.py")
HARNESSES = (VM_ENTRY, CAPABILITY_CONFIG, CAPABILITY_RESTORE, MIGRATION, SESSION)

PROFILE = settings(
    max_examples=100,
    database=None,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)


def sentences(harness: Harness, data: bytes) -> list[str]:
    """Return what the oracles find on encoded bytes."""
    return [f"{each.identity}: {each.message}" for each in harness.examine(harness.decode(data))]


@PROFILE
@given(entry_cases())
def test_nothing_is_found_on_a_vm_entry(case: object) -> None:
    assert sentences(VM_ENTRY, encode(case)) == []  # type: ignore[arg-type]


@PROFILE
@given(config_cases())
def test_nothing_is_found_on_a_capability_config(case: object) -> None:
    assert sentences(CAPABILITY_CONFIG, encode(case)) == []  # type: ignore[arg-type]


@PROFILE
@given(restore_cases())
def test_nothing_is_found_on_a_restore(case: object) -> None:
    assert sentences(CAPABILITY_RESTORE, encode(case)) == []  # type: ignore[arg-type]


@PROFILE
@given(migration_cases())
def test_nothing_is_found_on_a_migration(case: object) -> None:
    assert sentences(MIGRATION, encode(case)) == []  # type: ignore[arg-type]


@PROFILE
@given(session_cases())
def test_nothing_is_found_on_a_session(case: object) -> None:
    assert sentences(SESSION, encode(case)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("harness", HARNESSES, ids=lambda harness: harness.name)
@PROFILE
@given(data=st.binary(max_size=400))
def test_nothing_is_found_on_any_bytes(harness: Harness, data: bytes) -> None:
    assert sentences(harness, data) == []


@pytest.mark.parametrize("harness", HARNESSES, ids=lambda harness: harness.name)
def test_a_harness_is_named_as_its_file_and_its_points_are_distinct(harness: Harness) -> None:
    file = FUZZ / f"{harness.name}.py"
    assert file.is_file()
    assert os.access(file, os.X_OK)
    assert file.read_text().startswith("#!/usr/bin/env python3\n")
    assert len(set(harness.points)) == len(harness.points)


@pytest.mark.parametrize("harness", HARNESSES, ids=lambda harness: harness.name)
def test_a_harness_runs_by_hand_under_atheris(harness: Harness, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    ran = subprocess.run(
        [sys.executable, str(FUZZ / f"{harness.name}.py"), "-runs=500", "-seed=1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Done 500 runs" in ran.stderr

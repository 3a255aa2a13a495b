# SPDX-License-Identifier: GPL-2.0-only
"""The steps of users' CI in the order of the workflow, in short, in a folder of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nvmxfuzz.campaign.plan_text import read_plan
from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.oracles.finding import Finding

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "ci" / "users" / "run"
WORKFLOW = ROOT / "ci" / "github-actions.yml"
RAISING = ROOT / "tests" / "campaign" / "harnesses" / "sound.py"
SHORT = ("--runs", "100", "--engine", "random", "--seed", "1", "--reruns", "1")
QUICK = ("--pages", "0", "--no-coverage")
FOUND = "no-error-"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that stands for the checkout: the script, and hardly any corpus."""
    (tmp_path / "ci" / "users").mkdir(parents=True)
    (tmp_path / "ci" / "users" / "run").write_bytes(SCRIPT.read_bytes())
    for name, part in (("vectors", "basic.cpl.zero"), ("regressions", "migration-encls-exiting")):
        source = next((ROOT / "corpus" / name).rglob(part))
        shutil.copytree(source, tmp_path / "corpus" / name / part)
    return tmp_path


def step(
    folder: Path, name: str, *words: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "NVMXFUZZ": f"{sys.executable} -m nvmxfuzz.cli",
        "NVMXFUZZ_PLAN": str(RAISING),
        "TROUBLE": "raise",
        "NVMXFUZZ_TIME": "60",
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    return subprocess.run(
        ["bash", folder / "ci" / "users" / "run", name, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def failures(folder: Path) -> str | None:
    return ElementTree.parse(folder / "nvmxfuzz-report" / "junit.xml").getroot().get("failures")


def test_a_run_fails_for_a_new_finding_and_the_next_one_does_not(folder: Path) -> None:
    assert step(folder, "replay").returncode == 0
    fuzzed = step(folder, "fuzz", *SHORT)
    assert (fuzzed.returncode, FOUND in fuzzed.stdout) == (0, True), fuzzed.stderr
    told = step(folder, "report", *QUICK)
    assert told.returncode == 0, told.stderr
    assert {each.name for each in (folder / "nvmxfuzz-report").iterdir()} == {
        *("report.html", "junit.xml", "report.sarif")
    }
    assert failures(folder) == "1"
    verdict = step(folder, "verdict")
    assert (verdict.returncode, FOUND in verdict.stdout) == (1, True)
    assert (folder / "nvmxfuzz-kept" / "reported").read_text() == "1\n"

    again = step(folder, "replay")
    assert again.returncode == 0, again.stderr
    assert "1 still there" in again.stdout
    with open_store(folder / "nvmxfuzz-kept" / "store.db") as store:
        (found,) = store.findings()
        campaign = store.begin_campaign("", 2, 0)
        store.add_finding(campaign, found.harness, found.finding, found.data, found.case_text)
    assert step(folder, "verdict").returncode == 0
    assert (folder / "nvmxfuzz-kept" / "reported").read_text() == "2\n"


def test_what_a_run_that_was_killed_has_found_is_new_to_the_next(folder: Path) -> None:
    kept = folder / "nvmxfuzz-kept"
    kept.mkdir()
    (kept / "reported").write_text("1\n")
    with open_store(kept / "store.db") as store:
        finding = Finding("a", (), ("cpu", "cpu"), "", "seen before it was killed")
        _, killed, _ = (store.begin_campaign("", number, 0) for number in range(3))
        store.add_finding(killed, "vm_entry", finding, b"\1", "")
    verdict = step(folder, "verdict")
    assert (verdict.returncode, finding.identity in verdict.stdout) == (1, True)
    assert (kept / "reported").read_text() == "3\n"


def test_a_vector_that_does_not_hold_fails(folder: Path) -> None:
    vectors = folder / "corpus" / "vectors"
    (vectors / "wrong.toml").write_text(
        'format = 1\nbase = "guest-64"\n[expect]\nbroken = ["basic.cpl.zero"]\n'
    )
    assert step(folder, "replay").returncode == 1


def test_mistakes_are_no_verdict(folder: Path) -> None:
    assert step(folder, "fuzz", "--no-such-option").returncode == 2
    assert step(folder, "verdict").returncode == 2
    assert step(folder, "nonsense").returncode == 2
    kept = folder / "nvmxfuzz-kept"
    open_store(kept / "store.db").close()
    (kept / "reported").write_text("$(reboot)\n")
    verdict = step(folder, "verdict")
    assert (verdict.returncode, "does not hold the number" in verdict.stderr) == (2, True)


def test_the_plan_is_of_the_kernels_that_are_built(folder: Path) -> None:
    said = '[{"name": "kvm-6.1", "usable": true}, {"name": "kvm-6.12", "usable": true},'
    said += ' {"name": "kvm-6.12+rules", "usable": true}, {"name": "kvm-5.4", "usable": false}]'
    fake = folder / "fake"
    fake.write_text(f"#!/bin/sh\n[ $1 = fuzz ] && echo ran $* || echo '{said}'\n")
    fake.chmod(0o755)
    ran = step(folder, "fuzz", NVMXFUZZ=str(fake), NVMXFUZZ_PLAN="")
    assert "ran fuzz nvmxfuzz-kept/plan.toml --store nvmxfuzz-kept/store.db --time 60" in ran.stdout
    plan = (folder / "nvmxfuzz-kept" / "plan.toml").read_text()
    assert read_plan(plan, "plan", folder).plan.turn_seconds == 30
    assert plan.count('kernels = ["6.1","6.12"]') == plan.count("[[job]]") == 5
    fake.write_text("#!/bin/sh\n[ $1 = fuzz ] && echo ran $* || echo '[]'\n")
    ran = step(folder, "fuzz", NVMXFUZZ=str(fake), NVMXFUZZ_PLAN="")
    assert f"ran fuzz {folder}/fuzz/everything.toml" in ran.stdout


def test_the_workflow_calls_these_steps_in_this_order() -> None:
    text = WORKFLOW.read_text()
    called = re.findall(r"^ +run: ci/users/run (\w+)$", text, re.MULTILINE)
    assert called == ["setup", "replay", "fuzz", "report", "verdict"]
    page = (ROOT / "docs" / "ci.md").read_text()
    assert re.findall(r"^\| `ci/users/run (\w+)`", page, re.MULTILINE) == called
    script = SCRIPT.read_text()
    assert re.findall(r"^(\w+)\) #", script, re.MULTILINE) == called
    assert os.access(SCRIPT, os.X_OK)
    # The store is kept whatever the verdict was, and is brought back under any older key.
    restored, saved = re.findall(r"key: (nvmxfuzz-store-.*)", text)
    assert restored == saved
    assert "restore-keys: nvmxfuzz-store-\n" in text
    keeping = text[text.index("name: Keep the store") :]
    assert keeping.splitlines()[1].strip() == "if: ${{ always() }}"
    assert text.index("run: ci/users/run verdict") < text.index("name: Keep the store")
    assert "\t" not in text

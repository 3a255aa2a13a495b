# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz repro`: the page of a finding, whether it is still there, and what each side did."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.campaign.store import Store, StoredFinding, open_store
from nvmxfuzz.cli import repro
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.targets.registry import TARGETS
from nvmxfuzz.triage.standing import Replayer, Standing

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "corpus" / "vectors"
CASE = VECTORS / "guest-rip-rflags" / "guest.rflags.reserved" / "broken.toml"
FINDING = Finding("entry.repaired", ("guest.rflags.reserved",), ("cpu", "cpu"), "here", "as it was")


@pytest.fixture(autouse=True)
def few_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be the rules and a model: others are slow, and tested where they are."""
    few = {name: TARGETS[name] for name in ("python-model", "kvm-model-6.12")}
    monkeypatch.setattr(repro, "all_targets", lambda: few)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a store with the finding."""
    path = tmp_path / "fuzz.db"
    open_store(path).close()
    stored = StoredFinding("vm_entry", FINDING, b"", CASE.read_text(), None, None, 1)
    monkeypatch.setattr(Store, "findings_named", lambda *_: (stored,))
    return path


def stands(monkeypatch: pytest.MonkeyPatch, standing: Standing) -> None:
    """Let a replay come to that: how it does is tested where it is."""
    monkeypatch.setattr(Replayer, "standing", lambda *_: standing)


def test_the_page_of_a_case(run: Run) -> None:
    status, out, err = run("repro", CASE)
    assert (status, err) == (0, "")
    for text in (
        "What L1 does: VMLAUNCH, launch state clear, on a processor like skylake-x.",
        "a valid VMCS of a 64-bit guest, but for:",
        "guest_rflags (GUEST_RFLAGS) = 0x000000000000000a, valid: 0x0000000000000002",
        'broken: "Checks on Guest RIP, RFLAGS, and SSP": Bits 63:22, 15, 5 and 3 of RFLAGS are 0.',
        "permitted: exit 33 qualification 0",
        "Linux 6.12, modelled (kvm-model-6.12): entered",
        "its software lets it pass; in the end L1 sees: exit 33 qualification 0",
        "nothing is wrong",
        f"export {CASE} --as selftest",
    ):
        assert text in out, text


def test_a_finding_that_is_still_there_is_told_with_its_promise(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands(monkeypatch, Standing("still there", (FINDING,)))
    status, out, _ = run("repro", FINDING.identity, "--store", store)
    assert status == 1
    assert out.startswith(f"{FINDING.identity}\n\nWhat was to hold: ")
    assert "What was seen: as it was\n" in out
    assert "the finding is still there" in out
    assert f"replay {store} --finding {FINDING.identity}" in out


def test_a_finding_that_is_gone_or_another_one(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, _ = run("repro", FINDING.identity, "--store", store)
    assert status == 0
    assert "the finding is gone" in out
    stands(monkeypatch, Standing("different", (replace(FINDING, site="there"),)))
    status, out, _ = run("repro", FINDING.identity, "--store", store)
    assert status == 1
    assert "the finding is different" in out


def test_a_program_gets_one_object(run: Run) -> None:
    status, out, _ = run("repro", "--json", CASE)
    told = json.loads(out)
    assert status == 0
    assert told["broken"] == ["guest.rflags.reserved"]
    assert told["permitted"] == [{"kind": "exit", "reason": 33, "qualification": 0}]
    model = told["targets"]["kvm-model-6.12"]
    assert (model["outcome"], model["end"]) == ("entered", "exit 33 qualification 0")
    assert (told["state"], told["seen"]) == (None, [])


@pytest.mark.parametrize("kind", ["session", "capability-restore", "capability-config"])
def test_other_cases_have_a_page_too(run: Run, kind: str) -> None:
    case = next(iter(sorted((VECTORS / kind).glob("*/*.toml"))))
    status, out, _ = run("repro", case)
    assert status == 0
    assert "What is done:" in out
    assert "--as toml" in out
    assert "--as selftest" not in out


@pytest.mark.skipif(TARGETS["kvm-6.12"].usable() != "", reason="KVM of 6.12 is not built")
def test_the_real_kvm_names_its_check(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: TARGETS[name] for name in ("python-model", "kvm-6.12", "kvm-6.12+rules")}
    monkeypatch.setattr(repro, "all_targets", lambda: few)
    case = VECTORS / "guest-registers" / "guest.efer.lma" / "broken.toml"
    _, out, _ = run("repro", case)
    assert "Linux 6.12 (kvm-6.12): exit 33 qualification 0\n" in out
    assert " in nested_vmx_check_guest_state\n" in out
    assert "Linux 6.12 on a processor that keeps to the SDM (kvm-6.12+rules)" in out


def test_a_regression_says_itself_what_it_shows(run: Run) -> None:
    """The one finding of the models that needs no kernel to be built."""
    case = ROOT / "corpus" / "regressions" / "capability-timer-rate" / "models.toml"
    status, out, _ = run("repro", case)
    assert status == 1
    assert "the finding is still there" in out
    assert "What was to hold: " in out

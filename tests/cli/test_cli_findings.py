# SPDX-License-Identifier: GPL-2.0-only
"""Findings in groups, what became of them, and in which kernels they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.campaign.plan import load_harness
from nvmxfuzz.campaign.store import WORKER_LIVES, Store, open_store
from nvmxfuzz.inputs.expectation import Vector
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.shown import Shown
from nvmxfuzz.inputs.text import dump_text
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.targets.kvm_native.build.objects import usable

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
HARNESSES = ROOT / "tests" / "campaign" / "harnesses"
FORGETFUL, SOUND = HARNESSES / "forgetful.py", HARNESSES / "sound.py"
REGRESSIONS = ROOT / "corpus" / "regressions"
ENCLS = ROOT / "corpus" / "vectors/migration/migration.backward/encls-exiting-5.18.toml"
HIDDEN = b'base = "guest-64"\n[vmcs]\nhost_cr3 = 0x8000000000041000\nguest_dr7 = 0x433\n'
SHOWS_IT = b'base = "guest-64"\n[vmcs]\nhost_cr3 = 0x8000000000041000\n'
PLAIN = b'base = "guest-64"\n'
WARN = Finding("kvm.survives", (), ("cpu", "kvm-6.1"), "WARN vmx/nested.c:12", "it warned")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def keep(store: Store, finding: Finding, text: bytes, harness: str = "vm_entry") -> str:
    campaign = store.begin_campaign("", 1, 0)
    store.add_finding(campaign, harness, finding, b"\1", text.decode())
    return finding.identity


def dry_run() -> Finding:
    found = load_harness(FORGETFUL).examine(load_case(SHOWS_IT, "case"))
    return next(each for each in found if each.oracle == "entry.dry-run")


def groups(run: Run, path: Path) -> list[dict[str, object]]:
    status, out, _ = run("findings", path, "--json")
    assert status == 0
    found: list[dict[str, object]] = json.loads(out)
    return found


def test_kernels_of_one_group_stand_together_with_the_smallest_case(run: Run, path: Path) -> None:
    newer = replace(WARN, targets=("cpu", "kvm-6.12"), site="WARN vmx/nested.c:34")
    with open_store(path) as store:
        keep(store, WARN, HIDDEN)
        keep(store, newer, SHOWS_IT)
        keep(store, dry_run(), HIDDEN)
        store.add_reruns("vm_entry", WARN.identity, 5, 5)
        store.add_reruns("vm_entry", newer.identity, 5, 2)
        store.set_first_bad("vm_entry", newer.identity, "6.12.117-1")
    warned, other = groups(run, path)
    assert (warned["count"], warned["oracle"], warned["flaky"]) == (2, "kvm.survives", False)
    assert (warned["standing"], warned["smallest"]) == ("seen again", SHOWS_IT.decode())
    assert [each["flaky"] for each in warned["findings"]] == [False, True]  # type: ignore[attr-defined]
    assert (other["count"], other["standing"]) == (1, "not run again")
    _, out, _ = run("findings", path)
    assert "flaky: 2 of 5 runs show it, first in 6.12.117-1" in out
    assert "        host_cr3 = 0x8000000000041000" in out
    assert out.endswith("3 findings in 2 groups, 0 of them flaky\n")


def test_a_group_that_is_flaky_wherever_it_was_run_again_is_flaky(run: Run, path: Path) -> None:
    with open_store(path) as store:
        keep(store, WARN, PLAIN)
        store.add_reruns("vm_entry", WARN.identity, 5, 4)
    (group,) = groups(run, path)
    assert (group["flaky"], group["standing"]) == (True, "flaky")
    assert "1 finding in 1 group, 1 of them flaky" in run("findings", path)[1]


def test_a_store_without_findings_and_no_store(run: Run, path: Path) -> None:
    status, _, err = run("findings", path)
    assert (status, err.count("\n")) == (2, 1)
    open_store(path).close()
    assert run("findings", path) == (0, "0 findings in 0 groups, 0 of them flaky\n", "")


def test_what_became_of_findings_is_kept_if_that_is_wanted(run: Run, path: Path) -> None:
    with open_store(path) as store:
        there = keep(store, dry_run(), SHOWS_IT, str(FORGETFUL))
        gone = keep(store, WARN, PLAIN, str(FORGETFUL))
        other = keep(store, replace(WARN, site="else"), SHOWS_IT, str(FORGETFUL))
    status, out, _ = run("replay", path, "--json")
    said = {each["input"]: each["status"] for each in map(json.loads, out.splitlines())}
    assert (status, said) == (1, {there: "still there", gone: "gone", other: "different"})
    assert {group["standing"] for group in groups(run, path)} == {"not run again"}
    assert run("replay", path, "--keep")[0] == 1
    kept = {group["standing"] for group in groups(run, path)}
    assert kept == {"still there", "gone", "different"}


def test_a_finding_that_ends_its_process_is_still_there(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", "segv")
    deadly = Finding(WORKER_LIVES, ("SIGSEGV",), ("sound", "sound"), "", "it ended")
    with open_store(path) as store:
        keep(store, deadly, b"[vmcs]\nvirtual_processor_id = 8\n", str(SOUND))
    status, out, _ = run("replay", path)
    assert (status, out.splitlines()[-1]) == (
        1,
        "1 replayed, 0 hold, 1 do not, 1 still there",
    )
    assert "a worker ended with SIGSEGV" in out


def migration(site: str) -> str:
    """Return the case of a known difference, with what it is said to show."""
    case = load_case(ENCLS.read_bytes(), "")
    shown = Shown("migration.backward", ("migration.backward",), ("kvm 5.18", "kvm 6.12"), site)
    return dump_text(Vector(case, shown=shown))


def test_a_file_that_says_what_it_shows_holds_while_it_does(run: Run, tmp_path: Path) -> None:
    there, gone = tmp_path / "there.toml", tmp_path / "gone.toml"
    there.write_text(migration("refused secondary: enable ENCLS exiting"))
    gone.write_text(migration("refused secondary: enable EPT"))
    status, out, _ = run("replay", there)
    assert (status, out) == (0, "1 replayed, 1 hold, 0 do not, 1 still there\n")
    status, out, _ = run("replay", gone)
    assert status == 1
    assert out.startswith(f"{gone}: gone\n")


def test_the_first_bad_kernel_of_models(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "case.toml"
    file.write_text(migration("refused secondary: enable ENCLS exiting"))
    status, out, _ = run("bisect", file, "--json")
    said = json.loads(out)
    assert (status, said["first_bad"]) == (0, "6.1 (model)")
    results = [(each["kernel"], each["result"]) for each in said["kernels"]]
    assert results == [
        ("5.18", "does not show it"),
        ("6.1", "shows it"),
        ("6.12", "shows it"),
    ]
    _, out, _ = run("bisect", file)
    assert out.endswith("first bad of these: 6.1 (model)\n")


@pytest.mark.skipif(bool(usable("6.1") or usable("6.12")), reason="6.1 and 6.12 are not built")
def test_a_finding_of_one_kernel_is_not_in_the_other(run: Run, path: Path) -> None:
    file = REGRESSIONS / "no-memory" / "6.1.toml"
    status, out, _ = run("bisect", file, "--json")
    said = json.loads(out)
    results = {each["kernel"]: each["result"] for each in said["kernels"]}
    assert status == 0
    assert (results["6.1"], results["6.12"]) == ("shows it", "does not show it")
    assert said["first_bad"].startswith("6.1.")
    with open_store(path) as store:
        case = load_case(file.read_bytes(), "")
        finding = Finding("kvm.survives", (), ("cpu", "kvm-6.1+rules"), "else", "said")
        identity = keep(store, finding, dump_text(case).encode())
    _, out, _ = run("bisect", identity[:-2], "--store", path, "--json")
    results = {each["kernel"]: each["result"] for each in json.loads(out)["kernels"]}
    assert results == {"6.1": "another finding", "6.12": "does not show it"}


def test_a_folder_is_no_finding(run: Run, tmp_path: Path) -> None:
    status, out, err = run("bisect", tmp_path)
    assert (status, out) == (2, "")
    assert "is a folder: name one case file in it" in err


def test_what_is_about_no_kernel_cannot_be_bisected(run: Run, path: Path) -> None:
    with open_store(path) as store:
        identity = keep(store, dry_run(), SHOWS_IT)
    status, out, err = run("bisect", identity, "--store", path)
    assert (status, out) == (2, "")
    assert "is about the rules, and no kernel" in err


def test_a_tree_that_is_none_is_a_sentence(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "case.toml"
    file.write_text(migration("refused secondary: enable ENCLS exiting"))
    status, _, err = run("bisect", file, "--tree", tmp_path)
    assert (status, err.count("\n")) == (2, 1)
    assert "is no complete kernel tree" in err

# SPDX-License-Identifier: GPL-2.0-only
"""Reports on a store, and which findings are new."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nvmxfuzz.campaign.store import WORKER_LIVES, open_store
from nvmxfuzz.cli import repro
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.targets.registry import TARGETS

Run = Callable[..., tuple[int, str, str]]

CASE = 'base = "guest-64"\n'
OLD = Finding("kvm.survives", (), ("cpu", "kvm-6.1"), "WARN vmx/nested.c:12", "it warned")
NEW = Finding("entry.bit-order", ("a",), ("cpu", "cpu"), "", "it differs")
DEADLY = Finding(WORKER_LIVES, ("SIGSEGV",), ("cpu", "cpu"), "", "it ended")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a store whose second campaign saw two findings that the first did not."""
    monkeypatch.setattr(repro, "all_targets", lambda: {"python-model": TARGETS["python-model"]})
    path = tmp_path / "store.db"
    with open_store(path) as store:
        one = store.begin_campaign("", 1, 0)
        store.add_finding(one, "vm_entry", OLD, b"\1", CASE)
        two = store.begin_campaign("", 2, 9)
        store.add_finding(two, "vm_entry", OLD, b"\1", CASE)
        store.add_finding(two, "vm_entry", NEW, b"\2", CASE)
        store.add_finding(two, "vm_entry", DEADLY, b"\3", "")
        store.update_campaign(two, 10, 1.0, "time", now=10)
    return path


def new(run: Run, path: Path, *words: object) -> list[str]:
    status, out, _ = run("report", path, "--json", "--no-coverage", "--pages", 0, *words)
    assert status == 0
    return sorted(name for group in json.loads(out)["groups"] for name in group["new"])


def test_every_form_is_written_at_once(run: Run, path: Path, tmp_path: Path) -> None:
    html, junit, sarif = (tmp_path / name for name in ("a.html", "a.xml", "a.sarif"))
    words = ("--html", html, "--junit", junit, "--sarif", sarif, "--json", "--no-coverage")
    status, out, err = run("report", path, *words)
    assert (status, err) == (0, "")
    groups = json.loads(out)["groups"]
    assert [bool(group["page"]) for group in groups].count(True) == 2
    assert "No page: worker-lives-fee218e76222 has no case" in html.read_text()
    assert "The finding is <b>gone</b>" in html.read_text()
    assert ElementTree.parse(junit).getroot().get("failures") == "2"
    assert len(json.loads(sarif.read_text())["runs"][0]["results"]) == 3
    assert sorted(each.name for each in tmp_path.iterdir() if each.suffix == ".new") == []


def test_new_is_what_the_last_campaign_saw_first(run: Run, path: Path) -> None:
    both = sorted((NEW.identity, DEADLY.identity))
    assert new(run, path) == both
    assert new(run, path, "--new-since", 1) == both
    assert new(run, path, "--new-since", 2) == []
    assert new(run, path, "--new-since", 0) == sorted((*both, OLD.identity))
    assert new(run, path, "--campaign", 1, "--new-since", 1) == both


def test_new_findings_are_told_by_the_exit_status(run: Run, path: Path) -> None:
    status, out, _ = run("findings", path, "--new-since", 1)
    assert (status, OLD.identity in out, NEW.identity in out) == (1, False, True)
    assert run("findings", path, "--new-since", 2) == (
        0,
        "0 findings in 0 groups, 0 of them flaky\n",
        "",
    )
    status, out, _ = run("findings", path)
    assert (status, OLD.identity in out) == (0, True)
    for words in (("findings", path), ("report", path, "--json", "--no-coverage")):
        status, out, err = run(*words, "--new-since", 99)
        assert (status, out, "has no campaign 99" in err) == (2, "", True)
    status, out, _ = run("findings", path, "--new-since", 1, "--json")
    assert (status, len(json.loads(out))) == (1, 2)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "say what to write"),
        (("--html", "no/such/folder/x.html"), "cannot be written"),
        (("--html", "."), "cannot be written"),
        (("--json", "--campaign", "77"), "has no campaign 77"),
        (("--json", "--campaign", "-1"), "no number from 0 on"),
        (("--json", "--pages", "9" * 30), "no number from 0 on"),
    ],
)
def test_mistakes_are_a_sentence(
    run: Run, path: Path, words: tuple[str, ...], complaint: str
) -> None:
    status, out, err = run("report", path, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert complaint in err


def test_no_store_and_a_store_without_campaigns(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    assert run("report", path, "--json")[0] == 2
    open_store(path).close()
    status, _, err = run("report", path, "--json")
    assert status == 2
    assert "has no campaign" in err

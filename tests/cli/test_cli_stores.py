# SPDX-License-Identifier: GPL-2.0-only
"""Commands on the store of a campaign, whatever the file is called."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nvmxfuzz.campaign.plan import Job, Plan, load_harness
from nvmxfuzz.campaign.store import WORKER_LIVES, Store, open_store
from nvmxfuzz.campaign.store.recorder import Recorder
from nvmxfuzz.campaign.store.values import Behaviour
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.oracles.finding import Finding

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
FORGETFUL = ROOT / "tests" / "campaign" / "harnesses" / "forgetful.py"
PLAIN = b'base = "guest-64"\n'
SHOWS_IT = b'base = "guest-64"\n[vmcs]\nhost_cr3 = 0x8000000000041000\n'


def found(text: bytes, harness: Path = FORGETFUL) -> Finding:
    """Return the first finding of a harness on a case."""
    return load_harness(harness).examine(load_case(text, "case"))[0]


def keep(store: Store, finding: Finding, text: bytes, harness: Path = FORGETFUL) -> str:
    """Store a finding as a campaign of that harness would; return its identity."""
    plan = Plan((Job(harness, "random"),), 1)
    recorder = Recorder(store, plan, [load_harness(harness)], 1)
    recorder.keep(0, finding, b"\1", text.decode())
    return finding.identity


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


ELSEWHERE = Finding("some.oracle", (), ("cpu", "cpu"), "", "it was so")


@pytest.mark.parametrize("name", ["mystore", "store.toml"])
def test_a_store_is_known_by_what_is_in_it(run: Run, tmp_path: Path, name: str) -> None:
    with open_store(tmp_path / name) as store:
        identity = keep(store, found(SHOWS_IT), SHOWS_IT)
    status, out, _ = run("replay", tmp_path / name, "--json")
    assert (status, json.loads(out)["input"]) == (1, identity)
    assert run("show", tmp_path / name, "--finding", identity)[0] == 0


def test_a_finding_is_run_again_with_the_harness_that_found_it(run: Run, path: Path) -> None:
    finding = found(SHOWS_IT)
    with open_store(path) as store:
        keep(store, finding, SHOWS_IT)
        assert store.finding(finding.identity).harness == "tests/campaign/harnesses/forgetful.py"
    status, out, err = run("replay", path)
    assert (status, err) == (1, "")
    assert f"{finding.identity}: still there: {finding.message}" in out
    assert "1 replayed, 0 hold, 1 do not" in out


def test_one_finding_of_several_is_run_again_by_its_name(run: Run, path: Path) -> None:
    with open_store(path) as store:
        gone = keep(store, ELSEWHERE, PLAIN)
        there = keep(store, found(SHOWS_IT), SHOWS_IT)
    status, out, _ = run("replay", path, "--json")
    assert status == 1
    assert [json.loads(line)["holds"] for line in out.splitlines()] == [True, False]
    status, out, _ = run("replay", path, "--json", "--finding", gone)
    (line,) = out.splitlines()
    assert (status, json.loads(line)) == (
        0,
        {"input": gone, "holds": True, "complaints": [], "status": "gone"},
    )
    status, out, _ = run("replay", path, "--json", "--finding", there[:-2])
    (line,) = out.splitlines()
    assert (status, json.loads(line)["input"]) == (1, there)
    status, out, _ = run("replay", path, "--finding", gone)
    assert (status, out) == (0, "1 replayed, 1 hold, 0 do not, 1 gone\n")


def test_a_finding_that_became_another_one_is_told(run: Run, path: Path) -> None:
    with open_store(path) as store:
        keep(store, ELSEWHERE, SHOWS_IT)
    status, out, _ = run("replay", path)
    assert status == 1
    assert f"different: {found(SHOWS_IT).identity}" in out
    assert "still there" not in out


def test_a_finding_that_ended_its_worker_is_run_in_a_process_of_its_own(
    run: Run, path: Path
) -> None:
    with open_store(path) as store:
        deadly = Finding(WORKER_LIVES, ("SIGSEGV",), ("a", "a"), "", "it ended")
        keep(store, deadly, PLAIN)
        # The same text under another oracle is a case.
        harmless = keep(store, ELSEWHERE, PLAIN)
        assert store.finding(deadly.identity).text == ""
        assert store.finding(harmless).text == PLAIN.decode()
    status, out, _ = run("replay", path)
    # Neither ends its process any more.
    assert (status, out) == (0, "2 replayed, 2 hold, 0 do not, 2 gone\n")
    status, _, err = run("show", path, "--finding", deadly.identity)
    assert (status, err.count("\n")) == (2, 1)
    assert "it is no case" in err


def test_a_finding_without_an_input_cannot_be_run_again(run: Run, path: Path) -> None:
    with open_store(path) as store:
        deadly = Finding(WORKER_LIVES, ("SIGSEGV",), ("a", "kvm-6.12"), "", "it ended")
        campaign = store.begin_campaign("", 1, 0)
        store.add_finding(campaign, "a", deadly, b"", "")
    status, out, err = run("replay", path)
    assert (status, out) == (2, "")
    assert err == f"nvmxfuzz: {deadly.identity} cannot be run again: no input was saved\n"


def test_a_harness_that_is_gone_is_one_sentence_and_the_others_are_run(
    run: Run, path: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(FORGETFUL.read_text().replace("parents[3]", f"parents[0] / {str(ROOT)!r}"))
    with open_store(path) as store:
        lost = keep(store, found(SHOWS_IT, mine), SHOWS_IT, mine)
        keep(store, ELSEWHERE, PLAIN)
        assert store.finding(lost).harness == str(mine)
    assert run("replay", path)[0] == 1
    mine.unlink()
    status, out, err = run("replay", path, "--json")
    assert status == 2
    assert err == (
        f"nvmxfuzz: {lost} cannot be run again: the harness {mine} is not there any more: "
        "bring the file back\n"
    )
    first, second = map(json.loads, out.splitlines())
    assert (first["input"], first["error"]) == (lost, err.removeprefix("nvmxfuzz: ").strip())
    assert second["holds"] is True


def test_two_harnesses_may_have_found_the_same(run: Run, path: Path) -> None:
    finding = found(SHOWS_IT)
    with open_store(path) as store:
        for harness in (FORGETFUL, ROOT / "fuzz" / "vm_entry.py"):
            keep(store, finding, SHOWS_IT, harness)
    for name in (finding.identity, finding.identity[:-1]):
        status, out, _ = run("replay", path, "--json", "--finding", name)
        assert status == 1
        assert [json.loads(line)["holds"] for line in out.splitlines()] == [False, True]


def test_an_empty_store_has_nothing_to_run(run: Run, path: Path) -> None:
    open_store(path).close()
    assert run("replay", path) == (0, "0 replayed, 0 hold, 0 do not\n", "")
    status, out, err = run("replay", path, "--json")
    assert (status, out) == (0, "")
    assert "no findings" in err


def test_the_case_of_a_finding_is_shown(run: Run, path: Path) -> None:
    with open_store(path) as store:
        identity = keep(store, found(SHOWS_IT), SHOWS_IT)
    status, out, _ = run("show", path, "--finding", identity)
    assert status == 0
    assert "host_cr3" in out
    status, _, err = run("show", path)
    assert (status, err.count("\n")) == (2, 1)
    assert "--finding" in err


@pytest.mark.parametrize("command", ["replay", "show"])
def test_a_case_has_no_findings(run: Run, tmp_path: Path, command: str) -> None:
    case = tmp_path / "case.db"
    case.write_bytes(PLAIN)
    status, _, err = run(command, case, "--finding", "x")
    assert status == 2
    assert "is no store: --finding goes with" in err
    assert run(command, case)[0] == 0


@pytest.mark.parametrize(
    "arguments", [("replay",), ("show", "--finding", "x"), ("rules", "--seen")]
)
def test_the_database_of_another_program_is_refused(
    run: Run, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    database = tmp_path / "case.toml"
    database.write_bytes(b"SQLite format 3\x00" + bytes(100))
    status, out, err = run(*arguments, database)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "not a store" in err


def test_rules_says_what_a_campaign_has_seen(run: Run, path: Path) -> None:
    with open_store(path) as store:
        seen = [
            *(Behaviour("basic.cpl.zero", "held"), Behaviour("basic.cpl.zero", "broken")),
            *(Behaviour("site", "held"), Behaviour("basic.cpl.zero", "sole")),
        ]
        store.note_behaviours("vm_entry", "", seen)
    status, out, _ = run("rules", "--seen", path, "--json")
    reply = json.loads(out)
    assert status == 0
    assert reply["basic.cpl.zero"] == ["held", "broken"]
    assert sum(map(len, reply.values())) == 2
    _, out, _ = run("rules", "--seen", path, "--counts", "--json")
    counts = json.loads(out)
    first = next(iter(counts.values()))
    assert (first["n/a"], first["held"], first["broken"]) == (0, 1, 1)
    assert first["rules"] > 1
    _, out, _ = run("rules", "--seen", path, "--counts")
    assert out.split()[:5] == ["rules", "n/a", "held", "broken", str(first["rules"])]
    assert out.splitlines()[-1].split() == [str(len(reply)), "0", "1", "1", "in", "all"]


def test_a_moved_store_keeps_its_findings(run: Run, path: Path, tmp_path: Path) -> None:
    with open_store(path) as store:
        identity = keep(store, found(SHOWS_IT), SHOWS_IT)
    moved = tmp_path / "elsewhere"
    shutil.copy(path, moved)
    assert run("replay", moved, "--finding", identity)[0] == 1

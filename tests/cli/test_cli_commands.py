# SPDX-License-Identifier: GPL-2.0-only
"""The commands as a user or a program sees them."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.plan import load_harness
from nvmxfuzz.cli import replay
from nvmxfuzz.cpu.vm_entry import CHAPTER
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "corpus" / "vectors"
BROKEN = VECTORS / "guest-rip-rflags" / "guest.rflags.reserved" / "broken.toml"
HELD = VECTORS / "guest-rip-rflags" / "guest.rflags.reserved" / "held.toml"
CONFIG = VECTORS / "capability-config" / "config.fixpoint" / "plain-6-12.toml"
PROFILE = ROOT / "nvmxfuzz" / "machine" / "profiles" / "skylake-x.toml"

Run = Callable[..., tuple[int, str, str]]


def raw(path: Path, **document: object) -> Path:
    path.write_text(json.dumps({"format": 1, "vmcs": {}, **document}))
    return path


def test_check_names_the_broken_rule_and_its_sentence(run: Run) -> None:
    status, out, _ = run("check", BROKEN)
    assert status == 0
    assert "broken guest.rflags.reserved" in out
    assert "permitted: exit 33 qualification 0" in out


def test_check_json_is_one_object_a_line_in_order(run: Run) -> None:
    status, out, _ = run("check", "--json", HELD, BROKEN)
    held, broken = map(json.loads, out.splitlines())
    assert status == 0
    assert held == {"broken": [], "permitted": [{"kind": "entered"}]}
    assert broken == {
        "broken": ["guest.rflags.reserved"],
        "permitted": [{"kind": "exit", "reason": 33, "qualification": 0}],
    }


def test_check_says_which_file_is_bad_and_goes_on(run: Run, tmp_path: Path) -> None:
    bad = raw(tmp_path / "bad.json", vmcs={"0x6821": "0x2"})
    status, out, err = run("check", "--json", HELD, bad, BROKEN)
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 2
    assert [sorted(line) for line in lines] == [
        ["broken", "permitted"],
        ["error"],
        ["broken", "permitted"],
    ]
    assert err.count("\n") == 1
    assert "bad.json" in err
    assert "0x6821" in err


def test_a_single_bad_file_has_no_line(run: Run) -> None:
    status, out, err = run("check", "--json", "no-such-file.json")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1


def test_check_reads_raw_json(run: Run, tmp_path: Path) -> None:
    outside = {"vmxon_pointer": "0xffffffffffffffff"}
    path = raw(tmp_path / "x.json", profile="skylake-x", processor=outside)
    _, out, _ = run("check", "--json", path)
    assert json.loads(out)["permitted"] == [{"kind": "fault", "vector": 6}]


def test_check_refuses_a_config(run: Run) -> None:
    status, _, err = run("check", CONFIG)
    assert status == 2
    assert "nvmxfuzz config" in err


def test_config_of_a_profile_is_accepted(run: Run) -> None:
    status, out, _ = run("config", PROFILE, "--json")
    reply = json.loads(out)
    assert status == 0
    assert reply["result"] == "accepted"
    assert "enable EPT" in reply["controls"]["cpu_based_2nd_exec_ctrl"]


def test_config_says_why_it_refuses(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "msrs.txt"
    table.write_text("0x480 = 0x00da040000000004\n0x481 = 0x7f00000000\n")
    status, out, _ = run("config", table)
    assert status == 0
    assert "-EIO: " in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--kernel", "5.19"), "5.19"),
        (("--param", "ept=0"), "ept"),
        (("--param", "error_on_inconsistent_vmcs_config=maybe"), "maybe"),
    ],
)
def test_config_names_what_it_does_not_know(
    run: Run, arguments: tuple[str, ...], named: str
) -> None:
    status, _, err = run("config", PROFILE, *arguments)
    assert status == 2
    assert named in err


def test_replay_of_a_folder_replays_all_of_it(run: Run) -> None:
    status, out, _ = run("replay", VECTORS / "guest-rip-rflags", CONFIG)
    assert status == 0
    assert " 0 do not" in out


def test_replay_says_what_a_vector_expects_otherwise(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(BROKEN.read_text().replace("exit 33 qualification 0", "entered"))
    status, out, _ = run("replay", wrong)
    assert status == 1
    assert "permitted are exit 33 qualification 0, not entered" in out


def test_replay_asks_the_oracles_of_the_harness(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def grumpy(file: Path, _target: str | None) -> Harness:
        """Load a harness, and give it an oracle of which nothing ever holds."""
        finding = Finding("some.oracle", (), ("cpu", "cpu"), "", "it is so")
        oracle: Oracle[Any, Any] = Oracle("some.oracle", "nowhere", lambda _case, _run: finding)
        return replace(load_harness(file), oracles=(oracle,))

    monkeypatch.setattr(replay, "_harness", grumpy)
    status, out, _ = run("replay", BROKEN, CONFIG)
    assert status == 1
    assert [": some.oracle-" in line for line in out.splitlines()] == [True, True, False]


def test_replay_goes_on_after_a_bad_file(run: Run, tmp_path: Path) -> None:
    status, out, err = run("replay", tmp_path / "no-such.toml", tmp_path, HELD)
    assert status == 2
    assert err.count("\n") == 2
    assert out == "1 replayed, 1 hold, 0 do not\n"


def test_show_prints_the_difference_against_the_base(run: Run) -> None:
    _, out, _ = run("show", BROKEN)
    assert "guest_rflags" in out
    assert "guest_rip" not in out
    _, everything, _ = run("show", BROKEN, "--all")
    assert "guest_rip" in everything


def test_show_json_has_one_object_a_field(run: Run) -> None:
    _, out, _ = run("show", BROKEN, "--json")
    (field,) = json.loads(out)["fields"]
    assert (field["name"], int(field["value"], 16)) == ("guest_rflags", 0xA)


def test_rules_json_is_the_list_of_all_rules(run: Run) -> None:
    _, out, _ = run("rules", "--json")
    rules = json.loads(out)
    assert [rule["name"] for rule in rules] == [rule.name for rule in CHAPTER.rules]
    assert {tuple(rule) for rule in rules} == {("name", "section", "sentence", "has_condition")}


def test_rules_counts_by_section(run: Run) -> None:
    _, out, _ = run("rules", "--counts", "--json")
    assert sum(json.loads(out).values()) == len(CHAPTER.rules)


def test_rules_seen_over_the_vectors_is_everything(run: Run) -> None:
    _, out, _ = run("rules", "--seen", VECTORS, "--json")
    seen = json.loads(out)
    assert all({"held", "broken"} <= set(verdicts) for verdicts in seen.values())


READERS = [
    *(("check",), ("config",), ("replay",), ("show",), ("rules", "--seen")),
    ("migrate", "6.1", "6.12", "--msrs"),
]


@pytest.mark.parametrize("command", READERS, ids=" ".join)
@pytest.mark.parametrize("suffix", [".toml", ".json", ".db", ".bin"])
def test_random_bytes_are_one_sentence(
    run: Run, tmp_path: Path, command: tuple[str, ...], suffix: str
) -> None:
    source = random.Random(suffix)
    whole = BROKEN.read_bytes()
    contents = [b"", b"\xff", b"{", b"[" * 5000, b'{"vmcs": {}', source.randbytes(300)]
    contents += [whole[:-3], whole[:40] + b"\0" + whole[40:], b"x" * (2 << 20)]
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        status, _, err = run(*command, path)
        assert (status, err.count("\n")) == (2, 1), content[:20]


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_a_missing_file_is_one_sentence(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    for path in ("no-such-file.toml", "no-such-file.db", tmp_path, "bad\0name"):
        status, _, err = run(*command, path)
        assert status == 2
        assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("frob",), ("check",), ("check", "--frob", "x")])
def test_a_wrong_command_line_is_one_sentence(run: Run, arguments: tuple[str, ...]) -> None:
    status, _, err = run(*arguments)
    assert status == 2
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["fuzz", "check", "config", "migrate", "replay", "show", "rules"]
)
def test_every_command_has_a_help(run: Run, command: str) -> None:
    status, out, _ = run(command, "--help")
    assert status == 0
    assert len(out) > 200

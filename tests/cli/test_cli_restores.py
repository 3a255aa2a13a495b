# SPDX-License-Identifier: GPL-2.0-only
"""Restores and migrations at the command line: shown, replayed, refused where they do not go."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.inputs.text import dump_text

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "corpus" / "vectors" / "capability-restore"
TIMER = VECTORS / "restore.never-widens" / "timer-rate.toml"
SHADOWING = VECTORS / "nested.within-config" / "shadowing-without-secondary-controls.toml"


def test_show_has_a_line_for_each_thing_that_a_step_does(run: Run) -> None:
    status, out, err = run("show", TIMER)
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "capability_restore: profile skylake-x, base skylake-x"
    assert [line.strip() for line in out.splitlines()[2:]] == [
        "step       1 set-cpuid",
        "step       2 set-msrs   IA32_VMX_TRUE_PINBASED_CTLS = offered unset 0x4000000000",
        "step       3 set-msrs   IA32_VMX_MISC = offered unset 0x1f",
    ]


def test_show_has_the_world_as_it_differs(run: Run) -> None:
    _, out, _ = run("show", SHADOWING, "--json")
    rows = {(row["area"], row["name"]): row for row in json.loads(out)["fields"]}
    assert rows["parameter", "error_on_inconsistent_vmcs_config"]["value"] == "false"
    assert ("msr", "ia32_vmx_procbased_ctls") in rows
    everything = json.loads(run("show", SHADOWING, "--json", "--all")[1])["fields"]
    assert len(everything) > 90


def test_show_reads_the_bytes_and_both_worlds_of_a_migration(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "input"
    data.write_bytes(bytes.fromhex("01 00 02 01  01 0300 01  05 00 0100 01 00 01"))
    status, out, _ = run("show", data, "--binary", "migration")
    assert status == 0
    assert "source case" in out
    assert "order" in out
    text = tmp_path / "case.toml"
    case = decode(data.read_bytes(), "migration")
    text.write_text(dump_text(case))
    assert run("show", text)[1] == out
    assert decode(encode(case), "migration") == case


def test_replay_holds_a_vector_against_its_breaches(run: Run, tmp_path: Path) -> None:
    assert run("replay", VECTORS)[0] == 0
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(TIMER.read_text().replace("IA32_VMX_MISC timer-rate", "IA32_VMX_MISC nothing"))
    status, out, _ = run("replay", wrong)
    assert status == 1
    assert "restore.never-widens: IA32_VMX_MISC nothing is not a breach" in out
    assert "restore.never-widens: IA32_VMX_MISC timer-rate is a breach" in out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("check",), "is a restore of capability MSRs, no VM entry: use nvmxfuzz show, or replay"),
        (("config",), "is a restore of capability MSRs, no capability config: use nvmxfuzz show"),
        (("show", "--raw"), "is a restore of capability MSRs: only a VM entry has a raw form"),
        (("show", "--target", "bochs"), "is a restore of capability MSRs: --target goes with VM"),
    ],
)
def test_where_a_restore_does_not_go_it_is_refused(
    run: Run, command: tuple[str, ...], sentence: str
) -> None:
    status, out, err = run(*command, TIMER)
    assert (status, out) == (2, "")
    assert sentence in err

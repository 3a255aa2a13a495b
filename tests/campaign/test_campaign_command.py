# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz fuzz` from the outside: findings, exit status, Ctrl-C, killed workers, bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.difference import differences
from nvmxfuzz.inputs.load import load_case

HERE = Path(__file__).parent
FORGETFUL = str(HERE / "harnesses" / "forgetful.py")
SOUND = str(HERE / "harnesses" / "sound.py")
COMMAND = "import sys; from nvmxfuzz.cli import main; sys.exit(main())"
SAYS_WHEN = COMMAND.replace("sys.exit", "print('up', flush=True); sys.exit")
PLANTED = "entry.dry-run"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def start(
    *arguments: str,
    cwd: Path | None = None,
    code: str = COMMAND,
    environment: Mapping[str, str] = os.environ,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, "fuzz", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def fuzz(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run a campaign; return status, stdout and stderr."""
    process = start(*arguments, environment=os.environ | environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def worker_of(process: subprocess.Popen[str]) -> int:
    """Return the process id of the worker of a campaign, once it has one."""
    for _ in range(200):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise AssertionError("no worker was started")


@pytest.mark.parametrize("engine", ["random", "hypothesis", "atheris"])
def test_a_planted_fault_is_found_minimised_and_stored(engine: str, store: Path) -> None:
    status, out, err = fuzz(
        *(FORGETFUL, "--engine", engine, "--runs", "1500", "--seed", "1", "--store", str(store)),
        "--reruns=1",
    )
    assert (status, err) == (1, "")
    with open_store(store, create=False) as opened:
        findings = [each for each in opened.findings() if each.finding.oracle == PLANTED]
        assert opened.verdicts_seen()
    (planted, *_) = findings
    assert planted.reproduced is True
    assert planted.count > 0
    assert planted.identity in out
    case = load_case(planted.text.encode(), "finding")
    assert isinstance(case, EntryCase)
    (edit,) = differences(case)
    assert getattr(edit, "slot", "").startswith("host_")


def test_the_summary_has_a_command_for_each_finding_that_works_here(tmp_path: Path) -> None:
    mine = tmp_path / "my harness.py"
    planted = Path(FORGETFUL).read_text()
    mine.write_text(planted.replace("parents[3]", f"parents[0] / {str(HERE.parents[1])!r}"))
    process = start(
        *(str(mine), "--engine=random", "--runs=300", "--seed=1", "--store=my store", "--reruns=1"),
        cwd=tmp_path,
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, "")
    commands = [line.strip() for line in out.splitlines() if "--finding" in line]
    with open_store(tmp_path / "my store", create=False) as store:
        stored = [each.identity for each in store.findings()]
    assert [command.split()[-1] for command in commands] == stored
    assert stored
    for identity, command in zip(stored, commands[:2], strict=False):
        replay = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (replay.returncode, replay.stderr) == (1, "")
        assert replay.stdout.startswith(f"{identity}: still there: ")


def test_without_a_finding_one_line_says_how_one_would_be_replayed(store: Path) -> None:
    status, out, err = fuzz(SOUND, "--engine=random", "--runs=50", "--seed=1", f"--store={store}")
    assert (status, err) == (0, "")
    (line,) = [line for line in out.splitlines() if "--finding" in line]
    assert line.endswith(f"replay {store} --finding ID")


def test_without_a_finding_the_status_is_0_and_a_line_of_json_tells(store: Path) -> None:
    status, out, err = fuzz(
        SOUND, "--engine", "random", "--runs", "200", "--seed", "1", "--store", str(store), "--json"
    )
    assert (status, err) == (0, "")
    (line,) = out.splitlines()
    summary: dict[str, Any] = json.loads(line)
    assert summary["event"] == "summary"
    assert (summary["executions"], summary["findings"], summary["seed"]) == (200, [], 1)
    assert summary["ended_by"] == "runs"
    assert summary["rules"]["all"] > summary["rules"]["held"] > 0


def test_findings_are_lines_of_json_and_known_ones_are_told_apart(store: Path) -> None:
    for is_new in (True, False):
        status, out, _ = fuzz(
            *(FORGETFUL, "--engine=random", "--runs=400", "--seed=1", f"--store={store}", "--json"),
            "--reruns=1",
        )
        assert status == 1
        *findings, summary = map(json.loads, out.splitlines())
        assert {finding["new"] for finding in findings} == {is_new}
        assert PLANTED in {finding["oracle"] for finding in findings}
        assert summary["findings"] == [finding["identity"] for finding in findings]
        assert summary["new_findings"] == (len(findings) if is_new else 0)


def test_ctrl_c_keeps_everything_and_says_130(store: Path) -> None:
    process = start(
        FORGETFUL, "--engine", "random", "--seed", "1", "--store", str(store), "--reruns=1"
    )
    assert process.stdout is not None
    first = next(line for line in process.stdout if line.startswith("finding "))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")
    assert "interrupted after" in out
    with open_store(store, create=False) as opened:
        stored = {each.identity for each in opened.findings()}
    shown = set(re.findall(r"--finding (\S+)", out))
    assert shown
    assert shown <= stored
    assert any(identity in first for identity in stored)


def test_ctrl_c_at_any_moment_leaves_no_traceback_and_a_sound_store(store: Path) -> None:
    rng = Random(1)
    for _ in range(5):
        process = start(FORGETFUL, "--engine", "random", "--store", str(store), code=SAYS_WHEN)
        assert process.stdout is not None
        # Before that, a signal is up to Python, which is not calm about it.
        assert process.stdout.readline() == "up\n"
        time.sleep(rng.uniform(0.01, 1.2))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "Traceback" not in out + err
    if store.exists():
        with open_store(store) as opened:
            assert all(each.data or each.case_text for each in opened.findings())


def test_a_killed_worker_is_replaced_and_told(store: Path) -> None:
    process = start(SOUND, "--engine", "atheris", "--time", "2.5", f"--store={store}", "--json")
    worker = worker_of(process)
    time.sleep(1.2)
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, "")
    finding, summary = map(json.loads, out.splitlines())
    assert finding["rules"] == ["SIGKILL"]
    assert "flaky" in finding["note"]
    assert (summary["deaths"], summary["ended_by"]) == (1, "time")
    with open_store(store, create=False) as opened:
        (stored,) = opened.findings()
    assert stored.reproduced is False


def test_an_input_that_kills_is_seen_again_in_a_process_of_its_own(store: Path) -> None:
    status, out, _ = fuzz(
        *(SOUND, "--engine=random", "--runs=60", "--seed=1", f"--store={store}", "--reruns=1"),
        TROUBLE="segv",
    )
    assert status == 1
    assert "SIGSEGV" in out
    assert "1 of 1 runs show it" in out
    with open_store(store, create=False) as opened:
        (stored,) = opened.findings()
    assert stored.reproduced is True
    assert stored.case_text
    assert stored.text == ""


def test_a_killed_campaign_takes_its_worker_along_and_keeps_what_it_found(store: Path) -> None:
    # Nobody is left to remove the campaign's folder for temporary files.
    process = start(
        *(FORGETFUL, "--engine=random", "--seed=1", f"--store={store}"),
        environment=os.environ | {"TMPDIR": str(store.parent)},
    )
    assert process.stdout is not None
    process.stdout.readline()
    worker = worker_of(process)
    process.kill()
    process.communicate(timeout=120)
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists():
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the worker lives on")
    with open_store(store) as opened:
        assert opened.findings()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["no_such_harness"], "there is no harness 'no_such_harness'"),
        (["vm_entry", "--engine", "afl"], "invalid choice: 'afl'"),
        (["vm_entry", "--time", "soon"], "--time"),
        (["vm_entry", "--time", "0"], "--time"),
        (["vm_entry", "--time", "inf"], "--time"),
        (["vm_entry", "--runs", "-3"], "--runs"),
        (["vm_entry", "--runs", "many"], "--runs"),
        (["vm_entry", "--seed", "-1"], "--seed"),
        (["vm_entry", "--store", "/"], "is a folder"),
        (["vm_entry", "--store", __file__], "is not a store"),
        ([__file__], "must define HARNESS"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments: list[str], reason: str) -> None:
    status, out, err = fuzz(*arguments)
    assert (status, out) == (2, "")
    assert reason in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_missing_library_is_one_sentence(tmp_path: Path, store: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['atheris'] = None\n")
    status, _, err = fuzz("vm_entry", f"--store={store}", PYTHONPATH=_path(tmp_path))
    assert status == 2
    assert "engine atheris needs the package atheris" in err
    assert err.count("\n") == 1
    status, _, err = fuzz(
        SOUND, "--engine=random", "--runs=5", f"--store={store}", PYTHONPATH=_path(tmp_path)
    )
    assert (status, err) == (0, "")


def _path(first: Path) -> str:
    return os.pathsep.join([str(first), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_running_out_of_memory_is_seen_again_within_the_same_bound(store: Path) -> None:
    status, _, err = fuzz(
        SOUND, "--engine=random", "--runs=60", "--seed=1", f"--store={store}", TROUBLE="swell"
    )
    assert (status, err) == (1, "")
    with open_store(store, create=False) as opened:
        assert [each.reproduced for each in opened.findings()] == [True]


def test_an_error_in_the_midst_keeps_the_summary(tmp_path: Path, store: Path) -> None:
    mine = tmp_path / "mine.py"
    text = Path(SOUND).read_text().replace("parents[3]", f"parents[0] / {str(HERE.parents[1])!r}")
    # The first worker starts, none after it.
    mine.write_text(text.replace("    main(HARNESS)", "    os.unlink(__file__)\n    main(HARNESS)"))
    status, out, err = fuzz(
        str(mine), "--engine=random", "--seed=1", f"--store={store}", TROUBLE="segv"
    )
    assert status == 2
    assert "ended by an error" in out
    assert "a worker did not start" in err
    assert err.count("\n") == 1

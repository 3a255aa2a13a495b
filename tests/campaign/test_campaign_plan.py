# SPDX-License-Identifier: GPL-2.0-only
"""Harness files: how they are found, noted in a store, and refused."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nvmxfuzz.campaign.plan import (
    ROOT,
    harness_file,
    harness_reference,
    load_harness,
    referenced_harness,
)
from nvmxfuzz.errors import InputError

HARNESSES = Path(__file__).parent / "harnesses"
SOUND = HARNESSES / "sound.py"


def test_harnesses_are_found_by_name_and_by_path() -> None:
    assert load_harness(harness_file("vm_entry")).name == "vm_entry"
    assert load_harness(harness_file(str(SOUND))).oracles == ()
    with pytest.raises(InputError, match="there is no harness 'kvm'"):
        harness_file("kvm")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "must define HARNESS"),
        ("HARNESS = 'vm_entry'", "must define HARNESS"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("((((", "SyntaxError: "),
        ("\0", "null bytes"),
        ("HARNESS = harness", "NameError: name 'harness' is not defined"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("raise SystemExit", "SystemExit"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("class Own(BaseException): pass\nraise Own('mine')", "Own: mine"),
        ("def f(): f()\nf()", "RecursionError: "),
        ("raise OSError('x' * 10000)", "OSError: x+$"),
    ],
)
def test_whatever_a_harness_file_does_is_one_sentence(
    content: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(InputError, match=reason) as caught:
        load_harness(harness_file(str(file)))
    said = str(caught.value)
    assert said.startswith(f"{file} is no harness")
    assert "\n" not in said
    assert len(said) < len(str(file)) + 400


def test_ctrl_c_while_a_harness_file_runs_is_no_fault_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_harness(file)


def test_ctrl_c_ends_a_harness_file_that_loops(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("print('looping', flush=True)\nwhile True: pass\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "nvmxfuzz.cli", "fuzz", str(file), "--store", f"{tmp_path}/s.db"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "nvmxfuzz: interrupted\n")


def test_a_harness_of_the_checkout_is_noted_by_its_name() -> None:
    assert harness_reference(harness_file("vm_entry")) == "vm_entry"
    assert referenced_harness("vm_entry") == ROOT / "fuzz" / "vm_entry.py"


def test_another_file_is_noted_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine.py"
    mine.touch()
    for file in (SOUND, mine):
        reference = harness_reference(harness_file(str(file)))
        assert referenced_harness(reference).samefile(file)
    assert harness_reference(ROOT / "tests" / "fuzz" / "mine.py") == "tests/fuzz/mine.py"
    assert harness_reference(SOUND) == "tests/campaign/harnesses/sound.py"
    assert harness_reference(harness_file("mine.py")) == str(mine)


def test_a_file_with_the_name_of_a_harness_is_not_taken_for_it(tmp_path: Path) -> None:
    mine = tmp_path / "vm_entry.py"
    mine.touch()
    assert referenced_harness(harness_reference(mine)) == mine


@pytest.mark.parametrize("reference", ["kvm", "tests/kvm.py", "/nowhere/mine.py"])
def test_a_harness_that_is_gone_is_one_sentence(reference: str) -> None:
    with pytest.raises(InputError, match=r"the harness .* is not there any more"):
        referenced_harness(reference)


def test_a_harness_whose_name_is_no_name_is_told_in_short() -> None:
    with pytest.raises(InputError, match=r"the harness .* is not there any more") as told:
        referenced_harness("x" * 5000)
    assert len(str(told.value)) < 500

# SPDX-License-Identifier: GPL-2.0-only
"""The command as a process: Ctrl-C while it starts, and the words that call it again."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nvmxfuzz.cli import invocation

START = """
import os, signal, sys

class Nudge:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

from nvmxfuzz.cli import main
sys.meta_path.insert(0, Nudge())
sys.argv = ["nvmxfuzz", "rules", "--counts"]
sys.exit(main())
"""


def ran(code: str) -> tuple[int, str, str]:
    """Run Python code in a process of its own, with output that waits in a buffer."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "nvmxfuzz.cli.command_line",
        "argparse",
        "nvmxfuzz.cpu.vm_entry",
        "rich.console",
        "nvmxfuzz.cli.rules",
    ],
)
def test_ctrl_c_while_modules_are_loaded_is_one_sentence(module: str) -> None:
    assert ran(START.format(name=module)) == (130, "", "nvmxfuzz: interrupted\n")


def test_ctrl_c_within_a_command_keeps_what_it_has_said() -> None:
    code = START.format(name="").replace(
        "sys.exit(main())",
        "from nvmxfuzz.cli import rules\n"
        "def interrupted(*_):\n"
        "    print('so far')\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "rules._counts_as_text = interrupted\n"
        "sys.exit(main())",
    )
    assert ran(code) == (130, "so far\n", "nvmxfuzz: interrupted\n")


def test_ctrl_c_after_the_command_is_no_traceback() -> None:
    code = START.format(name="").replace(
        "sys.exit(main())", "main(); os.kill(os.getpid(), signal.SIGINT); print('too late')"
    )
    status, out, err = ran(code)
    assert (status, err) == (130, "nvmxfuzz: interrupted\n")
    assert "in all" in out
    assert "too late" not in out


def test_what_a_shell_started_in_the_background_ignores_ctrl_c() -> None:
    code = START.format(name="argparse").replace(
        "from nvmxfuzz", "signal.signal(signal.SIGINT, signal.SIG_IGN)\nfrom nvmxfuzz", 1
    )
    status, out, err = ran(code)
    assert (status, err) == (0, "")
    assert "in all" in out


def test_loading_the_package_loads_nothing_else_of_it() -> None:
    code = "import sys, nvmxfuzz.cli; print([n for n in sys.modules if n.startswith('nvmxfuzz')])"
    assert ran(code)[1] == "['nvmxfuzz', 'nvmxfuzz.cli']\n"


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", invocation.MODULE, "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "nvmxfuzz")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script of that name, in a folder that no shell looks into."""
    path = tmp_path / "bin" / "nvmxfuzz"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return path


def called(monkeypatch: pytest.MonkeyPatch, word: str) -> tuple[str, ...]:
    monkeypatch.setattr(sys, "argv", [word])
    return invocation.command()


def test_a_script_is_called_again_as_it_was_called(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called(monkeypatch, "bin/nvmxfuzz") == ("bin/nvmxfuzz",)
    assert called(monkeypatch, str(script)) == ("bin/nvmxfuzz",)
    monkeypatch.chdir("bin")
    assert called(monkeypatch, "nvmxfuzz") == ("./nvmxfuzz",)
    monkeypatch.chdir("/")
    assert called(monkeypatch, str(script)) == (str(script).lstrip("/"),)
    monkeypatch.chdir("/usr")
    assert called(monkeypatch, str(script)) == (str(script),)


def test_a_script_that_the_shell_finds_is_called_by_its_name(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(script.parent))
    assert called(monkeypatch, str(script)) == ("nvmxfuzz",)
    other = script.parent / "other" / "nvmxfuzz"
    other.parent.mkdir()
    shutil.copy(script, other)
    assert called(monkeypatch, str(other)) == ("bin/other/nvmxfuzz",)


def test_where_no_script_is_the_module_is_called(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = (sys.executable, "-m", "nvmxfuzz.cli")
    script.chmod(0o644)
    for word in ("-c", str(script), "/nowhere/nvmxfuzz", "/somewhere/cli/__main__.py"):
        assert called(monkeypatch, word) == module


@pytest.mark.parametrize(
    ("path", "typed"),
    [("store.db", "store.db"), ("a/../store.db", "a/../store.db"), ("-x.db", "./-x.db")],
)
def test_a_file_is_named_as_one_would_type_it(
    path: str, typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invocation.typed_path(Path(path)) == typed
    assert invocation.typed_path(tmp_path / path) == typed
    assert invocation.typed_path(Path("/elsewhere")) == "/elsewhere"


def test_the_handling_of_ctrl_c_is_not_touched_by_a_command_in_another_program() -> None:
    before = signal.getsignal(signal.SIGINT)
    from nvmxfuzz.cli.command_line import run

    assert run(["rules", "--counts", "--json"]) == 0
    assert signal.getsignal(signal.SIGINT) is before

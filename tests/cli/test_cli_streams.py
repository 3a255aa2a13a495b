# SPDX-License-Identifier: GPL-2.0-only
"""What the system refuses is one sentence and status 2, whatever the streams are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nvmxfuzz.campaign.store import opening
from nvmxfuzz.cli.files import cases_below
from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.outside import printable

COMMAND = f"{sys.executable} -m nvmxfuzz.cli"
ROOT = Path(__file__).parents[2]
FORGETFUL = ROOT / "tests" / "campaign" / "harnesses" / "forgetful.py"


def shell(line: str) -> tuple[int, str]:
    """Run a line of the shell; return status and stderr."""
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "line",
    [
        f"{COMMAND} rules >&-",
        f"{COMMAND} rules >/dev/full",
        f"{COMMAND} check {'x' * 300}",
        f"{COMMAND} show $'a\\nb\\xff'",
        f"{COMMAND} rules --seen {'x' * 300}",
        f"{COMMAND} fuzz vm_entry --engine random --store {'x' * 300}",
    ],
)
def test_a_refusal_is_one_sentence(line: str) -> None:
    status, err = shell(line)
    assert status == 2
    assert err.startswith("nvmxfuzz: ")
    assert err.count("\n") == 1


def test_a_closed_stderr_changes_no_status() -> None:
    assert shell(f"{COMMAND} check nowhere 2>&-")[0] == 2
    assert shell(f"{COMMAND} check nowhere 2>&1 | true; exit ${{PIPESTATUS[0]}}")[0] == 2


def test_a_reader_that_goes_ends_the_campaign(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    fuzz = f"{COMMAND} fuzz {FORGETFUL} --engine random --seed 1 --store {store}"
    assert shell(f"{fuzz} | head -1; exit ${{PIPESTATUS[0]}}") == (1, "")
    with opening.open_database(store, read_only=True) as database:
        assert database.execute("SELECT state FROM campaign").fetchall() == [("error",)]
    database.close()


def test_control_characters_do_not_break_a_sentence() -> None:
    assert printable("a\nb\x1b\udcff ü") == "a\\nb\\x1b\\udcff ü"


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="cannot be read"):
        list(cases_below(tmp_path))


def test_only_a_store_without_a_log_is_read_as_unchanging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    store = tmp_path / "store.db"
    assert opening._uri(store, read_only=True).endswith("immutable=1")
    Path(f"{store}-wal").write_bytes(b"news")
    assert opening._uri(store, read_only=True).endswith("mode=ro")

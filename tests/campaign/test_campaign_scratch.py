# SPDX-License-Identifier: GPL-2.0-only
"""Folders for temporary files: what a killed campaign leaves goes when the next one starts."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from nvmxfuzz.campaign.plan import Job, Plan
from nvmxfuzz.campaign.runner import run_campaign
from nvmxfuzz.campaign.scratch import remove_abandoned, scratch_folder
from nvmxfuzz.errors import InputError

SOUND = Path(__file__).parent / "harnesses" / "sound.py"
HOLDER = """
import time
from nvmxfuzz.campaign.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "kept").write_text("x")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders for temporary files are made in these tests."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def held() -> tuple[subprocess.Popen[str], Path]:
    """Start a process that works in a folder; return it and the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert (folder / "kept").exists()
    return process, folder


def age(folder: Path) -> None:
    """Make the lock of a folder an hour old."""
    before = time.time() - 3600
    os.utime(folder / "campaign.lock", (before, before))


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_folder_is_removed_at_the_end(place: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == place
    assert list(place.iterdir()) == []


def test_a_folder_in_use_stays_and_goes_after_a_kill() -> None:
    process, folder = held()
    age(folder)
    remove_abandoned()
    assert (folder / "kept").exists()
    end(process)
    remove_abandoned()
    assert not folder.exists()


def test_a_young_folder_stays_because_it_may_be_about_to_be_locked() -> None:
    process, folder = held()
    end(process)
    remove_abandoned()
    assert folder.exists()


def test_what_is_not_a_campaigns_stays(place: Path) -> None:
    notes = place / "nvmxfuzz-notes"
    notes.mkdir()
    other = place / "other"
    other.mkdir()
    (other / "campaign.lock").touch()
    age(other)
    linked = place / "nvmxfuzz-linked"
    linked.mkdir()
    (linked / "campaign.lock").symlink_to(other / "campaign.lock")
    remove_abandoned()
    assert notes.exists()
    assert other.exists()
    assert linked.exists()


def test_a_link_to_another_folder_is_not_followed(place: Path) -> None:
    other = place / "other"
    other.mkdir()
    (other / "campaign.lock").touch()
    age(other)
    (place / "nvmxfuzz-link").symlink_to(other)
    remove_abandoned()
    assert (other / "campaign.lock").exists()


def test_a_campaign_removes_what_a_killed_one_left(place: Path) -> None:
    process, folder = held()
    end(process)
    age(folder)
    list(run_campaign(Plan((Job(SOUND, "random"),), seed=1, runs=5), lambda: None))
    assert list(place.iterdir()) == []


def test_no_place_for_temporary_files_is_one_sentence(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place / "nowhere"))
    with pytest.raises(InputError, match="name a place in TMPDIR"), scratch_folder():
        pass

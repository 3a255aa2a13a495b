# SPDX-License-Identifier: GPL-2.0-only
"""A short soak: it ends well, and comes to the same in two processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject

ROOT = Path(__file__).resolve().parents[3]
ENTRIES = "2000"


def soaked(kernel: str, hashes: str) -> str:
    """Return what a soak prints, without figures of speed and memory."""
    ended = subprocess.run(
        [sys.executable, ROOT / "ci/benches/kvm_soak.py", ENTRIES, "3", kernel],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hashes},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return re.sub(r"[\d,]+ (a second|KiB)|\d[\d,]* (after|at)", "", ended.stdout)


def test_two_processes_come_to_the_same(built: BuiltObject) -> None:
    first = soaked(built.kernel, "1")
    assert "2,000 entries" in first
    assert "outcomes: in L2" in first
    assert " 0 stops" in first
    assert first == soaked(built.kernel, "2")


MANY = """
import faulthandler, sys, time
from pathlib import Path
from nvmxfuzz.targets.kvm_native.library import Library

# Its stack for signal handlers is a small one.
faulthandler.enable()
many = [Library(Path(sys.argv[1])) for _ in range(12)]
for each in many:
    each.call("nvmx_open_kvm")
end = time.process_time() + 0.6
while time.process_time() < end:
    pass
"""


def test_the_timers_of_many_instances_may_tick_at_once(library_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", MANY, library_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")

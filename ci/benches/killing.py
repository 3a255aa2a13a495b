#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Kill a campaign and its workers at random, 200 times, and count what of its findings is lost.

Each finding is noted by the oracle that makes it, before anybody else knows of it. The campaign is
resumed after each kill of it. In the end every finding that was noted must be in the store.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from nvmxfuzz.campaign.last_input import LAST_INPUT
from nvmxfuzz.campaign.store import open_store

ROOT = Path(__file__).resolve().parents[2]
HARNESS = ROOT / "tests" / "campaign" / "harnesses" / "rare.py"
COMMAND = (sys.executable, "-m", "nvmxfuzz.cli", "fuzz")
WORKERS = 2
CAMPAIGN_OF = 4
"""One kill in so many is of the campaign, the others are of a worker."""

AT_ONCE_OF = 4
"""One kill in so many comes whatever the workers are at, the others when they have done some."""

MOST_INPUTS = 400
START_SECONDS = 120.0
END_SECONDS = 300.0


@dataclass(frozen=True)
class Outcome:
    """What came of it: kills of each kind, findings that were noted, and those that were lost."""

    workers: int
    campaigns: int
    noted: int
    lost: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.workers} kills of a worker, {self.campaigns} of the campaign: "
            f"{self.noted} findings, {len(self.lost)} lost"
        )


class Killing:
    """One campaign, as often as it takes."""

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        self._store = folder / "store.db"
        self._log = folder / "found.log"
        self._log.touch()
        self._said = folder / "stderr"
        self._rng = Random(seed)
        self._kills = kills
        self._engines = ("random", "atheris")
        self._begun = False

    def run(self) -> Outcome:
        """Kill as often as is asked for, then ask the campaign to end."""
        counts = {"worker": 0, "campaign": 0}
        process = self._start()
        while sum(counts.values()) < self._kills:
            self._let_work(process)
            if self._rng.randrange(CAMPAIGN_OF) == 0:
                process.kill()
                process.wait()
                counts["campaign"] += 1
                process = self._start()
            else:
                counts["worker"] += self._kill_worker(process)
        self._settle(process)
        return self._outcome(counts["worker"], counts["campaign"])

    def _let_work(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a worker has executed some inputs, or now and then for hardly anything."""
        time.sleep(self._rng.uniform(0.0, 0.5))
        if self._rng.randrange(AT_ONCE_OF):
            enough = self._rng.randrange(1, MOST_INPUTS)
            self._wait(lambda: self._number() >= enough, process)

    def _number(self) -> int:
        """Return how many inputs the worker that has come furthest has begun."""
        folder = self._store.with_name(f"{self._store.name}-run")
        numbers = [0]
        for path in folder.glob(f"worker-*/{LAST_INPUT}"):
            with suppress(FileNotFoundError):
                numbers.append(int.from_bytes(path.read_bytes()[:8], "little"))
        return max(numbers)

    def _start(self) -> subprocess.Popen[bytes]:
        what = ["--resume", str(self._store)]
        if not self._begun:
            engine = self._rng.choice(self._engines)
            what = [str(HARNESS), "--store", str(self._store), "--engine", engine]
            what += ["--workers", str(WORKERS), "--seed", "1", "--reruns", "1"]
        with self._said.open("wb") as said:
            process = subprocess.Popen(
                [*COMMAND, *what],
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=os.environ | {"FOUND_LOG": str(self._log), "PYTHONPATH": str(ROOT)},
            )
        self._wait(lambda: len(workers_of(process.pid)) == WORKERS, process)
        self._begun = True
        return process

    def _wait(self, ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                process.wait()
                raise AssertionError(f"it does not go on: {self._said.read_text('utf-8')}")
            time.sleep(0.02)

    def _kill_worker(self, process: subprocess.Popen[bytes]) -> bool:
        victims = workers_of(process.pid)
        if not victims:
            return False
        with suppress(ProcessLookupError):
            os.kill(self._rng.choice(victims), signal.SIGKILL)
            return True
        return False

    def _settle(self, process: subprocess.Popen[bytes]) -> None:
        """Let the workers run what was being executed when the last one was killed, then end."""
        before = self._executions()
        self._wait(lambda: self._executions() > before + 1000, process)
        # Ctrl-C may be ignored: a shell has its jobs in the background so.
        process.terminate()
        process.wait(END_SECONDS)

    def _executions(self) -> int:
        with open_store(self._store, create=False) as store:
            return store.campaign().executions

    def _outcome(self, workers: int, campaigns: int) -> Outcome:
        noted = dict.fromkeys(self._log.read_text("ascii").split())
        with open_store(self._store, create=False) as store:
            stored = {each.identity for each in store.findings()}
        lost = tuple(identity for identity in noted if identity not in stored)
        return Outcome(workers, campaigns, len(noted), lost)


def workers_of(pid: int) -> list[int]:
    """Return the worker processes of a campaign."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [child for child in map(int, children) if HARNESS.name in command_of(child)]


def command_of(pid: int) -> str:
    """Return the command line of a process, "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def main() -> int:
    """Kill, and tell what is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how often (200)")
    parser.add_argument("--seed", type=int, default=1, help="of when and whom (1)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = Killing(Path(folder), args.kills, args.seed).run()
    print(outcome)
    for identity in outcome.lost:
        print(f"  lost: {identity}")
    return 1 if outcome.lost else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: GPL-2.0-only
"""The inside of the process for triage: `python -m nvmxfuzz.campaign.second_look_child FD`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Final

from nvmxfuzz.campaign.second_look import Looked
from nvmxfuzz.campaign.store import WORKER_LIVES
from nvmxfuzz.errors import InputError
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.triage.fresh import Fresh
from nvmxfuzz.triage.job import Job, Limits
from nvmxfuzz.triage.work import triage_job

_PR_SET_PDEATHSIG: Final = 1
_NICE: Final = 5
"""The workers come first."""


def main() -> None:
    """Look into what comes in, until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.nice(_NICE)
    connection = Connection(int(sys.argv[1]))
    while True:
        asked = connection.recv()
        if asked is not None:
            job, limits = asked
            connection.send(look(job, limits, connection))


def look(job: Job, limits: Limits, connection: Connection) -> Looked:
    """Look into one finding; anything that comes in meanwhile is a wish that it ends."""
    try:
        result = triage_job(job, limits, stop=connection.poll)
        besides: tuple[Finding, ...] = ()
        if job.finding.oracle == WORKER_LIVES and result.runs and not result.same:
            with Fresh(job.setting, limits) as process:
                besides = process.examine(job.data).findings
    except InputError as error:
        return Looked(None, f"not run again: {error}")
    return Looked(result, besides=besides)


if __name__ == "__main__":
    try:
        main()
    except (EOFError, OSError):
        os._exit(0)  # the other side has hung up

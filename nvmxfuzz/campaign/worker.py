# SPDX-License-Identifier: GPL-2.0-only
"""The inside of a worker process: what `fuzz/NAME.py` does when it is run.

Started by a campaign it finds its settings in the environment and reports over a pipe. Started by
hand it is a plain Atheris target: arguments go to libFuzzer, and a finding is a crash.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
from pathlib import Path

from nvmxfuzz.campaign.engines import engine_named
from nvmxfuzz.campaign.events import Found, Kept, WorkerEvent, to_line
from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.inputs_folder import NAME
from nvmxfuzz.campaign.journal import Journal
from nvmxfuzz.campaign.last_input import LastInput
from nvmxfuzz.campaign.memory import bound_memory
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.campaign.session import Session
from nvmxfuzz.campaign.settings import Settings, settings_from

_PR_SET_PDEATHSIG = 1


def main(harness: Harness) -> None:
    """Run the harness as the environment says: for a campaign, or alone under Atheris."""
    settings = settings_from(os.environ)
    if settings is None:
        from nvmxfuzz.campaign.engines.atheris import fuzz_alone

        fuzz_alone(harness, sys.argv)
    else:
        work(harness, settings)


def work(harness: Harness, settings: Settings) -> None:
    """Do a worker's part of a campaign, then end the process with status 0."""
    _prepare()
    last_input = LastInput(Path(settings.last_input))
    journal = Journal(Path(settings.journal)) if settings.journal else None

    def send(event: WorkerEvent) -> None:
        line = to_line(event)
        if journal is not None and isinstance(event, Found | Kept):
            journal.write(line)
        _write(settings.events, line)

    # In this very process: a worker's death is a finding with its last input.
    steered = settings.engine == "atheris" and not settings.replay
    harness = with_target(harness, settings.target, isolated=False, covered=steered)
    # A witness that is a kernel has taken a GiB of addresses by now, which is not the cases' fault.
    bound_memory(settings.memory)
    session = Session(harness, settings, send, last_input)
    signal.signal(signal.SIGTERM, lambda *_: session.stop())
    if settings.replay:
        _replay(session)
    else:
        engine_named(settings.engine)(session)
    leave(session)


def leave(session: Session) -> None:
    """Report the end and end the process, also from within libFuzzer, which never returns."""
    session.end()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _prepare() -> None:
    """Leave Ctrl-C to the parent, and die with it; a core dump is of no use."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _write(events: int, line: bytes) -> None:
    try:
        while line:
            line = line[os.write(events, line) :]
    except BrokenPipeError:
        os._exit(0)  # nobody listens any more


def _replay(session: Session) -> None:
    for path in sorted(Path(session.settings.folder, NAME).iterdir()):
        session.execute(path.read_bytes())

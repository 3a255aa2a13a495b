# SPDX-License-Identifier: GPL-2.0-only
"""The inside of a process that examines cases for triage: `python -m nvmxfuzz.triage.child FD`.

It has run nothing before, and what it runs may kill it: see `fresh` for the other side.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from typing import Final

from nvmxfuzz.campaign.harness import WITNESS_ERRORS, error_finding
from nvmxfuzz.campaign.memory import bound_memory
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.triage.examiner import Answer, Examiner

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Set up what the other side asks for, then answer until it hangs up."""
    _prepare()
    connection = Connection(int(sys.argv[1]))
    setting, memory, known_too = connection.recv()
    try:
        examiner = Examiner(setting, known_too=known_too)
    except InputError as error:
        connection.send(error)
        return
    bound_memory(memory)
    connection.send(None)
    while True:
        runs, asked = connection.recv()
        try:
            connection.send(_answer(examiner, asked, runs=runs))
        except InputError as error:
            # A witness that is not usable here may tell only when it is first asked.
            connection.send(error)


def _answer(examiner: Examiner, asked: Case | bytes, *, runs: bool) -> Answer | Case:
    """Return what is seen of a case or an input, or the case alone where it is not to be run."""
    if isinstance(asked, bytes):
        try:
            asked = examiner.harness.decode(asked)
        except WITNESS_ERRORS as error:
            return Answer((error_finding(error, examiner.harness.name),))
    return examiner.examine(asked) if runs else asked


def _prepare() -> None:
    """Leave Ctrl-C to the other side, and die with it; a core dump is of no use."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    try:
        main()
    except (EOFError, OSError):
        # The other side has hung up.
        os._exit(0)

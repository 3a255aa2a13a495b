#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""VM entry without an oracle, and what a test asks for in the environment.

TROUBLE=kill|segv|raise|hang|slow|exit|swell does that on inputs with bit 3 of the VPID set,
"no feedback" hides libFuzzer's way in, "marked" raises an error for one TSC offset, "leak" keeps
memory for good.
"""

import os
import runpy
import signal
import time
from dataclasses import replace
from pathlib import Path

from nvmxfuzz.campaign import feedback
from nvmxfuzz.campaign.worker import main
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.machine.attempt import Attempt

FUZZ = Path(__file__).parents[3] / "fuzz"
TROUBLE = os.environ.get("TROUBLE")
MARK = int.from_bytes(b"marked")
LEAKED: list[bytes] = []


def troubled(attempt: Attempt) -> Judgement:
    """Judge an attempt, with trouble where the test wants it."""
    if TROUBLE == "marked":
        if attempt.vmcs.tsc_offset == MARK:
            raise ValueError("the input that nobody makes")
    elif TROUBLE == "leak":
        LEAKED.append(b"x" * (1 << 13))
    elif TROUBLE and attempt.vmcs.virtual_processor_id & 8:
        trouble(TROUBLE)
    return vm_entry(attempt)


def trouble(kind: str) -> None:
    """Do what a defect in native code would do."""
    match kind:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(3)
        case "raise":
            raise ValueError("bit 3 of the VPID is set")
        case "hang":
            time.sleep(1000)
        case "slow":
            time.sleep(2.5)
        case "swell":
            print(len(bytes(8 << 30)))


HARNESS = replace(runpy.run_path(str(FUZZ / "vm_entry.py"))["HARNESS"], run=troubled, oracles=())

if __name__ == "__main__":
    if TROUBLE == "no feedback":
        feedback._LIBFUZZER_MODULE = "nvmxfuzz.nowhere"
    main(HARNESS)

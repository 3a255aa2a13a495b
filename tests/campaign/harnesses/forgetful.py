#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""VM entry with a planted fault: a dry run forgets the checks on the host state."""

import runpy
from dataclasses import replace
from pathlib import Path

from nvmxfuzz.campaign.worker import main
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.machine.attempt import Attempt

FUZZ = Path(__file__).parents[3] / "fuzz"


def forgetful(attempt: Attempt) -> Judgement:
    """Judge an attempt; without bit 1 of RFLAGS no rule on the host state is ever broken."""
    judgement = vm_entry(attempt)
    if attempt.vmcs.guest_rflags & 2:
        return judgement
    kept = tuple(
        rule for rule in judgement.broken if not judgement.rules[rule].name.startswith("host.")
    )
    return replace(judgement, broken=kept)


HARNESS = replace(runpy.run_path(str(FUZZ / "vm_entry.py"))["HARNESS"], run=forgetful)

if __name__ == "__main__":
    main(HARNESS)

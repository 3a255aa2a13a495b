#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""VM entry with an oracle that fires in every other process, by the count in the file of FLAKY."""

import os
import runpy
from dataclasses import replace
from pathlib import Path

from nvmxfuzz.campaign.worker import main
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.vm_entry import VmEntryWitness

FUZZ = Path(__file__).parents[3] / "fuzz"
COUNT = Path(os.environ.get("FLAKY", os.devnull))
NUMBER = int(COUNT.read_text() or "0") + 1
COUNT.write_text(str(NUMBER))


def settled(_case: EntryCase, _run: VmEntryWitness) -> Finding | None:
    """Whatever runs, the number of the process is even."""
    return Finding("settled", (), ("cpu", "cpu"), "", "an odd process") if NUMBER % 2 else None


HARNESS = replace(
    runpy.run_path(str(FUZZ / "vm_entry.py"))["HARNESS"],
    oracles=(Oracle("settled", "a planted fault", settled),),
)

if __name__ == "__main__":
    main(HARNESS)

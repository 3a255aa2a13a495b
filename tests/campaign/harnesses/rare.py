#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""VM entry with an oracle that finds something else in every few hundred inputs.

Whatever a worker finds it notes first in the file that FOUND_LOG names, for whoever wants to know
what of it is stored after all kinds of kills. What triage sees, when it makes a case smaller, was
found by nobody.
"""

import os
import runpy
from dataclasses import replace
from pathlib import Path

from nvmxfuzz.campaign.settings import VARIABLE
from nvmxfuzz.campaign.worker import main
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle

FUZZ = Path(__file__).parents[3] / "fuzz"
LOG = os.environ.get("FOUND_LOG") if VARIABLE in os.environ else None
OF = 64


def rare(case: EntryCase, _run: object) -> Finding | None:
    """No VPID is of a kind that hardly any is."""
    vpid = case.attempt.vmcs.virtual_processor_id
    if vpid % OF != OF - 1:
        return None
    finding = Finding("planted.rare", (), ("cpu", "cpu"), f"{vpid // OF}", "a rare VPID")
    if LOG:
        with Path(LOG).open("a", encoding="ascii") as log:
            log.write(f"{finding.identity}\n")
    return finding


HARNESS = replace(
    runpy.run_path(str(FUZZ / "vm_entry.py"))["HARNESS"],
    oracles=(),
    always=(Oracle("planted.rare", "nowhere", rare),),
)

if __name__ == "__main__":
    main(HARNESS)

#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Capability MSRs of a vCPU: whatever userspace does with them, KVM keeps its promises."""

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.restore_sites import RESTORE_SITES, lived_case, restore_verdicts
from nvmxfuzz.campaign.worker import main
from nvmxfuzz.oracles.restore.case import CASE_ORACLES

HARNESS = Harness(
    name="capability_restore",
    kind="capability_restore",
    run=lived_case,
    arguments=lambda case: (case,),
    verdicts=restore_verdicts,
    points=RESTORE_SITES,
    noun="sites",
    oracles=CASE_ORACLES,
    # They cost about as much as a run.
    sample_of=64,
)

if __name__ == "__main__":
    main(HARNESS)

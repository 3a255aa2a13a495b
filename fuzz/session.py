#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Sessions: whatever L1, L2, SMM and userspace do in whatever order, KVM keeps its promises."""

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.session_sites import (
    SESSION_SITES,
    model_stage,
    played_on_model,
    session_verdicts,
)
from nvmxfuzz.campaign.worker import main
from nvmxfuzz.oracles.session.oracles import ALWAYS, OTHERS

HARNESS = Harness(
    name="session",
    kind="session",
    run=played_on_model,
    stage=model_stage,
    arguments=lambda case: (case,),
    verdicts=session_verdicts,
    points=SESSION_SITES,
    noun="sites",
    oracles=OTHERS,
    # They cost about twice as much as a run.
    sample_of=64,
    always=ALWAYS,
)

if __name__ == "__main__":
    main(HARNESS)

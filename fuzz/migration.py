#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Migrations: a VM goes from one KVM to another, which must take it, offer the same and enter."""

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.migration_sites import SITES, migration_verdicts
from nvmxfuzz.campaign.worker import main
from nvmxfuzz.oracles.migration.cases import migrate
from nvmxfuzz.oracles.migration.oracles import ORACLES

HARNESS = Harness(
    name="migration",
    kind="migration",
    run=migrate,
    arguments=lambda case: (case,),
    verdicts=migration_verdicts,
    points=SITES,
    noun="sites",
    oracles=(),
    # They look at what came of the run, and cost next to nothing.
    always=ORACLES,
)

if __name__ == "__main__":
    main(HARNESS)

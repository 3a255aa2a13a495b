#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Capability configs: KVM makes a config of a table of MSRs, which must keep what it promises."""

from nvmxfuzz.campaign.config_sites import SITES, setup_arguments, site_verdicts
from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.worker import main
from nvmxfuzz.kvm.hardware_setup import hardware_setup
from nvmxfuzz.oracles.config.capability_config import ORACLES

HARNESS = Harness(
    name="capability_config",
    kind="capability_config",
    run=hardware_setup,
    arguments=setup_arguments,
    verdicts=site_verdicts,
    points=SITES,
    noun="sites",
    oracles=(),
    # They cost less than making a config.
    always=ORACLES,
)

if __name__ == "__main__":
    main(HARNESS)

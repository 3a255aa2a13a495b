#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Nested VM entry: the rules judge an attempt, and what they say must hold together."""

from nvmxfuzz.campaign.harness import Harness
from nvmxfuzz.campaign.worker import main
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.oracles.vm_entry import ORACLES

HARNESS = Harness(
    name="vm_entry",
    kind="vm_entry",
    run=vm_entry,
    arguments=lambda case: (case.attempt,),
    verdicts=lambda _case, judgement: judgement,
    points=tuple(rule.name for rule in CHAPTER.rules),
    noun="rules",
    oracles=ORACLES,
)

if __name__ == "__main__":
    main(HARNESS)

# SPDX-License-Identifier: GPL-2.0-only
"""The harness for VM entry with a witness that has forgotten the TI flag of the host's selectors.

The rules do not contradict themselves by that: only another witness knows.
"""

from dataclasses import replace
from pathlib import Path

from nvmxfuzz.campaign.plan import load_harness
from nvmxfuzz.campaign.worker import main
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import CHAPTER, vm_entry
from nvmxfuzz.machine.attempt import Attempt

_FORGOTTEN = {
    index
    for name, index in CHAPTER.index.items()
    if name.startswith("host.") and name[-3:] == ".ti"
}


def forgetful(attempt: Attempt) -> Judgement:
    """Judge without the rules that are forgotten."""
    judgement = vm_entry(attempt)
    return replace(judgement, broken=tuple(i for i in judgement.broken if i not in _FORGOTTEN))


HARNESS = replace(
    load_harness(Path(__file__).parents[3] / "fuzz" / "vm_entry.py"),
    name="forgetful",
    run=forgetful,
)

if __name__ == "__main__":
    main(HARNESS)

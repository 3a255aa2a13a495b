#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Check that docs/raw-format.md lists the features of the vocabulary; with --write, write them."""

import sys
from collections.abc import Iterator
from pathlib import Path

from ci.pages import keep
from nvmxfuzz.arch import msr
from nvmxfuzz.arch.features import FEATURES
from nvmxfuzz.arch.vmx_msr import VmxBasic
from nvmxfuzz.machine.profile_check import implied

PAGE = Path(__file__).resolve().parents[2] / "docs" / "raw-format.md"
START = "<!-- generated: .venv/bin/python ci/checks/raw_format_page.py --write -->\n"
END = "<!-- end of what is generated -->\n"


def told_by_msrs() -> frozenset[str]:
    """Return the features that capability MSRs can give away."""
    ones = (1 << 64) - 1
    everything = dict.fromkeys((index for index, _ in msr.VMX_CAPABILITY_MSRS), ones)
    everything[msr.MSR_IA32_VMX_BASIC] = ones & ~VmxBasic.PHYSICAL_ADDRESSES_32_BIT
    return implied(everything)


def table() -> Iterator[str]:
    """Yield the lines of the table."""
    told = told_by_msrs()
    yield ""
    yield "| feature | meaning | source | without `features` |"
    yield "| --- | --- | --- | --- |"
    for feature in FEATURES:
        default = "from the MSRs" if feature.name in told else "not there"
        yield f"| `{feature.name}` | {feature.sentence} | {feature.source} | {default} |"
    yield ""


def main() -> int:
    """Compare or write the table; return the exit status."""
    before = PAGE.read_text()
    if before.count(START) != 1 or before.count(END) != 1:
        print(f"{PAGE}: the two lines are missing between which the features stand")
        return 1
    head, _, rest = before.partition(START)
    text = head + START + "\n".join(table()) + "\n" + END + rest.partition(END)[2]
    return keep({PAGE: text}, "raw_format_page.py")


if __name__ == "__main__":
    sys.exit(main())

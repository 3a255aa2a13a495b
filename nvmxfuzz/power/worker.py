# SPDX-License-Identifier: GPL-2.0-only
"""A worker with a fault in it: what the file that `harness_file_with` writes calls."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Final

from nvmxfuzz.power.change import Change, make
from nvmxfuzz.power.fault import Fault, fault_named
from nvmxfuzz.power.in_kernel import chosen
from nvmxfuzz.power.variant import Variant, variant_named

HARNESSES: Final = Path(__file__).parents[2] / "fuzz"


def harness_file_with(fault: Fault, variant: Variant, folder: Path) -> Path:
    """Write the file of a harness that has a fault in it, for a worker to run."""
    path = folder / "planted.py"
    path.write_text(
        "from nvmxfuzz.power.worker import main\n\n"
        'if __name__ == "__main__":\n'
        f"    main({fault.name!r}, {variant.name!r})\n"
    )
    return path


def main(fault_name: str, variant_name: str) -> None:
    """Plant a fault in this process, and do what `fuzz/HARNESS.py` does.

    This module imports nothing of what may be changed.
    """
    fault = fault_named(fault_name)
    for change in variant_named(variant_name).changes:
        make(change)
    if isinstance(fault.place, Change):
        make(fault.place)
    else:
        # The object is loaded later; it reads the environment as it is then.
        os.environ.update(chosen(fault))
    from nvmxfuzz.campaign.worker import main as work

    work(runpy.run_path(str(HARNESSES / f"{fault.harness}.py"))["HARNESS"])

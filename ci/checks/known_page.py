#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Check that the pages on known differences are what the entries generate; --write writes them."""

import sys
from collections.abc import Iterator
from pathlib import Path

from ci.pages import keep
from nvmxfuzz.cpu.rule import Failure
from nvmxfuzz.oracles.bochs import known as known_bochs
from nvmxfuzz.oracles.known import KnownDifference, KnownMistake
from nvmxfuzz.oracles.kvm import known as known_kvm
from nvmxfuzz.oracles.kvm import known_loop as known_kvm_loop
from nvmxfuzz.oracles.kvm import known_mistakes as known_kvm_mistakes
from nvmxfuzz.oracles.kvm.known_loop import KnownChange
from nvmxfuzz.oracles.kvm.tables import KvmDifference

DOCS = Path(__file__).resolve().parents[2] / "docs"
VECTORS = DOCS.parent / "corpus" / "known"

HEAD_OF_BOCHS = """# Known differences of Bochs

<!-- generated: .venv/bin/python ci/checks/known_page.py --write -->

Where Bochs (bochscpu-python 0.4.0) and the rules differ, and Bochs is wrong by the SDM or has less
than the SDM describes. Each entry covers exactly its condition: what it covers Bochs does
differently each time, and beside it Bochs does as the rules say. A difference that no entry covers
is a finding of the oracle `agreement.cpu-bochs`. KVM has [a page of its
own](known-differences-kvm.md).

An entry is a few lines in `nvmxfuzz/oracles/bochs/known.py`, its condition a function in
`known_where.py` there, and `corpus/known` has vectors that still show it. Tests fail when a vector
no longer does, when a neighbour of one differs otherwise, and when an entry could cover more
without being noticed.
"""

HEAD_OF_LOOP = """## Changed by a VM entry

What the oracles on the closed loop (`kvm-6.1+...`, `kvm-6.12+...`) accept as other than before,
after a VM entry: some by design, some by a mistake of KVM's, which then has a page. An entry is a
few lines in `nvmxfuzz/oracles/kvm/known_loop.py`. Tests fail when its vectors no longer show each
of its changes, and when its oracles do not fire without it.
"""

HEAD_OF_KVM = """# Known differences of KVM

<!-- generated: .venv/bin/python ci/checks/known_page.py --write -->

Where the real KVM (targets `kvm-6.1` and `kvm-6.12`) and the rules differ, on the processor that
KVM offers L1. Each entry covers exactly its condition: what it covers KVM does differently each
time, and beside it KVM does as the rules say. A difference that no entry covers is a finding of
`entry.no-missed-check`, `entry.no-overreach` or `entry.merged-enters`.

The first part is by design: KVM's software leaves the check to the processor that runs its merged
VMCS, vmcs02. Whether L1 then sees an outcome that the rules permit is looked at each time; where it
does not, that is a finding as well. The second part is what looks like a mistake of KVM's; [the
pages in findings](findings/README.md) tell more of each.

An entry is a few lines in `nvmxfuzz/oracles/kvm/known.py` or `known_mistakes.py`, its condition
a function in `known_where.py`, and `corpus/known` has vectors that still show it. Tests fail
when a vector no longer does, when a neighbour of one differs otherwise, and when an entry could
cover more without being noticed.
"""


def page_of_bochs() -> Iterator[str]:
    """Yield the lines of the page on Bochs."""
    yield from HEAD_OF_BOCHS.splitlines()
    yield ""
    yield f"{len(known_bochs.KNOWN)} entries."
    for entry in known_bochs.KNOWN:
        yield from beginning(entry)
        yield from consequence(entry)
        yield vectors(entry)


def page_of_kvm() -> Iterator[str]:
    """Yield the lines of the page on KVM."""
    yield from HEAD_OF_KVM.splitlines()
    for title, entries in (
        ("Left to the processor", known_kvm.BY_DESIGN),
        ("Mistakes", known_kvm_mistakes.MISTAKES),
    ):
        yield ""
        yield f"## {title}"
        yield ""
        yield f"{len(entries)} entries."
        for entry in entries:
            yield from beginning(entry, "###")
            yield f"Kernel: `{entry.function}`" + versions(entry) + "."
            yield from unchecked(entry)
            yield from end(entry)
            yield vectors(entry)

    yield ""
    yield from HEAD_OF_LOOP.splitlines()
    yield ""
    yield f"{len(known_kvm_loop.ENTRIES)} entries."
    for each in known_kvm_loop.ENTRIES:
        yield from change(each)


def change(entry: KnownChange) -> Iterator[str]:
    """Yield what a change is, why it is there, and who accepts it."""
    page = f" ([page](findings/{entry.page}.md))" if entry.page else ""
    yield ""
    yield f"### {entry.name}"
    yield ""
    yield entry.reason
    yield ""
    yield f"Kernel: `{entry.function}`{versions(entry)}{page}."
    yield "Changes: " + ", ".join(f"`{name}`" for name in sorted(entry.changes)) + "."
    yield "Accepted by: " + ", ".join(f"`{name}`" for name in entry.oracles) + "."
    yield vectors(entry)


def beginning(entry: KnownDifference | KnownMistake, mark: str = "##") -> Iterator[str]:
    """Yield the name of an entry, why it is there, and the section of the SDM."""
    yield ""
    yield f"{mark} {entry.name}"
    yield ""
    yield entry.reason
    yield ""
    yield f'SDM: "{entry.reference}".'


def unchecked(entry: KnownDifference) -> Iterator[str]:
    """Yield the rules that the target does not check."""
    if entry.unchecked:
        yield "Not checked: " + ", ".join(f"`{rule}`" for rule in entry.unchecked) + "."


def consequence(entry: KnownDifference | KnownMistake) -> Iterator[str]:
    """Yield what an entry of Bochs does to the rules."""
    if not isinstance(entry, KnownDifference):
        yield "Bochs does what the rules say of another state."
        return
    yield from unchecked(entry)
    if entry.failure:
        yield (
            f"Bochs ends entry with {entry.failure.outcome}."
            if not entry.view
            else ("Bochs ends entry at that MSR.")
        )


def end(entry: KvmDifference) -> Iterator[str]:
    """Yield what an entry of KVM comes to for L1, where that is not what the rules permit."""
    page = f" ([page](findings/{entry.page}.md))" if entry.page else ""
    if entry.failure:
        yield f"KVM ends entry with {entry.failure.outcome}{page}."
    elif isinstance(entry.later, Failure):
        yield f"The processor ends entry with {entry.later.outcome}{page}."
    elif entry.later == "nobody":
        yield f"Nobody checks it: L2 runs{page}."


def versions(entry: KvmDifference | KnownChange) -> str:
    """Return the kernels that an entry is about, if not all."""
    return f", only in {', '.join(entry.kernels)}" if entry.kernels else ""


def vectors(entry: KnownDifference | KnownMistake | KnownChange) -> str:
    """Return the line that names the vectors of an entry."""
    paths = sorted((VECTORS / entry.name).glob("*.toml"))
    return "Vectors: " + ", ".join(f"`{path.stem}`" for path in paths) + "."


PAGES = {
    DOCS / "known-differences.md": page_of_bochs,
    DOCS / "known-differences-kvm.md": page_of_kvm,
}


def main() -> int:
    """Compare or write the pages; return the exit status."""
    texts = {path: "\n".join(lines()) + "\n" for path, lines in PAGES.items()}
    return keep(texts, "known_page.py")


if __name__ == "__main__":
    sys.exit(main())

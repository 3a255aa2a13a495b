# SPDX-License-Identifier: GPL-2.0-only
"""Faults in a source in C: each has its place, and all of them fit into one text."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.planting import Planted, Planting, Way, planted

SOURCE = """
#define CC(x) (x)
struct vmcs { int cr3; int cr4; };
struct vcpu { struct vmcs *vmcs; int limit; int count; };

/* int door(struct vcpu *vcpu) { if (CC(vcpu->limit)) return 9; } */
static int check(struct vcpu *vcpu, struct vmcs *vmcs)
{
\tint cr3 = vmcs->cr3;	/* "cr4" */

\tif (CC(cr3 > vcpu->limit) ||
\t    CC(vmcs->cr4 & 1))
\t\treturn -1;

\tif (vcpu->count)
\t\tvcpu->count++;
\telse
\t\tvcpu->limit = vmcs->cr4;
\treturn vcpu->count ? 1 : 0;
}
"""

MAIN = """
#include <stdio.h>
#include <stdlib.h>
int nvmx_planted = 0;
%s
int main(int argc, char **argv)
{
\tstruct vmcs vmcs = { atoi(argv[2]), atoi(argv[3]) };
\tstruct vcpu vcpu = { &vmcs, 5, atoi(argv[4]) };

\tnvmx_planted = atoi(argv[1]);
\tint result = check(&vcpu, &vmcs);

\tprintf("%%d %%d %%d", result, vcpu.limit, vcpu.count);
\treturn argc != 5;
}
"""


def fault(number: int, way: Way, mentions: tuple[str, ...], becomes: str, nth: int = 0) -> Planted:
    return Planted(number, f"fault {number}", "a.c", "check", way, mentions, becomes, nth)


FAULTS = (
    fault(1, "check", ("cr3", "limit"), "0"),
    fault(2, "check", ("cr4",), "vmcs->cr4 & 2"),
    fault(3, "condition", ("cr3",), "0"),
    fault(4, "condition", ("count",), "!({})"),
    fault(5, "statement", ("limit",), "vcpu->limit = 7"),
    fault(6, "value", ("count",), "3"),
    fault(7, "value", ("cr3",), "0"),
    fault(8, "check", ("cr3", "limit"), "cr3 >= vcpu->limit"),
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    text = MAIN % planted(SOURCE, FAULTS).replace("extern int", "extern int")
    (folder / "a.c").write_text(text)
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", "a", "a.c"], cwd=folder, check=True)
    return folder / "a"


@pytest.mark.parametrize(
    ("given", "came_of_it"),
    [
        ((0, 6, 0, 0), "-1 5 0"),
        ((1, 6, 0, 0), "0 0 0"),
        ((0, 5, 0, 0), "0 0 0"),
        ((8, 5, 0, 0), "-1 5 0"),
        ((0, 0, 1, 0), "-1 5 0"),
        ((2, 0, 1, 0), "0 1 0"),
        ((3, 6, 1, 0), "0 1 0"),
        ((0, 0, 0, 1), "1 5 2"),
        ((4, 0, 4, 1), "1 4 1"),
        ((5, 0, 4, 0), "0 7 0"),
        ((6, 0, 4, 1), "3 5 2"),
        ((7, 6, 4, 1), "1 5 2"),
    ],
)
def test_the_fault_that_is_chosen_is_there(
    program: Path, given: tuple[int, int, int, int], came_of_it: str
) -> None:
    """Given are the fault's number, CR3, CR4 and the count."""
    words = [str(program), *map(str, given)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == came_of_it


def test_lines_stay_where_they_are() -> None:
    assert planted(SOURCE, FAULTS).count("\n") == SOURCE.count("\n") + 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (fault(1, "check", ("cr5",), "0"), "has 0 check"),
        (fault(1, "check", ("cr4",), "0", nth=1), "has 1 check"),
        (Planted(1, "x", "a.c", "door", "check", (), "0"), "defines no door"),
    ],
)
def test_a_fault_without_a_place_is_an_error(wrong: Planted, said: str) -> None:
    with pytest.raises(InputError, match=said):
        planted(SOURCE, [wrong])


def test_a_link_becomes_a_copy_with_the_fault(tmp_path: Path) -> None:
    kernel, work, runtime = tmp_path / "kernel.c", tmp_path / "work", tmp_path / "planted.c"
    kernel.write_text(SOURCE)
    runtime.write_text("")
    work.mkdir()
    (work / "a.c").symlink_to(kernel)
    Planting(FAULTS, runtime).plant(work)
    assert kernel.read_text() == SOURCE
    assert (work / "a.c").read_text() == planted(SOURCE, FAULTS)


def test_a_kernel_without_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks"):
        Planting(FAULTS, tmp_path / "planted.c").plant(tmp_path)


def test_other_faults_are_another_object(tmp_path: Path) -> None:
    runtime = tmp_path / "planted.c"
    runtime.write_text("")
    assert Planting(FAULTS, runtime).digest != Planting(FAULTS[:-1], runtime).digest

# SPDX-License-Identifier: GPL-2.0-only
"""The ctypes of the binding against the header of the shim, read as text."""

from __future__ import annotations

import ctypes
import re
from importlib import resources

import pytest

from nvmxfuzz.targets.kvm_native import native

HEADER = (resources.files("nvmxfuzz.targets.kvm_native") / "shim/nvmx.h").read_text()
SIZES = {"nvmx_u64": 8, "nvmx_s64": 8, "nvmx_u32": 4, "nvmx_s32": 4, "char": 1}
SIZES |= {"nvmx_u16": 2, "nvmx_u8": 1, "nvmx_port": 8, "nvmx_enter": 8, "nvmx_forget": 8}
STRUCTURES = {
    "site": native.Site,
    "result": native.Result,
    "msr": native.Msr,
    "cpuid": native.Cpuid,
    "entry": native.Entry,
    "write": native.Write,
    "action": native.Action,
    "seen": native.Seen,
    "place": native.Place,
    "function": native.Function,
    "around": native.Around,
    "below": native.Below,
    "config": native.Config,
    "verdict": native.Verdict,
    "l1": native.L1,
    "ran": native.Ran,
    "loop": native.Loop,
    "field": native.Field,
    "edit": native.Edit,
    "outcome": native.Outcome,
    "told": native.Told,
    "known": native.Known,
    "piece": native.Piece,
    "burst": native.Burst,
}
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def constants() -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"#define (\w+) (\d+)\n", HEADER)}


def declared_members(structure: str) -> list[tuple[str, int]]:
    """Return (name, size) of each member of a structure of the header."""
    match = re.search(rf"struct nvmx_{structure} \{{(.*?)\n?\}};", HEADER, re.DOTALL)
    assert match, structure
    members = []
    for line in COMMENT.sub("", match[1]).split(";"):
        words = re.match(r"\s*(?:const )?(struct )?(\w+)\s+(.*)", line, re.DOTALL)
        if words is None:
            continue
        size = (
            ctypes.sizeof(STRUCTURES[words[2].removeprefix("nvmx_")])
            if words[1] and not words[3].startswith("*")
            else SIZES.get(words[2], 0)
        )
        for declared in words[3].split(","):
            name = declared.strip().lstrip("*")
            length = 8 if declared.strip().startswith("*") else size
            for count in re.findall(r"\[(\w+)\]", name):
                length *= constants().get(count) or int(count)
            members.append((name.partition("[")[0], length))
    return members


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_structure_has_the_members_of_the_header(structure: str) -> None:
    made = STRUCTURES[structure]
    assert [
        (field[0], getattr(made, field[0]).size) for field in made._fields_
    ] == declared_members(structure)


def functions() -> dict[str, tuple[str, bool]]:
    """Return (arguments, whether it is marked as guarded) of the functions of the header."""
    found = {}
    text = HEADER[HEADER.index("nvmx_install_signal_handlers") - 20 :]
    pattern = re.compile(
        r"((?:/\*(?:(?!\*/).)*\*/\s*)?)NVMX_API\s+[^;(]*?\*?(nvmx_\w+)\(([^)]*)\);([^\n]*)",
        re.DOTALL,
    )
    for before, name, arguments, behind in pattern.findall(text):
        found[name] = (arguments, "[guarded]" in before + behind)
    return found


def declared_count(arguments: str) -> int:
    return 0 if arguments.strip() == "void" else arguments.count(",") + 1


def test_every_function_of_the_header_has_a_prototype() -> None:
    assert set(functions()) - {"nvmx_call"} == set(native.PROTOTYPES) | set(native.GUARDED)
    assert not set(native.PROTOTYPES) & set(native.GUARDED)


def test_the_prototypes_have_as_many_arguments_as_in_the_header() -> None:
    for name, (_, arguments) in {**native.PROTOTYPES, **native.GUARDED}.items():
        assert len(arguments) == declared_count(functions()[name][0]), name


def test_what_the_header_marks_as_guarded_is_guarded() -> None:
    marked = {name for name, (_, guarded) in functions().items() if guarded}
    assert marked <= set(native.GUARDED)
    # One comment stands above several functions.
    assert set(native.GUARDED) - marked <= {
        "nvmx_check_address_space_size",
        "nvmx_check_host_state",
        "nvmx_check_guest_state",
        "nvmx_check",
        "nvmx_check_batch",
    }


def test_the_statuses_have_the_numbers_of_the_header() -> None:
    statuses = HEADER[HEADER.index("enum nvmx_status {") : HEADER.index("#define NVMX_SITES")]
    numbers = {
        name.lower(): int(number) for name, number in re.findall(r"\tNVMX_(\w+) = (\d+),", statuses)
    }
    assert {name: number for number, name in enumerate(native.STATUS_NAMES)} == numbers
    assert native.STATUS_NAMES[native.RETURNED] == "returned"
    for name in ("SITES", "LINES", "LINE"):
        assert constants()[f"NVMX_{name}"] == getattr(native, name)

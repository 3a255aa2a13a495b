# SPDX-License-Identifier: GPL-2.0-only
"""Stubs: which names need one, of what kind, and that the assembler takes them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from nvmxfuzz.targets.kvm_native.build.recipe import load_recipe
from nvmxfuzz.targets.kvm_native.build.stubs import (
    Unresolved,
    called_names,
    defined_names,
    stub_source,
    undefined_names,
    unresolved,
)

UNDEFINED = """
                 U schedule
                 U jiffies
                 w perhaps
"""
DEFINED = """
0000000000000010 T nvmx_insmod
0000000000000020 0000000000000008 B shim_counter
"""
RELOCATIONS = """
Relocation section '.rela.text' at offset 0x40 contains 2 entries:
    Offset             Info             Type               Symbol's Value  Symbol's Name + Addend
0000000000000007  0000000500000004 R_X86_64_PLT32         0000000000000000 schedule - 4
000000000000000f  0000000600000002 R_X86_64_PC32          0000000000000000 jiffies - 4
0000000000000017  0000000700000002 R_X86_64_PC32          0000000000000000 schedule - 4
0000000000000020  0000000000000008 R_X86_64_RELATIVE                         10
"""


def test_a_weak_name_that_nobody_defines_stays_0() -> None:
    assert undefined_names(UNDEFINED) == {"schedule", "jiffies"}


def test_defined_names_are_those_with_an_address() -> None:
    assert defined_names(DEFINED + UNDEFINED) >= {"nvmx_insmod"}
    assert "schedule" not in defined_names(DEFINED + UNDEFINED)


def test_what_is_called_once_is_a_function_also_where_its_address_is_taken() -> None:
    called = called_names(RELOCATIONS)
    assert called == {"schedule"}
    found = unresolved({"schedule", "jiffies"}, called, load_recipe())
    assert found == Unresolved(("schedule",), ("jiffies",))


def test_names_of_the_tools_get_no_stub_and_the_recipe_knows_functions() -> None:
    recipe = load_recipe()
    missing = {"__gcov_init", "__start___sancov_cntrs", "_GLOBAL_OFFSET_TABLE_", "noop_llseek"}
    assert unresolved(missing, set(), recipe) == Unresolved(("noop_llseek",), ())


def test_the_order_of_names_does_not_depend_on_that_of_a_set() -> None:
    names = {f"name_{number}" for number in range(50)}
    found = unresolved(names, names, load_recipe())
    assert list(found.functions) == sorted(names)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc: apt-get install gcc")
def test_the_stubs_define_every_name_and_the_table_of_data(tmp_path: Path) -> None:
    names = Unresolved(("schedule", "yield_to"), ("jiffies",))
    source, target = tmp_path / "stubs.S", tmp_path / "stubs.o"
    source.write_text(stub_source(names))
    subprocess.run(["gcc", "-c", source, "-o", target], check=True)
    listing = subprocess.run(["nm", target], capture_output=True, text=True, check=True).stdout
    defined = {"schedule", "yield_to", "jiffies", "shim_data_stubs", "shim_n_data_stubs"}
    assert defined_names(listing) >= defined
    assert undefined_names(listing) == {"shim_unresolved"}

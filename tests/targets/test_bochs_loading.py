# SPDX-License-Identifier: GPL-2.0-only
"""The wheel: found, known, loaded without a trace, patched."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.bochs import patches, target, wheel
from nvmxfuzz.targets.bochs.capabilities import reported
from nvmxfuzz.targets.bochs.cpu import Cpu
from nvmxfuzz.targets.bochs.loading import Library, renamed
from nvmxfuzz.targets.bochs.models import MODELS
from nvmxfuzz.targets.bochs.native import RETURNED


@pytest.fixture(scope="module")
def known() -> wheel.Wheel:
    if wheel.usable():
        pytest.skip(wheel.usable())
    return wheel.installed()


def test_an_unknown_build_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "_bochscpu.abi3.so"
    path.write_bytes(b"\x7fELF of another day")
    with pytest.raises(InputError, match=r"does not know this build .*pip install"):
        wheel.read(path)


def test_a_missing_wheel_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "find_spec", lambda _name: None)
    wheel.installed.cache_clear()
    try:
        assert re.search("is missing; install it with: pip install bochscpu", wheel.usable())
    finally:
        wheel.installed.cache_clear()


def test_another_computer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    wheel.installed.cache_clear()
    try:
        assert "runs on Linux on x86-64 only" in wheel.usable()
    finally:
        wheel.installed.cache_clear()


def test_loading_leaves_no_file(
    known: wheel.Wheel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A folder of its own: others put files where the system has them.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "mkdtemp", None)
    monkeypatch.setattr(tempfile, "mkstemp", None)
    before = set(Path(tempfile.gettempdir()).iterdir()), set(known.path.parent.iterdir())
    Library(known)
    after = set(Path(tempfile.gettempdir()).iterdir()), set(known.path.parent.iterdir())
    assert after == before


def test_the_copy_asks_for_no_new_function(known: wheel.Wheel) -> None:
    copy = renamed(known.data, Library(known).elf)
    changed = [at for at, (old, new) in enumerate(zip(known.data, copy, strict=True)) if old != new]
    assert 0 < len(changed) <= 8
    names = Library(replace(known, data=copy)).elf.symbols
    assert not any(name.startswith("__isoc23_") for name in names)
    assert {"strtoull", "sscanf"} <= set(names)


def test_each_patch_has_a_call_to_patch(known: wheel.Wheel) -> None:
    names = {*patches.CONTAINED, *patches.FAST, *patches.COMPLETE}
    assert set(Library(known).elf.slots(names)) == names


def test_each_leaving_patch_has_a_kind_of_its_own() -> None:
    tables = {**patches.CONTAINED, **patches.FAST}, {**patches.CONTAINED, **patches.COMPLETE}
    for table in tables:
        for symbol, action in table.items():
            assert not action.startswith("leave") or patches.ENDS[symbol] != RETURNED


@pytest.mark.parametrize("model", MODELS)
def test_the_profile_of_a_model_is_what_rdmsr_reads(model: str, known: wheel.Wheel) -> None:
    cpu = Cpu(known, MODELS[model], patches.FAST)
    assert reported(cpu) == load_profile(model).msrs


def test_copies_do_not_share_a_cpu(known: wheel.Wheel) -> None:
    one, two = (Cpu(known, MODELS["haswell"], patches.FAST) for _ in range(2))
    one.write(one.offsets.in_vmx, 1, 1)
    assert two.read(two.offsets.in_vmx, 1) == 0
    assert one.address != two.address


def test_an_assertion_in_bochs_ends_the_call_only(known: wheel.Wheel) -> None:
    cpu = Cpu(known, MODELS["haswell"], patches.FAST)
    # What VMXON asks, and the wheel has no answer to.
    cpu.native.call(cpu.library.address("_ZN14bx_pc_system_c14get_enable_a20Ev"))
    assert cpu.native.end().kind == patches.ASSERTED
    assert cpu.rdmsr(0x480) == load_profile("haswell").msrs[0x480]


def test_wrong_offsets_are_noticed(known: wheel.Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = replace(known.offsets, vmlaunch_opcode=known.offsets.vmlaunch_opcode + 7)
    monkeypatch.setattr(target, "installed", lambda: replace(known, offsets=offsets))
    with pytest.raises(InputError, match="does not work on this computer"):
        target.fast_engine.__wrapped__("haswell")

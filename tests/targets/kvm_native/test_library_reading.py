# SPDX-License-Identifier: GPL-2.0-only
"""Results, symbols and parameters without an object: on structures made here."""

from __future__ import annotations

import ctypes
import pickle
from pathlib import Path

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native import native
from nvmxfuzz.targets.kvm_native.parameters import Parameter, Parameters
from nvmxfuzz.targets.kvm_native.reading import ResultReader, kernel_path
from nvmxfuzz.targets.kvm_native.results import CallResult, Check, Stopped, Warn
from nvmxfuzz.targets.kvm_native.symbols import Symbols

NM = """\
                 U abort
0000000000001000 T nvmx_call
0000000000001040 t nested_vmx_run
0000000000001040 t its_alias
0000000000001100 0000000000000020 t with_size
0000000000002000 d kvm_nested
"""


@pytest.fixture
def symbols(tmp_path: Path) -> Symbols:
    path = tmp_path / "symbols"
    path.write_text(NM)
    return Symbols(path, range(0x800, 0x4000))


@pytest.mark.parametrize(
    ("offset", "place"),
    [
        (0x1000, "nvmx_call+0x0"),
        (0x103F, "nvmx_call+0x3f"),
        (0x1050, "nested_vmx_run+0x10"),
        (0x2004, "with_size+0xf04"),
        (0xFFF, "?"),
        (0, "?"),
        (0x4000, "?"),
        (1 << 64, "?"),
    ],
)
def test_a_place_is_a_function_and_an_offset(symbols: Symbols, offset: int, place: str) -> None:
    assert symbols.place(offset) == place


def test_without_symbols_no_place_is_known() -> None:
    assert Symbols(None, range(0x4000)).place(0x1000) == "?"


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("/home/x/linux-6.12/arch/x86/kvm/vmx/nested.c", "arch/x86/kvm/vmx/nested.c"),
        ("arch/x86/kvm/x86.c", "arch/x86/kvm/x86.c"),
        ("../arch/x86/include/asm/fpu.h", "arch/x86/include/asm/fpu.h"),
        ("/lib/src/virt/kvm/kvm_main.c", "virt/kvm/kvm_main.c"),
        ("/arch/x86/other/arch/x86/kvm/x86.c", "arch/x86/kvm/x86.c"),
        ("/tmp/farm/nested.c", "nested.c"),
        ("nested.c", "nested.c"),
    ],
)
def test_paths_start_at_the_top_of_the_kernel_tree(file: str, path: str) -> None:
    assert kernel_path(file) == path


def address(text: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(text)


def test_all_of_a_result_is_read(symbols: Symbols) -> None:
    file = ctypes.create_string_buffer(b"/x/arch/x86/kvm/vmx/nested.c")
    condition, function = (ctypes.create_string_buffer(text) for text in (b"a > b", b"check_it"))
    raw = native.Result(
        value=0xFFFF_FFEA, steps=7, warnings=1, checks=9, lines=1, unknown_msrs=2, unknown_msr=0x3A
    )
    raw.warning[0] = native.Site(0, address(file), 12, 0)
    for index in range(native.SITES):
        raw.check[index] = native.Site(address(condition), address(function), 0, index)
    raw.log[0].value = b"kvm: a line"
    reader = ResultReader(raw, symbols)
    assert reader.result() == CallResult(
        value=-22,
        status="returned",
        warnings=(Warn("arch/x86/kvm/vmx/nested.c", 12),),
        checks=tuple(Check("a > b", "check_it", code) for code in range(native.SITES)),
        log=("kvm: a line",),
        warning_count=1,
        check_count=9,
        line_count=1,
        unknown_msrs=2,
        first_unknown_msr=0x3A,
        steps=7,
    )
    assert reader.first_check() == Check("a > b", "check_it", 0)
    counts = [reader.words[at] for at in (reader.STATUS, reader.STEPS, reader.WARNINGS)]
    assert counts == [0, 7, 1]
    assert [reader.words[at] for at in (reader.CHECKS, reader.UNKNOWN_MSRS)] == [9, 2]
    raw.checks = 0
    assert reader.first_check() is None


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"value": -5}, "returned -5"),
        (
            {"status": 1, "message": b"/x/arch/x86/kvm/x86.c:77"},
            "BUG at arch/x86/kvm/x86.c:77",
        ),
        ({"status": 1, "message": b"VMREAD without a VMCS"}, "BUG: VMREAD without a VMCS"),
        ({"status": 2, "message": b"schedule"}, "schedule is called, which nothing defines"),
        (
            {"status": 3, "signal": 11, "fault_address": 0x18, "fault_offset": 0x1044},
            "SIGSEGV in nested_vmx_run+0x4, called from ?, for address 0x18",
        ),
        (
            {"status": 3, "signal": 11, "fault_offset": 0x1044},
            "SIGSEGV in nested_vmx_run+0x4, called from ?, "
            "for address 0 or one that is not canonical",
        ),
        (
            {"status": 3, "signal": 99, "fault_address": 1 << 47, "caller_offset": 0x1001},
            "signal 99 in ?, called from nvmx_call+0x1",
        ),
        ({"status": 4, "steps": 100}, "no end after 100 steps"),
        (
            {"status": 5, "message": b"no end within 10 seconds"},
            "no end within the time limit",
        ),
        ({"status": 6, "message": b"overrun of 64 bytes"}, "heap damage: overrun of 64 bytes"),
        (
            {"status": 7, "message": b"no memory for 4 pages"},
            "out of memory: no memory for 4 pages",
        ),
        ({"status": 8, "message": b"no port at entry 0"}, "hardware port: no port at entry 0"),
    ],
)
def test_each_end_has_its_sentence(
    symbols: Symbols, members: dict[str, int], sentence: str
) -> None:
    result = ResultReader(native.Result(**members), symbols).result()
    assert result.sentence() == sentence
    again = pickle.loads(pickle.dumps(Stopped(result)))
    assert (again.result, str(again)) == (result, sentence)


@pytest.fixture
def cells() -> dict[str, ctypes.c_uint8 | ctypes.c_int32 | ctypes.c_uint32]:
    return {"ept": ctypes.c_uint8(1), "halt": ctypes.c_int32(-1), "grow": ctypes.c_uint32(2)}


def parameters(
    cells: dict[str, ctypes.c_uint8 | ctypes.c_int32 | ctypes.c_uint32],
) -> Parameters:
    made = {
        name: Parameter(name, ctypes.addressof(cell), kind)
        for kind, (name, cell) in enumerate(cells.items(), 1)
    }
    return Parameters({**made, "text": Parameter("text", 0, 4)})


def test_parameters_are_the_variables_themselves(
    cells: dict[str, ctypes.c_uint8 | ctypes.c_int32 | ctypes.c_uint32],
) -> None:
    all_of_them = parameters(cells)
    assert {name: one.value for name, one in all_of_them.items() if one.settable} == {
        "ept": 1,
        "halt": -1,
        "grow": 2,
    }
    assert [one.is_bool for one in all_of_them.values()] == [True, False, False, False]
    for name, value in {"ept": 0, "halt": -7, "grow": 0xFFFF_FFFF}.items():
        all_of_them[name] = value
    assert [cell.value for cell in cells.values()] == [0, -7, 0xFFFF_FFFF]
    assert "ept" in all_of_them
    assert "epp" not in all_of_them
    assert len(all_of_them) == 4


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ept", 2, "parameter ept cannot be 2: it is between 0 and 1"),
        ("halt", 1 << 31, "parameter halt cannot be 2147483648"),
        ("grow", -1, "parameter grow cannot be -1"),
        ("epp", 1, "no parameter 'epp': choose among ept, grow, halt, text"),
        ("text", 1, "parameter text is neither a bool nor an int"),
    ],
)
def test_bad_parameters_are_told(
    cells: dict[str, ctypes.c_uint8 | ctypes.c_int32 | ctypes.c_uint32],
    name: str,
    value: int,
    said: str,
) -> None:
    with pytest.raises(InputError, match=said):
        parameters(cells)[name] = value
    assert [cell.value for cell in cells.values()] == [1, -1, 2]

# SPDX-License-Identifier: GPL-2.0-only
"""Exported programs: they compile against the frameworks, and set up the case and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from nvmxfuzz.arch.fields import FIELD_BY_ENCODING, FIELD_BY_NAME
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_case, load_vector
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.targets.kvm_native.build.source import package_source
from nvmxfuzz.triage.export.as_c import to_c
from nvmxfuzz.triage.export.as_pytest import to_pytest
from nvmxfuzz.triage.export.writes import writes_of

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "corpus" / "vectors"
STUB = Path(__file__).parent / "stub"
SPARE_PAGE = 0x5A5A_5000
CASES = (
    "guest-rip-rflags/guest.rflags.reserved/broken",
    "guest-registers/guest.efer.lma/broken",
    "guest-registers/guest.cr0.pe/broken",
    "guest-segments/guest.ss.v8086-base/broken",
    "guest-pdptes/pdpte.vmcs.entry-2/broken",
    "guest-non-register/guest.activity.hlt-dpl/held",
    "execution-controls/execution.io-bitmap-a.aligned/broken",
    "entry-controls/entry.event.nmi-vector/broken",
    "host-registers/host.cr4.must-be-0/broken",
    "exit-controls/exit.msr-store.width/broken",
)
HEADERS = (
    "tools/include/",
    "tools/arch/x86/include/",
    "tools/testing/selftests/kvm/include/",
    "tools/testing/selftests/kselftest.h",
    "tools/testing/selftests/rseq/",
    "include/uapi/linux/kvm.h",
    "arch/x86/include/uapi/asm/kvm.h",
)


def case_of(name: str) -> EntryCase:
    path = VECTORS / f"{name}.toml"
    case = load_case(path.read_bytes(), str(path))
    assert isinstance(case, EntryCase)
    return case


needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")


# ---------------------------------------------------------------------- kvm-unit-tests


def entered(
    source: str, symbol: str, case: EntryCase, outcome: Outcome, folder: Path
) -> tuple[dict[str, int], str]:
    """Run an exported test on the stub; return the VMCS of the last VM entry, and the verdict."""
    code, program = folder / "test.c", folder / "test"
    code.write_text(
        f'#include "vmx.h"\n{source}\nstatic void TEST_UNDER_TEST(void)\n{{ {symbol}_test(); }}\n'
    )
    command = (
        "gcc",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-Werror",
        "-O1",
        f"-I{STUB}",
        str(code),
        "-o",
        str(program),
    )
    subprocess.run(command, check=True, capture_output=True, text=True)
    start = base("guest-64", case.profile).vmcs.items()
    lines = "".join(
        f"{FIELD_BY_NAME[name].encoding:x} {value:x}\n" for name, value in start.items()
    )
    is_exit = outcome.kind == "exit"
    words = (
        int(outcome.kind.startswith("fail")),
        outcome.number if outcome.kind == "fail-valid" else 0,
        (1 << 31 | outcome.number) if is_exit else 18,
        outcome.qualification,
    )
    done = subprocess.run(
        [program, *map(str, words)], input=lines, check=True, capture_output=True, text=True
    )
    last = done.stdout.rpartition("entry ")[2]
    found = re.findall(r"^(0x[0-9a-f]+) (0x[0-9a-f]+)$", last, re.MULTILINE)
    fields = {FIELD_BY_ENCODING[int(field, 16)].name: int(value, 16) for field, value in found}
    return fields, done.stdout.strip().splitlines()[-1].partition(":")[0]


@needs_gcc
@pytest.mark.parametrize("name", CASES)
def test_the_unit_test_enters_with_the_case_and_accepts_what_is_permitted(
    name: str, tmp_path: Path
) -> None:
    case = case_of(name)
    source = to_c(case, "kvm-unit-test", "a finding")
    permitted = vm_entry(case.attempt).permitted
    spare = {write.field.name for write in writes_of(case) if write.in_spare_page}
    expected = {
        field: SPARE_PAGE | value & 0xFFF if field in spare else value
        for field, value in case.attempt.vmcs.items().items()
        if value and FIELD_BY_NAME[field].type != "exit-info"
    }
    fields, verdict = entered(source, "a_finding", case, permitted[0], tmp_path)
    assert {name: fields[name] for name in expected} == expected
    assert fields.keys() <= expected.keys() | {"vm_instruction_error", "exit_qualification"}
    assert verdict == "PASS"
    planted = Outcome("exit", 33, 77)
    assert planted not in permitted
    assert entered(source, "a_finding", case, planted, tmp_path)[1] == "FAIL"


# ---------------------------------------------------------------------- selftests


@cache
def headers(kernel: str) -> Path:
    """Return the headers of a kernel's selftests, out of its source package; kept in the cache."""
    try:
        source = package_source(kernel)
    except InputError as error:
        if kernel in os.environ.get("NVMXFUZZ_REQUIRE_KVM", "").split(","):
            pytest.fail(f"required by NVMXFUZZ_REQUIRE_KVM: {error}")
        pytest.skip(str(error))
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache_home / "nvmxfuzz" / "selftests" / source.key
    if not place.is_dir():
        part = place.with_name(f"{place.name}.{os.getpid()}")
        part.mkdir(parents=True)
        inside = [f"*/{name.removesuffix('/')}" for name in HEADERS]
        command = ("tar", "-xf", str(source.path), "-C", str(part), "--strip-components=1")
        subprocess.run([*command, "--wildcards", *inside], check=True)
        for header in ("include/uapi/linux/kvm.h", "arch/x86/include/uapi/asm/kvm.h"):
            # As headers_install does.
            path = part / header
            path.write_text(re.sub(r"\b__user\b", "", path.read_text()))
        shutil.rmtree(place, ignore_errors=True)
        part.rename(place)
    return place


@needs_gcc
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("name", [*CASES[:4], "basic/basic.launch-state.launched/held"])
def test_the_selftest_compiles_with_the_headers_of_the_kernel(
    name: str, kernel: str, tmp_path: Path
) -> None:
    tree = headers(kernel)
    uapi = tmp_path / "uapi"
    for place in ("linux", "asm"):
        (uapi / place).mkdir(parents=True)
    shutil.copy(tree / "include/uapi/linux/kvm.h", uapi / "linux")
    shutil.copy(tree / "arch/x86/include/uapi/asm/kvm.h", uapi / "asm")
    code = tmp_path / "test.c"
    code.write_text(to_c(case_of(name), "selftest", "a finding"))
    selftests = tree / "tools/testing/selftests"
    folders = (
        *(tree / "tools/include", tree / "tools/arch/x86/include", uapi, selftests),
        *(selftests / "kvm/include", selftests / "kvm/include/x86_64", selftests / "rseq"),
    )
    subprocess.run(
        [
            *("gcc", "-fsyntax-only", "-Wall", "-Werror", "-O2", "-std=gnu99", "-D_GNU_SOURCE"),
            *("-DCONFIG_64BIT", "-D__LINUX_LIST__", *(f"-I{folder}" for folder in folders)),
            str(code),
        ],
        check=True,
        capture_output=True,
        text=True,
    )


def test_the_selftest_names_fields_and_rules() -> None:
    text = to_c(case_of(CASES[0]), "selftest", "entry.no-missed-check-0123456789ab")
    assert "vmwrite(GUEST_RFLAGS, 0xaull);" in text
    assert ' *   guest.rflags.reserved, "Checks on Guest RIP, RFLAGS, and SSP":' in text
    assert "reason == 0x80000021 && qualification == 0" in text


# ---------------------------------------------------------------------- all, and what has no form


def test_nearly_each_vector_has_a_c_form() -> None:
    forms = 0
    for path in sorted(VECTORS.glob("guest-*/*/broken.toml"))[::4]:
        case = load_case(path.read_bytes(), str(path))
        assert isinstance(case, EntryCase)
        with suppress(InputError):
            forms += bool(to_c(case, "selftest", "x"))
    assert forms > 40


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("basic/basic.mode.vmx-operation/broken", "the mode of the hypervisor"),
        ("guest-pdptes/pdpte.memory.entry-0/broken", "memory that the VMCS points to"),
        ("address-space-size/space.rip.canonical/broken", "host_rip"),
    ],
)
def test_what_has_no_c_form_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        to_c(case_of(name), "selftest", "x")


def test_text_from_outside_ends_no_comment() -> None:
    case = case_of(CASES[0])
    vector = load_vector(
        b'format = 1\nnote = "*/ int x; /* \'\'\' \\"\\"\\" "\n[vmcs]\nguest_rflags = 0xa\n', "x"
    )
    assert isinstance(vector.case, EntryCase)
    assert vector.case.attempt == case.attempt
    for style in ("selftest", "kvm-unit-test"):
        text = to_c(vector.case, style, "*/ name\n")
        assert "*/ int" not in text
        assert "*/ name" not in text
        assert "/* '" not in text  # gcc -Wcomment warns of it
    compile(to_pytest(vector, '"""; x', None), "test", "exec")


def test_the_pytest_file_replays_the_case(tmp_path: Path) -> None:
    path = VECTORS / f"{CASES[0]}.toml"
    vector = load_vector(path.read_bytes(), str(path))
    names: dict[str, object] = {}
    exec(to_pytest(vector, "a finding", None), names)
    function = names["test_a_finding"]
    assert callable(function)
    function(tmp_path)
    wrong = path.read_text().replace("exit 33", "exit 34")
    exec(to_pytest(load_vector(wrong.encode(), "x"), "a finding", None), names)
    function = names["test_a_finding"]
    assert callable(function)
    with pytest.raises(AssertionError):
        function(tmp_path)

# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz explain`: a dump in, sentences out."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nvmxfuzz.machine.profile import load_profile

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "triage" / "dumps"
KVM = FOLDER / "kvm-6.12.log"
QEMU = FOLDER / "qemu-64.log"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Return a log in which RFLAGS has a reserved bit."""
    path = tmp_path / "dmesg.txt"
    path.write_text(KVM.read_text().replace("RFLAGS=0x00000002", "RFLAGS=0x0000000a"))
    return path


def test_the_broken_rule_is_told_with_sentence_section_and_field(run: Run, broken: Path) -> None:
    status, out, err = run("explain", broken)
    assert (status, err) == (0, "")
    for text in (
        "line 2: dump_vmcs() of KVM: exit reason 33",
        "guest.rflags.reserved\n      Bits 63:22, 15, 5 and 3 of RFLAGS are 0.",
        "SDM: Checks on Guest RIP, RFLAGS, and SSP",
        "guest_rflags = 0xa (guest RFLAGS)",
        "rflags-reserved:",
        "vmcs_link_pointer not printed: 5 checks",
        "VM entry was executed by a 64-bit KVM outside SMM.",
    ):
        assert text in out


def test_a_program_gets_one_object_a_dump(run: Run, broken: Path) -> None:
    broken.write_text(broken.read_text() + QEMU.read_text())
    status, out, _ = run("explain", "--json", broken)
    kvm, qemu = map(json.loads, out.splitlines())
    assert status == 0
    assert kvm["reported"] == {"kind": "exit", "reason": 33, "qualification": 0}
    (rule,) = kvm["broken"]
    assert rule["rule"] == "guest.rflags.reserved"
    assert rule["fields"] == {"guest_rflags": "0xa"}
    assert {"rule": "guest.link-pointer.aligned", "missing": ["vmcs_link_pointer"]} in kvm[
        "unknown"
    ]
    assert [cause["name"] for cause in kvm["causes"]] == ["rflags-reserved"]
    assert qemu["source"] == "qemu"
    assert qemu["depends"][0]["broken_if"] == ["if the guest is not unrestricted"]


def test_a_state_that_breaks_nothing_is_told_plainly(run: Run) -> None:
    status, out, _ = run("explain", KVM)
    assert status == 0
    assert "nothing that the dump shows breaks a check" in out
    assert "a hypervisor below this KVM" in " ".join(out.split())


def test_everything_that_is_not_decided_can_be_listed(run: Run) -> None:
    _, some, _ = run("explain", QEMU)
    _, every, _ = run("explain", "--all", QEMU)
    assert "8 checks, such as guest.activity.blocking" in some
    assert "guest.interruptibility.enclave-sgx" in every
    assert "guest.interruptibility.enclave-sgx" not in some


def test_a_rule_of_another_stage_is_remarked_on(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(KVM.read_text().replace("TR=0040", "TR=0000"))
    _, out, _ = run("explain", path)
    assert "this would be fail-valid 8, which is not what was reported" in out


def test_a_log_comes_from_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(KVM.read_bytes())))
    assert run("explain", "-")[1] == run("explain", KVM)[1]


def test_the_processor_can_be_named_or_described(run: Run, tmp_path: Path) -> None:
    log, table = tmp_path / "log", tmp_path / "msrs.txt"
    log.write_text(KVM.read_text().replace("CR3 = 0x00000000", "CR3 = 0x00000800", 1))
    assert "Broken in some cases" in run("explain", log)[1]
    named = run("explain", "--profile", "skylake-x", log)[1]
    assert "Broken:\n  guest.cr3.width" in named
    assert "The processor is like the profile skylake-x." in named
    msrs = load_profile("skylake-x").msrs.items()
    table.write_text("".join(f"{index:#x} = {value:#x}\n" for index, value in msrs))
    assert (
        "The processor is like the profile msrs.txt." in run("explain", "--profile", table, log)[1]
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b"\x7fELF\0\0", "it is no text"),
        (b"nothing\n", "no dump of a failed VM entry is in it"),
        (
            b"*** Guest State ***\nCR3 = 0x0000000000000001\nCR3 = 0x0000000000000002\n",
            "two dumps are mixed",
        ),
    ],
)
def test_bad_input_is_one_sentence(run: Run, tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    status, out, err = run("explain", path)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_huge_file_is_not_read_to_its_end(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as stream:
        stream.truncate(1 << 30)
    status, _, err = run("explain", path)
    assert status == 2
    assert "larger than 16 MiB" in err


def test_other_mistakes_are_sentences(run: Run, tmp_path: Path) -> None:
    for arguments, sentence in (
        ((tmp_path,), "cannot be read"),
        ((tmp_path / "absent",), "cannot be read"),
        (("--profile", "skylake", KVM), "no profile is named"),
        (("--profile", QEMU, KVM), "qemu-64.log"),
    ):
        status, _, err = run("explain", *arguments)
        assert status == 2
        assert sentence in err


def test_the_page_says_what_the_command_prints(run: Run, tmp_path: Path) -> None:
    """The example of docs/explain.md is the reply to the log that the page gives."""
    page = (ROOT / "docs" / "explain.md").read_text()
    log, reply = re.findall(r"```(?:text)\n(.*?)```", page, re.DOTALL)[:2]
    path = tmp_path / "dmesg.txt"
    path.write_text(log)
    assert run("explain", path)[1] == reply

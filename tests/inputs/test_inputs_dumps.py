# SPDX-License-Identifier: GPL-2.0-only
"""Dumps of failed VM entries, in the many ways in which logs have them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.dumps import MAX_BYTES, read_dumps
from nvmxfuzz.inputs.dumps.dump import Dump

FOLDER = Path(__file__).parents[1] / "triage" / "dumps"
KVM = (FOLDER / "kvm-6.12.log").read_text()
QEMU_32 = (FOLDER / "qemu-32.log").read_text()
QEMU_64 = (FOLDER / "qemu-64.log").read_text()
STAMP = re.compile(r"^\[ *\d+\.\d+\] ", re.MULTILINE)
BARE = STAMP.sub("", KVM)


def one(text: str) -> Dump:
    (dump,) = read_dumps(text.encode())
    return dump


def old(text: str) -> str:
    """Return a dump in the wording of Linux 5.11: no first line, and other lines joined."""
    text = re.sub(r".*last attempted VM-entry.*\n", "", text)
    text = re.sub(r"EFER= (0x\w+)\n.*PAT = ", r"EFER =     \1  PAT = ", text, count=1)
    text = re.sub(r"EFER= (0x\w+)\n.*PAT = ", r"EFER = \1  PAT = ", text, count=1)
    text = re.sub(
        r"CPUBased=0x(\w+) SecondaryExec=0x(\w+) .*\n(.*)PinBased=0x(\w+) ",
        r"PinBased=\4 CPUBased=\1 SecondaryExec=\2\n\3",
        text,
    )
    return text.replace("kvm_intel: ", "")


PREFIXES = {
    "dmesg": "[ 1234.567890] ",
    "dmesg with caller": "[ 1234.567890][ T1234] ",
    "dmesg with level": "<3>[ 1234.567890] ",
    "dmesg in local time": "[Mon Jan  2 10:11:12 2023] ",
    "journalctl": "Jan 02 10:11:12 somewhere kernel: ",
    "journalctl with module": "Jan 02 10:11:12 somewhere kernel: kvm_intel: ",
    "syslog": "Jan  2 10:11:12 somewhere kernel: [ 1234.567890] ",
    "syslog, ISO": "2023-01-02T10:11:12.123456+01:00 somewhere kernel: [ 1234.567890] ",
    "ISO, dmesg": "2023-01-02T10:11:12,123456+01:00 ",
    "module": "kvm_intel: ",
    "old module": "kvm [1234]: ",
    "quoted": "> > ",
    "console": "    ",
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_what_stands_before_the_lines_does_not_matter(prefix: str) -> None:
    expected = one(BARE).fields
    assert len(expected) > 100
    assert one("".join(prefix + line + "\n" for line in BARE.splitlines())).fields == expected


@pytest.mark.parametrize("end", ["\r\n", "\r", " \n", "\n\n"])
def test_ends_of_lines_do_not_matter(end: str) -> None:
    assert one(KVM.replace("\n", end)).fields == one(KVM).fields


def test_encodings_of_windows_are_read() -> None:
    for encoding in ("utf-16", "utf-8-sig"):
        (dump,) = read_dumps(KVM.encode(encoding))
        assert dump.fields == one(KVM).fields


def test_both_kernels_print_the_same() -> None:
    other = (FOLDER / "kvm-6.1.log").read_text()
    assert one(other).fields.keys() == one(KVM).fields.keys()


def test_the_wording_of_5_11_is_read() -> None:
    text = old(KVM)
    assert "EFER =     0x" in text
    assert "PinBased=000000bf CPUBased=" in text
    found = one(text).fields
    assert found == {
        name: value for name, value in one(KVM).fields.items() if name != "tertiary_vm_exec_control"
    }


def test_lines_that_printk_continues_may_stand_apart() -> None:
    text = KVM.replace(" virt-APIC addr", " \nvirt-APIC addr").replace(" TPR Thr", " \nTPR Thr")
    assert one(text).fields == one(KVM).fields


def test_foreign_lines_may_stand_anywhere() -> None:
    noise = "[  673.9] usb 1-1: RIP = nothing, CS: what=0x1\n[  673.9] *** another ***\n"
    assert one(noise + KVM.replace("\n", "\n" + noise)).fields == one(KVM).fields


def test_fields_are_where_the_dump_says() -> None:
    dump = one(KVM)
    assert dump.source == "kvm"
    assert dump.line == 2
    assert dump.parts == ("guest", "host", "control")
    expected = {
        "guest_rflags": 0x2,
        "guest_cs_ar_bytes": 0xA09B,
        "guest_tr_limit": 0x67,
        "guest_gdtr_limit": 0x7F,
        "guest_ldtr_base": 0x8000,
        "guest_ia32_efer": 0xD01,
        "guest_ia32_pat": 0x0007_0406_0007_0406,
        "host_ia32_pat": 0x0407_0506_0007_0106,
        "host_cr3": 0x1000,
        "vm_entry_controls": 0xD3FF,
        "vm_exit_reason": 0x8000_0021,
        "posted_intr_nv": 0xF2,
        "virtual_processor_id": 1,
    }
    assert {name: dump.fields[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("line", "efer"),
    [
        ("EFER= 0x0000000000000d01 (autoload)", 0xD01),
        ("EFER= 0x0000000000000500 (effective)", 0x500),
    ],
)
def test_an_efer_that_is_no_field_is_told_apart(line: str, efer: int) -> None:
    dump = one(KVM.replace("EFER= 0x0000000000000d01", line, 1))
    assert "guest_ia32_efer" not in dump.fields
    assert dump.facts["efer"] == efer


def test_the_list_of_msrs_is_read() -> None:
    lists = (
        "MSR guest autoload:\n   0: msr=0x00000600 value=0x0000000000000000\n"
        "   1: msr=0xc0000080 value=0x0000000000000d01\n"
        "MSR guest autostore:\n   0: msr=0x00000010 value=0x0000000000000001\n"
        "*** Host State ***\n"
        "MSR host autoload:\n   0: msr=0xc0000080 value=0x0000000000000500\n"
    )
    dump = one(BARE.replace("kvm_intel: *** Host State ***\n", lists))
    assert dump.entry_msrs == ((0x600, 0), (0xC000_0080, 0xD01))
    assert dump.fields == one(KVM).fields


# ---------------------------------------------------------------------- several, cut off, mixed


def test_several_dumps_are_told_apart_and_a_repeated_one_comes_once() -> None:
    other = KVM.replace("RFLAGS=0x00000002", "RFLAGS=0x00000046")
    first, second = read_dumps((KVM + other + KVM + KVM).encode())
    assert (first.line, first.times) == (2, 3)
    assert second.times == 1
    assert second.fields["guest_rflags"] == 0x46
    assert len(read_dumps((old(KVM) + old(other)).encode())) == 2


def test_dumps_of_two_tasks_do_not_mix_where_the_log_names_the_tasks() -> None:
    other = BARE.replace("RFLAGS=0x00000002", "RFLAGS=0x00000046")
    mixed = "".join(
        f"[    1.000000][ T{task}] {line}\n"
        for lines in zip(BARE.splitlines(), other.splitlines(), strict=True)
        for task, line in enumerate(lines, 1)
    )
    assert [dump.fields["guest_rflags"] for dump in read_dumps(mixed.encode())] == [0x2, 0x46]


def test_dumps_that_are_mixed_are_refused() -> None:
    header = "*** Guest State ***\n"
    mixed = header + "CR3 = 0x0000000000001000\nRSP = bad\nCR3 = 0x0000000000002000\n"
    with pytest.raises(InputError, match="line 4: guest_cr3 is 0x2000, and 0x1000 on line 2"):
        read_dumps(mixed.encode())
    assert one(mixed.replace("2000", "1000")).fields == {"guest_cr3": 0x1000}
    twice = QEMU_32.replace("CR0=", "GDT=     00001000 0000ffff\nCR0=")
    with pytest.raises(InputError, match="two dumps are mixed"):
        read_dumps(twice.encode())


@pytest.mark.parametrize("lines", range(1, BARE.count("\n"), 7))
def test_a_dump_that_is_cut_off_is_read_as_far_as_it_goes(lines: int) -> None:
    whole = BARE.splitlines(keepends=True)
    tail, head = "".join(whole[-lines:]), "".join(whole[: lines + 5])
    expected = one(KVM).fields
    assert one(head).fields.items() <= expected.items()
    if "reason=" in tail:
        assert one(tail).fields.items() <= expected.items()


@pytest.mark.parametrize("heading", ["Guest", "Host", "Control"])
def test_a_part_is_known_without_its_heading(heading: str) -> None:
    text = re.sub(rf".*\*\*\* {heading} State.*\n", "", KVM)
    assert one(text).fields == one(KVM).fields
    bare = re.sub(r".*\*\*\*.*\n|.*last attempted.*\n", "", KVM)
    other = bare.replace("RFLAGS=0x00000002", "RFLAGS=0x00000046")
    assert [dump.fields["guest_rflags"] for dump in read_dumps((bare + other).encode())] == [2, 70]


def test_a_line_that_is_cut_off_is_passed_over() -> None:
    for end in range(1, len(BARE), 37):
        text = BARE[:end]
        if "actual=" in text.rpartition("\n")[0]:
            assert one(text).fields.items() <= one(KVM).fields.items(), end


def test_a_field_that_is_too_wide_is_refused() -> None:
    with pytest.raises(InputError, match=r"does not fit into the guest_cs_selector field"):
        read_dumps(KVM.replace("sel=0x0010", "sel=0x10010", 1).encode())


# ---------------------------------------------------------------------- QEMU


def test_registers_of_a_32_bit_guest() -> None:
    dump = one(QEMU_32)
    assert (dump.source, dump.error, dump.line) == ("qemu", 0x8000_0021, 1)
    expected = {
        "guest_rip": 0xFFF0,
        "guest_rflags": 0x86,
        "guest_cs_selector": 0xF000,
        "guest_cs_base": 0xFFFF_0000,
        "guest_cs_ar_bytes": 0x9B,
        "guest_ss_ar_bytes": 0xC093,
        "guest_ldtr_ar_bytes": 0x82,
        "guest_tr_ar_bytes": 0x8B,
        "guest_gdtr_limit": 0xFFFF,
        "guest_cr0": 0x6000_0010,
        "guest_dr7": 0x400,
    }
    assert {name: dump.fields[name] for name in expected} == expected
    assert dump.facts == {"wide": 0, "cpl": 0, "shadow": 0, "smm": 0, "halted": 0, "efer": 0}


def test_registers_of_a_64_bit_guest() -> None:
    dump = one(QEMU_64)
    assert dump.error == 0x8000_0021
    assert dump.fields["guest_rip"] == 0xFFFF_FFFF_8100_0000
    assert dump.fields["guest_gs_base"] == 0xFFFF_8880_0000_0000
    assert dump.fields["guest_ds_ar_bytes"] == 0x1_C000
    assert dump.fields["guest_cr4"] == 0x6B0
    assert dump.fields["guest_rsp"] == 0xFFFF_8000_1234_5678
    assert dump.facts["efer"] == 0xD01


@pytest.mark.parametrize(
    ("line", "error", "suberror"),
    [
        ("KVM: entry failed, hardware error 0x7", 7, None),
        ("kvm: KVM: entry failed, hardware error 0x80000022", 0x8000_0022, None),
        ("KVM internal error. Suberror: 1", None, 1),
    ],
)
def test_an_error_alone_is_a_dump(line: str, error: int | None, suberror: int | None) -> None:
    dump = one(line)
    assert (dump.error, dump.facts.get("suberror"), dump.fields) == (error, suberror, {})


def test_a_log_may_have_dumps_of_both() -> None:
    assert [dump.source for dump in read_dumps((KVM + QEMU_64 + QEMU_32).encode())] == [
        "kvm",
        "qemu",
        "qemu",
    ]
    info_registers = QEMU_64.partition("\n")[2]
    assert len(read_dumps((info_registers + QEMU_64).encode())) == 2


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "it is empty"),
        (b" \n\t\n", "it is empty"),
        (b"root:x:0:0::/root:/bin/sh\n", "no dump of a failed VM entry is in it"),
        (b"*** Guest State ***\n", "no dump of a failed VM entry is in it"),
        (b"set kvm_intel.dump_invalid_vmcs=1 to dump internal KVM state.\n", "no dump"),
        (b"\x7fELF\x02\x01\x01\0\0", "it is no text"),
        (b"x" * (MAX_BYTES + 1), "larger than 16 MiB"),
        (b"*** Guest State ***\nCR3 = 0x0000000000001000\n" * 5000, "more than 4096 dumps"),
        (
            b"".join(b"*** Guest State ***\nCR3 = 0x%016x\n" % number for number in range(300)),
            "more than 256 different dumps",
        ),
    ],
)
def test_bad_input_is_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_dumps(data)


def test_a_line_without_end_costs_no_time() -> None:
    with pytest.raises(InputError, match="no dump"):
        read_dumps(b"CS: sel=" * 200_000 + b"[" * 1_000_000 + b"qemu" * 100_000)

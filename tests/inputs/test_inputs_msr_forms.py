# SPDX-License-Identifier: GPL-2.0-only
"""What tools print of capability MSRs: vmxcap, turbostat, CHIPSEC, WinDbg, logs of QEMU and tests.

The texts are made here from a processor's MSRs, in the way of the tool.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.msr_table import parse_processor
from nvmxfuzz.inputs.msr_table.complete import existing_msrs, missing_msrs, unknown_registers
from nvmxfuzz.machine.profile import load_profile, profile_names

BASIC = 0x00DA_0400_0000_0010
PIN = 0x0000_007F_0000_0016
WANTED = {0x480: BASIC, 0x481: PIN}
REGISTERS = (0x486, 0x487, 0x488, 0x489, 0x48A)


def parse(text: str) -> dict[int, int]:
    return dict(parse_processor(text.encode()).msrs)


def answer(text: str) -> dict[int, int] | str:
    try:
        return parse(text)
    except InputError as error:
        return str(error)


def refused(text: str | bytes) -> str:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(InputError) as caught:
        parse_processor(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------- vmxcap

# Each section of the script: its MSR, the true one after it, and a row for each bit or field.
SCRIPT = """
Basic VMX Information @ 0x480
0-30 Revision
32-44 VMCS size
48 VMCS restricted to 32 bit addresses
49 Dual-monitor support
50-53 VMCS memory type
54 INS/OUTS instruction information
55 IA32_VMX_TRUE_*_CTLS support
Miscellaneous data @ 0x485
0-4 VMX-preemption timer scale (log2)
5 Store EFER.LMA into IA-32e mode guest control
6 HLT activity state
7 Shutdown activity state
8 Wait-for-SIPI activity state
14 PT in VMX operation
15 IA32_SMBASE support
16-24 Number of CR3-target values
25-27 MSR-load/store count recommendation
28 IA32_SMM_MONITOR_CTL[2] can be set to 1
29 VMWRITE to VM-exit information fields
30 Inject event with insn length=0
32-63 MSEG revision identifier
VPID and EPT capabilities @ 0x48c
0 Execute-only EPT translations
6 Page-walk length 4
7 Page-walk length 5
8 Paging-structure memory type UC
14 Paging-structure memory type WB
16 2MB EPT pages
17 1GB EPT pages
20 INVEPT supported
21 EPT accessed and dirty flags
22 Advanced VM-exit information for EPT violations
25 Single-context INVEPT
26 All-context INVEPT
32 INVVPID supported
40 Individual-address INVVPID
41 Single-context INVVPID
42 All-context INVVPID
43 Single-context-retaining-globals INVVPID
VM Functions @ 0x491
0 EPTP Switching
pin-based controls @ 0x481 0x48d
0 External interrupt exiting
3 NMI exiting
5 Virtual NMIs
6 Activate VMX-preemption timer
7 Process posted interrupts
primary processor-based controls @ 0x482 0x48e
2 Interrupt window exiting
3 Use TSC offsetting
7 HLT exiting
9 INVLPG exiting
10 MWAIT exiting
11 RDPMC exiting
12 RDTSC exiting
15 CR3-load exiting
16 CR3-store exiting
17 Activate tertiary controls
19 CR8-load exiting
20 CR8-store exiting
21 Use TPR shadow
22 NMI-window exiting
23 MOV-DR exiting
24 Unconditional I/O exiting
25 Use I/O bitmaps
27 Monitor trap flag
28 Use MSR bitmaps
29 MONITOR exiting
30 PAUSE exiting
31 Activate secondary control
secondary processor-based controls @ 0x48b 0x0
0 Virtualize APIC accesses
1 Enable EPT
2 Descriptor-table exiting
3 Enable RDTSCP
4 Virtualize x2APIC mode
5 Enable VPID
6 WBINVD exiting
7 Unrestricted guest
8 APIC register emulation
9 Virtual interrupt delivery
10 PAUSE-loop exiting
11 RDRAND exiting
12 Enable INVPCID
13 Enable VM functions
14 VMCS shadowing
15 Enable ENCLS exiting
16 RDSEED exiting
17 Enable PML
18 EPT-violation #VE
19 Conceal non-root operation from PT
20 Enable XSAVES/XRSTORS
22 Mode-based execute control (XS/XU)
23 Sub-page write permissions
24 GPA translation for PT
25 TSC scaling
26 User wait and pause
28 ENCLV exiting
VM-Exit controls @ 0x483 0x48f
2 Save debug controls
9 Host address-space size
12 Load IA32_PERF_GLOBAL_CTRL
15 Acknowledge interrupt on exit
18 Save IA32_PAT
19 Load IA32_PAT
20 Save IA32_EFER
21 Load IA32_EFER
22 Save VMX-preemption timer value
23 Clear IA32_BNDCFGS
24 Conceal VM exits from PT
25 Clear IA32_RTIT_CTL
VM-Entry controls @ 0x484 0x490
2 Load debug controls
9 IA-32e mode guest
10 Entry to SMM
11 Deactivate dual-monitor treatment
13 Load IA32_PERF_GLOBAL_CTRL
14 Load IA32_PAT
15 Load IA32_EFER
16 Load IA32_BNDCFGS
17 Conceal VM entries from PT
18 Load IA32_RTIT_CTL
"""
Row = tuple[int, int, str]
Sections = dict[str, tuple[tuple[int, ...], list[Row]]]


def sections() -> Sections:
    """Return each section with its MSRs and its rows: lowest bit, highest bit, name."""
    found: Sections = {}
    for line in SCRIPT.split("\n")[1:-1]:
        title, _, msrs = line.partition(" @ ")
        if msrs:
            found[title] = tuple(int(each, 16) for each in msrs.split()), []
            continue
        place, _, name = line.partition(" ")
        low, _, high = place.partition("-")
        list(found.values())[-1][1].append((int(low), int(high or low), name))
    return found


def state(value: int, true: int | None, bit: int) -> str:
    """Return what the script says of a control."""
    zero, one = not value >> bit & 1, value >> 32 + bit & 1
    if true is not None and not true >> bit & 1 and true >> 32 + bit & 1 and one and not zero:
        return "default"
    return {(True, 0): "no", (False, 1): "forced", (True, 1): "yes"}.get((zero, one), "?")


def vmxcap(msrs: Mapping[int, int], *, old: bool = False) -> str:
    """Return what the script prints; an `old` one has no line `Hex:`."""
    lines: list[str] = []
    for title, (indices, rows) in sections().items():
        lines.append(title)
        value = msrs.get(indices[0], 0)
        controls = len(indices) > 1
        if not controls and not old:
            lines.append(f"  Hex: {value:#x}")
        for low, high, name in rows:
            field = value >> low & (1 << high - low + 1) - 1
            said = ("no", "yes")[field] if low == high else str(field)
            if controls:
                said = state(value, msrs.get(indices[1], 0) if indices[1] else None, low)
            lines.append(f"  {name:40} {said}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", profile_names())
@pytest.mark.parametrize("old", [False, True])
def test_vmxcap_tells_a_processor(name: str, old: bool) -> None:
    msrs = load_profile(name).msrs
    found = parse(vmxcap(msrs, old=old))
    assert found.keys() == (existing_msrs(msrs) & msrs.keys()) - {*REGISTERS, 0x492, 0x493}
    for indices, rows in sections().values():
        mask = sum((1 << high + 1) - (1 << low) for low, high, _ in rows)
        for index in found.keys() & indices:
            told = mask if len(indices) == 1 else mask | mask << 32
            assert found[index] & told == msrs[index] & told, hex(index)
            assert old or len(indices) > 1 or found[index] == msrs[index]


def test_vmxcap_of_a_real_processor_is_the_whole_value() -> None:
    msrs = load_profile("core-i7-6700k").msrs
    found = parse(vmxcap(msrs))
    assert {index: found[index] for index in (0x480, 0x481, 0x482, 0x485, 0x48C)} == {
        index: msrs[index] for index in (0x480, 0x481, 0x482, 0x485, 0x48C)
    }
    assert missing_msrs(found) == ()
    assert [text[-6:-1] for text in unknown_registers(found)] == [
        "0x486",
        "0x487",
        "0x488",
        "0x489",
    ]


def test_a_transcript_around_vmxcap_does_not_matter() -> None:
    text = vmxcap(load_profile("haswell").msrs)
    around = f"$ sudo ./vmxcap\n  warning\n{text}$ exit\n".replace("\n", "\r\n")
    assert parse(around) == parse(text)


def edited(old: str, new: str) -> str:
    text = vmxcap(load_profile("haswell").msrs)
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (edited("NMI exiting  ", "NMI exitinx  "), "'NMI exitinx' is no bit that is known"),
        (
            edited("NMI exiting        ", "Virtual NMIs       "),
            "'Virtual NMIs' was already given on",
        ),
        (edited(" default", " maybe"), "'maybe' is none of yes, no, forced, default"),
        (edited("Hex: 0x", "Hex: 0y"), "line 2: '0y.*' is no hexadecimal number"),
        (edited("  Revision ", "  Hex: 0x1\n  Revision "), "line 3: 'Hex:' stands above all rows"),
        (edited("VMCS size     ", "VMCS size   99999999999  "), "is no"),
        (edited("4096", "9999"), "'9999' is no number up to 8191"),
        (edited("4096", "4095"), "'4095' is not what 'Hex:' has"),
        (edited("4096", "\u0664\u0660\u0669\u0666"), "is no number up to 8191"),
        (
            edited("VM-Exit controls", "pin-based controls"),
            "'pin-based controls' was already on line",
        ),
        (edited("VM-Exit controls", "VM-Exit"), "stands below no section of vmxcap"),
        (edited("  Revision ", "  Revision\x00"), "is no bit that is known"),
        (edited("  Virtual NMIs", "  x\n  Virtual NMIs"), "'x' is no row of vmxcap"),
        ("pin-based controls\n  " + "x" * 2000, "line 2: this is longer than"),
    ],
)
def test_a_bad_row_of_vmxcap_is_named_with_its_line(text: str, message: str) -> None:
    assert re.search(message, refused(text))
    assert refused(text).startswith("line ")


def test_a_bit_that_is_new_and_not_there_is_passed_over() -> None:
    text = edited("  Virtual NMIs", "  A new control                            no\n  Virtual NMIs")
    assert parse(text) == parse(vmxcap(load_profile("haswell").msrs))


# ---------------------------------------------------------------------- processors


@pytest.mark.parametrize(
    "text",
    [
        "cpu0: MSR_IA32_VMX_BASIC: 0xda040000000010 (rev 16)\n"
        "cpu0: MSR_IA32_VMX_PINBASED_CTLS: 0x7f00000016 (NMI VNMI)\n",
        "CPU 0: 0x480 = 0xda040000000010\nCPU 1: 0x480 = 0xda040000000010\n"
        "CPU 0: 0x481 = 0x7f00000016\nCPU 1: 0x481 = 0x7f00000016\n",
        "[CHIPSEC] CPU0: RDMSR( 0x480 ) = 00DA040000000010 (EAX=00000010, EDX=00DA0400)\n"
        "[CHIPSEC] CPU1: RDMSR( 0x480 ) = 00DA040000000010 (EAX=00000010, EDX=00DA0400)\n"
        "[CHIPSEC] CPU0: RDMSR( 0x481 ) = 0000007F00000016 (EAX=00000016, EDX=0000007F)\n",
        "msr[480] = 00da0400`00000010\nmsr[481] = 0000007f`00000016\n",
        "rdmsr -p 0 0x480\nda040000000010\nrdmsr -p 1 0x480\nda040000000010\n"
        "rdmsr --all 0x481\n7f00000016\n7f00000016\n",
        "[CPU 0] 480 da040000000010\n[CPU 0] 481 7f00000016\n",
        "Core\tCPU\tM0x480\tM0x481\n-\t-\t0x0000000000000000\t0x0000000000000000\n"
        "0\t0\t0x00da040000000010\t0x0000007f00000016\n"
        "1\t1\t0x00da040000000010\t0x0000007f00000016\n"
        "Core\tCPU\tM0x480\tM0x481\n-\t-\t0x0000000000000000\t0x0000000000000000\n"
        "0\t0\t0x00da040000000010\t0x0000007f00000016\n",
        "CPU msr0x480 msr0x481\n0 0x00da040000000010 0x0000007f00000016\n",
    ],
)
def test_what_several_processors_have_is_one_table(text: str) -> None:
    assert parse(text) == WANTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "CPU0: 480 = 1\nCPU1: 480 = 2\n",
            "line 2: MSR 0x480 differs between processors, see line 1",
        ),
        ("CPU0: 480 = 1\nCPU0: 480 = 1\n", "line 2: MSR 0x480 was already given on line 1"),
        ("rdmsr -p 0 0x480\n1\nrdmsr -p 1 0x480\n2\n", "line 3: MSR 0x480 differs"),
        ("rdmsr -p 1 0x480\n1\nrdmsr -p 1 0x480\n1\n", "line 3: MSR 0x480 was already"),
        ("rdmsr 0x480\n1\nrdmsr -p 0 0x480\n1\n", "line 3: MSR 0x480 was already"),
        ("rdmsr -p one 0x480\n1\n", "line 1: 'one' is no number of a processor"),
        ("rdmsr -p \u0661 0x480\n1\n", "line 1: .* is no number of a processor"),
        ("CPU0: 480 = 1\nCPU1: 480 = -\n", "line 2: MSR 0x480 differs"),
        ("CPU\tM0x480\n0\t0x1\n", "line 2: '0x1' is no value of 16 digits"),
        ("CPU\tM0x480\n0\n", "line 2: 1 columns below 2 headings"),
        ("CPU\tM0x480\nx\t0x0000000000000001\n", "line 2: 'x' is no number of a processor"),
        (
            "CPU\tM0x480\n0\t0x0000000000000001\n1\t0x0000000000000002\n",
            "line 3: MSR 0x480 differs between processors, see line 2",
        ),
        ("CPU\tM0x480\n", "no capability MSR was found"),
        ("[480 = 1\n", "line 1: '.480 = 1' is no MSR and its value"),
    ],
)
def test_processors_that_differ_are_named(text: str, message: str) -> None:
    assert re.search(message, refused(text))


# ---------------------------------------------------------------------- logs

QEMU = (
    "qemu-system-x86_64: warning: host doesn't support requested feature: MSR(48BH).vmx-ept\n"
    "2024-11-20T05:46:01.000001Z qemu-system-x86_64: error: failed to set MSR 0x480 to "
    "0xda040000000010\n"
    "qemu-system-x86_64: ../target/i386/kvm/kvm.c:3213: kvm_buf_set_msrs: Assertion failed.\n"
    "qemu-system-x86_64: error: failed to set MSR 0x481 to 0x7f00000016\n"
    "qemu-system-x86_64: error: failed to set MSR 0xc0000080 to 0x1\n"
)
TESTS = (
    "enabling apic\nsmp: waiting for 0 APs\npaging enabled\ncr0 = 80010011\ncr3 = 1007000\n"
    "testing MSR:0x480: output = 0xda0400:0x10 expected = 0:0\nFAIL: MSR:0x480\n"
    "testing MSR_IA32_VMX_PINBASED_CTLS: output = 0x7f:0x16 expected = 0:0\n"
    "testing MSR_IA32_SYSENTER_CS: output = 0:0x10 expected = 0:0x1234\n"
    "PASS: MSR_IA32_SYSENTER_ESP\nSUMMARY: 3 tests, 2 unexpected failures\n"
)
MIXED = (
    "enabling apic\nTest suite: caps\nMSR_IA32_VMX_BASIC: 0xda040000000010\n"
    "0x481 = 0x7f00000016\n480 bytes\nSUMMARY: 1 tests\n"
)


@pytest.mark.parametrize("text", [QEMU, TESTS, MIXED, QEMU.replace("\n", "\r\n")])
def test_a_log_has_msrs_among_other_lines(text: str) -> None:
    assert parse(text) == WANTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (QEMU.replace("to 0x7f00000016", "to what"), "line 4: 'what' is no hexadecimal"),
        (QEMU + QEMU.splitlines()[3], "line 6: MSR 0x481 was already given on line 4"),
        (TESTS.replace("0x7f:", "0x7f0000000f:"), "line 8: '0x7f0000000f' has more than 32 bits"),
        (TESTS.replace("0x10 exp", "0x10, exp"), "line 6: '0x10,' is no hexadecimal number"),
        (TESTS.replace(" expected = 0:0\nFAIL", "\nFAIL"), "line 6: .* is no MSR and its value"),
        (MIXED.replace("0x481 = ", "0x481 is "), "line 4: .* is no MSR and its value"),
        (MIXED.replace("VMX_BASIC", "VMX_BASICS"), "line 3: no VMX capability MSR is named"),
        ("PASS: nothing\nSUMMARY: 1 tests\n", "no capability MSR was found"),
    ],
)
def test_a_bad_line_of_a_log_is_named(text: str, message: str) -> None:
    assert re.search(message, refused(text))


# ---------------------------------------------------------------------- missing


def test_a_missing_msr_is_named() -> None:
    msrs = dict(load_profile("haswell").msrs)
    assert missing_msrs(msrs) == unknown_registers(msrs) == ()
    del msrs[0x482], msrs[0x48F]
    assert missing_msrs(msrs) == (
        "IA32_VMX_PROCBASED_CTLS (0x482)",
        "IA32_VMX_TRUE_EXIT_CTLS (0x48f)",
    )
    del msrs[0x489]
    assert unknown_registers(msrs) == ("IA32_VMX_CR4_FIXED1 (0x489)",)


@pytest.mark.parametrize("name", profile_names())
def test_the_profiles_have_what_they_say_and_no_more(name: str) -> None:
    msrs = load_profile(name).msrs
    assert msrs.keys() - existing_msrs(msrs) <= {0x491, 0x48C, 0x492, 0x493}


# ---------------------------------------------------------------------- hostile

HOSTILE: dict[str, Callable[[], bytes]] = {
    "two mebibytes": lambda: b"0x480 = 1\n" * (1 << 18),
    "zeroes": lambda: bytes(1 << 20),
    "a long line": lambda: b"7" * (1 << 20),
    "spaces": lambda: b"pin-based controls\n" + b" " * ((1 << 20) - 30),
    "words": lambda: b"a " * (1 << 19),
    "headings": lambda: b"M0x480 " * (1 << 17),
    "rows": lambda: b"VM-Exit controls\n" + b"  a b c d e f g h\n" * 50_000,
    "verdicts": lambda: b"PASS: " * (1 << 17),
    "tests": lambda: b"testing a: output = " * (1 << 15),
    "prefixes": lambda: b"msr " * (1 << 18),
    "processors": lambda: b"cpu0 " * (1 << 17),
    "brackets": lambda: b"[" * (1 << 20),
    "parentheses": lambda: (b"0x480 = 1 (" + b"(" * 900 + b"\n") * 1000,
    "binary": lambda: bytes(range(256)) * 4096,
    "utf-16": lambda: b"\xff\xfe" + b"\x00\xd8" * 1000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_refused_in_time(name: str) -> None:
    data = HOSTILE[name]()
    started = time.process_time()
    message = refused(data)
    assert time.process_time() - started < 5
    assert len(message) < 500
    assert message.isascii()


@settings(settings.get_profile("repeatable"), max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            [
                *("pin-based controls\n", "Basic VMX Information\n", "  NMI exiting   yes\n"),
                *("  Hex: 0x1\n", "  Revision  1\n", "VM-Exit controls\n", "CPU\tM0x480\n"),
                *("0\t0x0000000000000001\n", "-\t-\n", "PASS: x\n", "0x480 = 1\n", "cpu1: "),
                *("testing MSR:0x480: output = 1:2 expected = 1:1\n", "\x00", "\u0663", " no\n"),
                *("qemu-kvm: error: failed to set MSR 0x480 to 0x1\n", "rdmsr -p 1 0x480\n", "(1)"),
            ]
        )
    ).map("".join)
)
def test_any_mixture_is_a_table_or_a_sentence(text: str) -> None:
    found = answer(text)
    if isinstance(found, str):
        assert "\n" not in found
    else:
        assert all(0 <= value < 1 << 64 for value in found.values())

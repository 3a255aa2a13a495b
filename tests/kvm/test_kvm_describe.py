# SPDX-License-Identifier: GPL-2.0-only
"""Names and sentences for what setup_vmcs_config() came to."""

from __future__ import annotations

import inspect
import re

import pytest

from nvmxfuzz.arch.controls import Pin
from nvmxfuzz.kvm import msr_restore, msr_vcpu
from nvmxfuzz.kvm.describe import (
    config_controls,
    control_names,
    refusal_text,
    restore_text,
    warning_text,
)
from nvmxfuzz.kvm.vmcs_config import KernelWarning, VmcsConfig


def test_bits_have_the_names_of_the_sdm() -> None:
    assert control_names(0b1011, Pin) == ("external-interrupt exiting", "bit 1", "NMI exiting")
    assert control_names(0, Pin) == ()


def test_every_word_of_a_config_is_named() -> None:
    named = config_controls(VmcsConfig(1, 1 << 7, 2, 1 << 4, 4, 4, 0, 0, 0, None))
    assert named == {
        "pin_based_exec_ctrl": ("external-interrupt exiting",),
        "cpu_based_exec_ctrl": ("HLT exiting",),
        "cpu_based_2nd_exec_ctrl": ("enable EPT",),
        "cpu_based_3rd_exec_ctrl": ("IPI virtualization",),
        "vmexit_ctrl": ("save debug controls",),
        "vmentry_ctrl": ("load debug controls",),
    }


@pytest.mark.parametrize(
    ("warning", "part"),
    [
        (KernelWarning("ept_cap_without_control"), "EPT capability"),
        (KernelWarning("vpid_cap_without_control"), "VPID capability"),
        (KernelWarning("entry_exit_pair", (0x4000, 0)), "entry 0x4000, exit 0x0"),
        (KernelWarning("perf_global_ctrl_erratum"), "IA32_PERF_GLOBAL_CTRL"),
        (KernelWarning("unchecked_rdmsr", (0x48B,)), "MSR 0x48b"),
        (KernelWarning("evmcs_unsupported.vmexit_ctrl", (0x400000,)), "0x400000 of vmexit_ctrl"),
        (
            KernelWarning("warn.arch/x86/kvm/x86.c:7"),
            "a WARN of the kernel at arch/x86/kvm/x86.c:7",
        ),
        (KernelWarning("unrecognised.What is it. No {}"), "What is it. No {}"),
    ],
)
def test_every_warning_is_one_line(warning: KernelWarning, part: str) -> None:
    text = warning_text(warning)
    assert part in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("site", "part"),
    [
        ("required.vmexit_ctrl", "vmexit_ctrl"),
        ("ept_cap_without_control", "inconsistent"),
        ("vpid_cap_without_control", "inconsistent"),
        ("entry_exit_pair", "inconsistent"),
        ("basic.size", "4096"),
        ("basic.address_width", "32"),
        ("basic.memory_type", "write-back"),
        ("", "refused"),
    ],
)
def test_every_refusal_says_why(site: str, part: str) -> None:
    assert part in refusal_text(site)


def test_every_check_of_a_restore_has_a_sentence() -> None:
    code = "".join(inspect.getsource(each) for each in (msr_restore, msr_vcpu))
    checks = set(re.findall(r'"((?:restore|set-msr)\.[a-z0-9.-]+)"', code))
    assert len(checks) > 20
    assert all(restore_text(check) for check in checks)
    assert restore_text("restore.no-such-check") == ""

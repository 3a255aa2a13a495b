# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz config`: what KVM makes of the VMX capability MSRs of a processor."""

from __future__ import annotations

import argparse
import errno
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nvmxfuzz.cli.files import read_file, what
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import ConfigCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.msr_table import parse_processor
from nvmxfuzz.kvm.describe import config_controls, refusal_text, warning_text
from nvmxfuzz.kvm.hardware_setup import hardware_setup
from nvmxfuzz.kvm.host import parse_params
from nvmxfuzz.kvm.source import KERNELS, Kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome, VmcsConfig
from nvmxfuzz.oracles.config.capability_config import Loading, loading_of

if TYPE_CHECKING:
    from nvmxfuzz.targets.kvm_native.config import KvmConfig

_CASE = re.compile(
    rb"^[ \t]*(?:(?:harness|base)[ \t]*=|\[(?:vmcs|processor|memory|expect)\])", re.M
)
"""What a case in TOML has and no table of MSRs."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "config",
        help="what KVM makes of an MSR table",
        description="Print the config that KVM makes of a processor's VMX capability MSRs, with "
        "every warning, or -EIO and why.",
        epilog="FILE is a profile of this project (TOML or JSON), lines such as '0x480 = 0x...', a "
        "transcript of a shell with each rdmsr command and what it printed ('rdmsr 0x480', below "
        "it the value), the output of vmxcap or turbostat, a VirtualBox log, another form of "
        "docs/migrate.md, or a case of the harness capability_config, which says the kernel and "
        "its parameters itself.",
    )
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument(
        "--kernel",
        metavar="V",
        help=f"kernel version, one of {', '.join(KERNELS)} (default: that of the case, else "
        f"{KERNELS[-1]})",
    )
    command.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="parameter of kvm_intel, such as error_on_inconsistent_vmcs_config=N; repeatable",
    )
    command.add_argument("--sgx", action="store_true", help="the processor has SGX")
    command.add_argument(
        "--evmcs", action="store_true", help="KVM runs on a Hyper-V that offers enlightened VMCSs"
    )
    command.add_argument(
        "--target",
        metavar="NAME",
        help="ask the kernel itself: kvm-6.1 or kvm-6.12, built by nvmxfuzz build kvm, which is "
        "then the kernel version too; exit status 1 if it differs from the model",
    )
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what loading kvm_intel comes to; -EIO is an answer, no error."""
    case = _case(read_file(args.file), str(args.file))
    asked = replace(case, has_sgx=args.sgx or case.has_sgx, evmcs=args.evmcs or case.evmcs)
    real = None if args.target is None else _real_config(args.target, args.kernel)
    kernel = args.kernel if real is None else real.kernel
    loading = loading_of(asked if kernel is None else replace(asked, kernel=kernel))
    params = parse_params(loading.kernel, [*_settings(loading), *args.param])
    subject = loading.host, loading.kernel, params
    outcome = hardware_setup(*subject)
    if real is None:
        print(json.dumps(to_json(outcome)) if args.json else to_text(outcome))
        return 0
    return _show_real(real(*subject), outcome, loading.kernel, as_json=args.json)


def _real_config(target: str, kernel: str | None) -> KvmConfig:
    """Return the kernel itself; InputError if `kernel` is another one."""
    from nvmxfuzz.targets.kvm_native.config import config_witness

    real = config_witness(target)
    if kernel not in (None, real.kernel):
        raise InputError(f"target {target} is no kernel {kernel}: leave --kernel out")
    return real


def _show_real(real: ConfigOutcome, model: ConfigOutcome, kernel: Kernel, *, as_json: bool) -> int:
    """Print what the real function made, and whether the model says the same."""
    from nvmxfuzz.oracles.config.kvm_config import compare

    found = [message for _, _, message in compare(model, real, kernel).differences]
    if as_json:
        print(json.dumps({**to_json(real), "differences": found}))
    else:
        why = f", and why: {refusal_text(model.site)}" if model.config is None else ""
        ending = [f"DIFFERENT: {message}" for message in found] or ["the model says the same" + why]
        print("\n".join([to_text(real), *ending]))
    return 1 if found else 0


def _case(data: bytes, origin: str) -> ConfigCase:
    """Return the case in a file, or that of its MSRs with nothing said of kernel or parameters."""
    if _CASE.search(data):
        case = load_case(data, origin)
        if not isinstance(case, ConfigCase):
            command = "check" if case.harness == "vm_entry" else "show, or replay"
            raise InputError(
                f"{origin} is {what(case)}, no capability config: use nvmxfuzz {command}"
            )
        return case
    try:
        processor = parse_processor(data, origin)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error
    return ConfigCase(processor, kernel=KERNELS[-1], has_sgx="sgx" in processor.features)


def _settings(loading: Loading) -> list[str]:
    """Return the parameters of a case as one would give them with --param."""
    return [
        f"{name}={'Y' if getattr(loading.params, name) else 'N'}"
        for name in loading.kernel.parameters
    ]


def to_json(outcome: ConfigOutcome) -> dict[str, object]:
    """Return an outcome as a program reads it; numbers are strings in hexadecimal."""
    return {
        "result": "accepted" if outcome.config is not None else _errno_name(outcome),
        "refused_at": outcome.site or None,
        "warnings": [
            {
                "site": warning.site,
                "arguments": [f"{number:#x}" for number in warning.arguments],
                "text": warning_text(warning),
            }
            for warning in outcome.warnings
        ],
        "config": None if outcome.config is None else _words(outcome.config),
        "controls": None if outcome.config is None else config_controls(outcome.config),
    }


def to_text(outcome: ConfigOutcome) -> str:
    """Return an outcome as a person reads it."""
    lines = [f"warning: {warning_text(warning)}" for warning in outcome.warnings]
    if outcome.config is None:
        return "\n".join([*lines, f"{_errno_name(outcome)}: {refusal_text(outcome.site)}"])
    controls = config_controls(outcome.config)
    for word, value in _words(outcome.config).items():
        lines.append(f"{word} = {value}")
        lines += [f"    {name}" for name in controls.get(word, ())]
    return "\n".join(lines)


def _errno_name(outcome: ConfigOutcome) -> str:
    """Return the error as the kernel writes it, such as -EIO."""
    return f"-{errno.errorcode.get(-outcome.errno, -outcome.errno)}"


def _words(config: VmcsConfig) -> dict[str, str]:
    words = asdict(config).items()
    return {name: f"{value:#x}" for name, value in words if value is not None}

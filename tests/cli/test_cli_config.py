# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz config`: where kernel, parameters and the processor come from, and refusals."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nvmxfuzz.cli import config
from nvmxfuzz.inputs.expectation import ConfigExpectation
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.kvm.hardware_setup import hardware_setup
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import Kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native.build.objects import usable

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "corpus" / "vectors" / "capability-config"
PAIRS = VECTORS / "config.inconsistent-refused"
DEGRADED = PAIRS / "efer-pair-degraded-6-12.toml"
PLAIN = ROOT / "nvmxfuzz" / "machine" / "profiles" / "skylake-x.toml"
PARAMETER = "error_on_inconsistent_vmcs_config"


def reply(run: Run, *arguments: object) -> dict[str, object]:
    """Return what `config --json` says."""
    status, out, err = run("config", "--json", *arguments)
    assert (status, err) == (0, "")
    found: dict[str, object] = json.loads(out)
    return found


def test_a_case_says_its_kernel_and_its_parameter_itself(run: Run) -> None:
    degraded = reply(run, DEGRADED)
    assert degraded["result"] == "accepted"
    assert [warning["site"] for warning in degraded["warnings"]] == [  # type: ignore[attr-defined]
        "entry_exit_pair"
    ]
    assert reply(run, PAIRS / "efer-pair-5-18.toml")["warnings"] == []
    refused = PAIRS / "efer-pair-refused-6-12.toml"
    assert reply(run, refused)["result"] == "-EIO"


@pytest.mark.parametrize(
    "path", sorted(VECTORS.rglob("*.toml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_a_vector_comes_to_what_it_expects(run: Run, path: Path) -> None:
    expected = load_vector(path.read_bytes(), str(path)).expectation
    assert isinstance(expected, ConfigExpectation)
    answer = reply(run, path)
    assert answer["result"] == expected.outcome
    warnings = answer["warnings"]
    assert isinstance(warnings, list)
    if expected.warnings is not None:
        assert [warning["site"] for warning in warnings] == list(expected.warnings)
    words = answer["config"] or {}
    assert isinstance(words, dict)
    assert {name: int(words[name], 16) for name in expected.config} == expected.config


def test_the_command_line_wins_over_the_case(run: Run) -> None:
    assert reply(run, DEGRADED, "--param", f"{PARAMETER}=Y")["result"] == "-EIO"
    assert reply(run, DEGRADED, "--kernel", "5.18")["warnings"] == []
    # Another parameter leaves that of the case as it is.
    assert reply(run, DEGRADED, "--param", "enlightened_vmcs=N")["result"] == "accepted"
    refused = PAIRS / "efer-pair-refused-6-12.toml"
    assert reply(run, refused, "--param", f"{PARAMETER}=N")["result"] == "accepted"


def test_minus_eio_is_a_reply_without_a_config(run: Run) -> None:
    refused = reply(run, PAIRS / "vpid-cap-refused-6-12.toml")
    assert refused == {
        "result": "-EIO",
        "refused_at": "vpid_cap_without_control",
        "warnings": refused["warnings"],
        "config": None,
        "controls": None,
    }
    assert reply(run, PLAIN)["refused_at"] is None
    _, out, _ = run("config", PAIRS / "vpid-cap-refused-6-12.toml")
    *warnings, last = out.splitlines()
    assert [line.startswith("warning: ") for line in warnings] == [True]
    assert last.startswith("-EIO: ")


def msr_table(path: Path) -> Path:
    """Write the MSRs of skylake-x with ENCLS exiting, as lines that say nothing of SGX."""
    msrs = dict(load_profile("skylake-x").msrs)
    msrs[0x48B] |= 1 << (32 + 15)
    path.write_text("".join(f"{index:#x} = {value:#x}\n" for index, value in msrs.items()))
    return path


def encls_exiting(answer: dict[str, object]) -> bool:
    controls = answer["controls"]
    assert isinstance(controls, dict)
    return "enable ENCLS exiting" in controls["cpu_based_2nd_exec_ctrl"]


def test_sgx_is_said_by_the_option_the_profile_or_the_case(run: Run, tmp_path: Path) -> None:
    table = msr_table(tmp_path / "msrs.txt")
    assert not encls_exiting(reply(run, table))
    assert encls_exiting(reply(run, table, "--sgx"))
    profile = tmp_path / "profile.json"
    msrs = {
        f"{int(index, 16):#x}": value
        for index, _, value in (line.split() for line in table.read_text().splitlines())
    }
    for features, expected in (([], False), (["sgx"], True)):
        profile.write_text(json.dumps({"msrs": msrs, "features": features}))
        assert encls_exiting(reply(run, profile)) is expected
    case = tmp_path / "case.toml"
    for word in ("false", "true"):
        case.write_text(
            f'harness = "capability_config"\nhas_sgx = {word}\n[msrs]\n'
            f"IA32_VMX_PROCBASED_CTLS2 = {msrs['0x48b']}\n"
        )
        assert encls_exiting(reply(run, case)) is (word == "true")
        assert encls_exiting(reply(run, case, "--sgx"))


def test_hyper_v_is_said_by_the_option_or_the_case(run: Run) -> None:
    plain = reply(run, PLAIN, "--kernel", "5.18")
    on_hyperv = reply(run, PLAIN, "--kernel", "5.18", "--evmcs")
    assert plain["config"] != on_hyperv["config"]
    case = VECTORS / "config.well-formed" / "evmcs-5-18.toml"
    assert reply(run, case)["config"] == reply(run, case, "--evmcs")["config"]


def test_a_vm_entry_is_sent_to_check(run: Run) -> None:
    for case in ("vm_entry/guest-64-everything.toml", "vm_entry/x2apic.toml"):
        status, out, err = run("config", ROOT / "corpus" / "seeds" / case)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "use nvmxfuzz check" in err


def test_a_file_is_named_once_in_what_is_wrong_with_it(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text("0x480 = zero\n")
    case = tmp_path / "case.toml"
    case.write_text('harness = "capability_config"\nkernel = "7.0"\n')
    for path in ("nosuch", bad, case):
        status, _, err = run("config", path)
        assert status == 2
        assert err.count(str(path)) == 1


@pytest.mark.parametrize("kernel", ["5.18", "6.1", "6.12"])
def test_without_a_case_the_kernel_is_the_newest_or_the_one_asked_for(
    run: Run, kernel: str
) -> None:
    asked = reply(run, PLAIN, "--kernel", kernel)
    assert (asked == reply(run, PLAIN)) is (kernel != "5.18")


# What the kernel itself makes of a table.


def test_a_target_must_make_configs(run: Run) -> None:
    status, out, err = run("config", DEGRADED, "--target", "bochs")
    assert (status, out) == (2, "")
    assert "the targets that make configs are kvm-6.1, kvm-6.12" in err


@pytest.mark.skipif(bool(usable("6.12")), reason=usable("6.12"))
def test_the_kernel_itself_is_asked(run: Run) -> None:
    status, out, err = run("config", DEGRADED, "--target", "kvm-6.12")
    assert (status, err) == (0, "")
    assert out.startswith("warning: of a VM-entry and VM-exit pair")
    assert out.endswith("the model says the same\n")
    by_model = reply(run, DEGRADED)
    assert reply(run, DEGRADED, "--target", "kvm-6.12") == {**by_model, "differences": []}
    _, out, _ = run("config", DEGRADED, "--target", "kvm-6.12", "--param", f"{PARAMETER}=Y")
    assert out.splitlines()[1:] == [
        "-EIO: refused",
        "the model says the same, and why: inconsistent: a VM-entry control and its VM-exit "
        "control do not both exist",
    ]
    status, _, err = run("config", DEGRADED, "--target", "kvm-6.12", "--kernel", "6.1")
    assert status == 2
    assert "is no kernel 6.1" in err


@pytest.mark.skipif(bool(usable("6.12")), reason=usable("6.12"))
def test_a_difference_from_the_model_is_status_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(host: HostCpu, kernel: Kernel, params: ModuleParams) -> ConfigOutcome:
        return replace(hardware_setup(host, kernel, params), warnings=())

    monkeypatch.setattr(config, "hardware_setup", silent)
    status, out, _ = run("config", DEGRADED, "--target", "kvm-6.12")
    assert status == 1
    assert out.splitlines()[-1].startswith("DIFFERENT: the model warns of nothing, the kernel")

# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz show`: what it says of bits and memory, and raw JSON for other programs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "corpus" / "vectors"
SEEDS = ROOT / "corpus" / "seeds" / "vm_entry"
CONFIG = VECTORS / "capability-config" / "config.fixpoint" / "plain-6-12.toml"
CASES = (
    VECTORS / "guest-rip-rflags" / "guest.rflags.reserved" / "broken.toml",
    VECTORS / "guest-pdptes" / "pdpte.memory.entry-0" / "unknown.toml",
    VECTORS / "basic" / "basic.mode.vmx-operation" / "broken.toml",
    VECTORS / "basic" / "basic.launch-state.launched" / "broken.toml",
    VECTORS / "smm-return" / "smm.executive-pointer.revision" / "broken-shadow.toml",
    VECTORS / "msr-loading" / "msr-load.xss.reserved" / "unknown.toml",
    VECTORS / "address-space-size" / "space.rip.canonical" / "broken-57-bits.toml",
    SEEDS / "msr-lists.toml",
    SEEDS / "guest-v86-core-i5-3570.toml",
)


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_raw_form_is_judged_like_the_case(run: Run, tmp_path: Path, case: Path) -> None:
    status, out, err = run("show", case, "--raw")
    assert (status, err) == (0, "")
    raw = tmp_path / "case.json"
    raw.write_text(out)
    assert run("check", "--json", raw) == run("check", "--json", case)
    # It is its own raw form.
    assert run("show", raw, "--raw")[1] == out


def test_the_raw_form_is_indented_and_leaves_out_fields_that_are_0(run: Run) -> None:
    _, out, _ = run("show", CASES[0], "--raw")
    assert out.startswith('{\n  "format": 1,\n')
    fields = json.loads(out)["vmcs"]
    assert fields["0x6820"] == "0xa"
    assert "0x6800" in fields
    assert all(int(value, 16) for value in fields.values())


def test_a_profile_that_is_not_ours_is_described_in_the_raw_form(run: Run, tmp_path: Path) -> None:
    own = {"msrs": {"0x480": "0x00da040000000004"}, "maxphyaddr": 41, "features": ["long-mode"]}
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"profile": own, "vmcs": {"0x6820": "0x2"}}))
    _, out, _ = run("show", path, "--raw")
    assert json.loads(out)["profile"]["maxphyaddr"] == 41
    again = tmp_path / "again.json"
    again.write_text(out)
    assert run("check", "--json", again) == run("check", "--json", path)


def test_a_config_has_no_raw_form(run: Run) -> None:
    status, out, err = run("show", CONFIG, "--raw")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "only a VM entry has a raw form" in err
    assert run("show", CASES[0], "--raw", "--json")[0] == 2


def test_bits_that_changed_are_named_with_their_direction(run: Run, tmp_path: Path) -> None:
    case = tmp_path / "case.toml"
    case.write_text('base = "guest-64"\n[processor]\ncr4 = 0x2001\n')
    _, out, _ = run("show", case, "--json")
    (row,) = json.loads(out)["fields"]
    assert (row["base"], row["value"]) == ("0x0000000000002020", "0x0000000000002001")
    # VMXE is in both.
    assert row["meaning"].endswith(": +virtual-8086 mode extensions, -physical address extension")


def test_a_word_without_named_bits_says_only_what_it_is(run: Run, tmp_path: Path) -> None:
    case = tmp_path / "case.toml"
    case.write_text('base = "guest-64"\n[vmcs]\nguest_rsp = 0x10\n[memory]\n"0x90000" = "00ff"\n')
    _, out, _ = run("show", case, "--json")
    word, memory = json.loads(out)["fields"]
    assert word["meaning"] == "guest RSP (0x681c)"
    assert (memory["name"], memory["value"]) == ("0x90000", "00ff")


def test_an_engines_own_input_is_decoded(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "input"
    data.write_bytes(b"\1\0\0\0")
    for kind in ("vm_entry", "capability_config"):
        status, out, _ = run("show", data, "--binary", kind, "--json")
        assert (status, json.loads(out)["harness"]) == (0, kind)

# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz migrate` as a user sees it: the table, the policies, the page, and what is refused."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nvmxfuzz.cli import migrate
from nvmxfuzz.cli.migrating import different
from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.migration.policies import POLICIES
from nvmxfuzz.oracles.migration.table import MigrationTable, migration_table, offering
from nvmxfuzz.oracles.restore.witness import ModelMsrs, MsrWorld
from nvmxfuzz.reports.migration import End, MigrationReport, to_text
from nvmxfuzz.reports.migration_html import to_html
from nvmxfuzz.targets.kvm_native.build.objects import usable

Run = Callable[..., tuple[int, str, str]]

FATES = ("kept", "gained", "lost", "refused")


def reply(run: Run, *arguments: object) -> dict[str, Any]:
    status, out, err = run("migrate", *arguments, "--json")
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def row(answer: dict[str, Any], index: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in answer["msrs"] if each["msr"] == index)
    return found


def table_of(path: Path, profile: str, *without: int, add: str = "") -> Path:
    lines = (f"{index:#x} = {value:#x}\n" for index, value in load_profile(profile).msrs.items())
    kept = [line for line in lines if int(line.split()[0], 0) not in without]
    path.write_text("".join(kept) + add)
    return path


# ---------------------------------------------------------------------- the answer


def test_the_refused_bit_of_5_18_is_named(run: Run) -> None:
    answer = reply(run, "5.18", "6.12", "--profile", "arrow-lake")
    assert answer["arrives"] is False
    assert answer["totals"] == {"kept": 122, "gained": 0, "lost": 0, "refused": 1}
    found = row(answer, "0x48b")
    assert found["refused"] == ["enable ENCLS exiting"]
    assert (found["write"], found["check"]) == ("refused", "restore.controls.may-be-1")
    assert (found["source"], found["fresh"]) == ("0x613fbff00000000", "0x6137bff00000000")
    refuse, keep, clear = answer["policies"]
    assert refuse == {"policy": "refuse", "arrives": False}
    assert keep["unbacked"] == clear["vanished"] == ["secondary: enable ENCLS exiting"]
    assert keep["failing"] == clear["failing"] == []
    assert answer["source"] == {"kernel": "5.18", "witness": "model", "processor": "arrow-lake"}
    assert "differences" not in answer


def test_the_totals_are_those_of_the_rows(run: Run) -> None:
    answer = reply(run, "6.12", "6.1", "--profile", "everything", "--dest-profile", "haswell")
    for fate in FATES:
        assert answer["totals"][fate] == sum(len(each[fate]) for each in answer["msrs"])
    assert answer["totals"]["refused"] > 3
    failing = answer["policies"][1]["failing"]
    assert {"base", "uses", "ended", "check"} == failing[0].keys()


def test_text_names_every_bit_and_policy(run: Run) -> None:
    status, out, _ = run("migrate", "5.18", "6.12", "--profile", "arrow-lake")
    assert status == 0
    assert "the VM does not arrive: 1 MSR is refused; kept 122, gained 0, lost 0, refused 1" in out
    assert "refused enable ENCLS exiting" in out
    assert re.search(r"^refuse +no$", out, re.M)
    assert re.search(r"^clear +yes +1 +0 +0 of 5$", out, re.M)
    assert max(map(len, out.splitlines())) <= 100


def test_one_policy_can_be_asked_for(run: Run) -> None:
    answer = reply(run, "5.18", "6.1", "--policy", "clear", "--profile", "arrow-lake")
    assert [each["policy"] for each in answer["policies"]] == ["clear"]


def test_the_same_kernel_keeps_everything(run: Run) -> None:
    answer = reply(run, "6.12", "6.12")
    assert answer["arrives"] is True
    assert answer["source"]["processor"] == "skylake-x"
    assert sum(answer["totals"].values()) == answer["totals"]["kept"]


def test_a_parameter_of_one_side_is_of_that_side(run: Run) -> None:
    without = reply(run, "6.12", "6.12", "--dest-param", "ept=N")
    assert "enable EPT" in row(without, "0x48b")["refused"]
    gained = reply(run, "6.12", "6.12", "--param", "ept=N")
    assert "enable EPT" in row(gained, "0x48b")["gained"]
    both = reply(run, "6.12", "6.12", "--param", "ept=N", "--dest-param", "ept=0")
    assert both["arrives"]


def test_hyperv_and_sgx(run: Run) -> None:
    plain = reply(run, "5.18", "6.12", "--profile", "skylake-x")
    hyperv = reply(run, "5.18", "6.12", "--profile", "skylake-x", "--evmcs")
    assert "virtual-interrupt delivery" in row(hyperv, "0x48b")["refused"]
    assert "virtual-interrupt delivery" not in row(plain, "0x48b")["refused"]
    sgx = reply(run, "5.18", "6.12", "--profile", "everything", "--sgx")
    assert sgx["arrives"]


# ---------------------------------------------------------------------- tables of MSRs


def test_a_table_of_a_processor_is_that_processor(run: Run, tmp_path: Path) -> None:
    path = table_of(tmp_path / "msrs.txt", "arrow-lake")
    named, given = (
        reply(run, "5.18", "6.12", *which)
        for which in (("--profile", "arrow-lake"), ("--msrs", path))
    )
    assert given["source"]["processor"] == given["destination"]["processor"] == str(path)
    assert row(given, "0x48b") == row(named, "0x48b")
    other = reply(run, "6.12", "6.12", "--msrs", path, "--dest-profile", "haswell")
    assert other["destination"]["processor"] == "haswell"
    back = reply(run, "6.12", "6.12", "--profile", "haswell", "--dest-msrs", path)
    assert back["totals"]["gained"]


def test_registers_that_are_not_told_are_noted(run: Run, tmp_path: Path) -> None:
    path = table_of(tmp_path / "msrs.txt", "haswell", 0x486, 0x487, 0x488, 0x489, 0x48A)
    answer = reply(run, "6.1", "6.12", "--msrs", path)
    assert len(answer["notes"]) == 1
    assert "IA32_VMX_CR4_FIXED1 (0x489)" in answer["notes"][0]
    assert "note: " in run("migrate", "6.1", "6.12", "--msrs", path)[1]


@pytest.mark.parametrize(
    ("without", "add", "message"),
    [
        ((0x482,), "", "IA32_VMX_PROCBASED_CTLS (0x482) is missing"),
        ((0x48E, 0x48C), "", "(0x48c), IA32_VMX_TRUE_PROCBASED_CTLS (0x48e) are missing"),
        ((), "0x480 = 5\n", "line 19: MSR 0x480 was already given on line 1"),
        ((), "0x3a == 5\n", "line 19: '0x3a == 5' is no MSR and its value"),
        ((0x480,), "480 = 12g\n", "line 18: '12g' is no hexadecimal number"),
    ],
)
def test_a_bad_table_is_one_sentence(
    run: Run, tmp_path: Path, without: tuple[int, ...], add: str, message: str
) -> None:
    path = table_of(tmp_path / "msrs.txt", "haswell", *without, add=add)
    for option in ("--msrs", "--dest-msrs"):
        status, out, err = run("migrate", "6.1", "6.12", option, path)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1
        assert message in err
        assert str(path) in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("5.19", "6.1"), "5.19"),
        (("6.1", "nonsense"), "nonsense"),
        (("6.1",), "DEST"),
        (("6.1", "6.12", "--profile", "skylake"), "did you mean 'skylake-x'"),
        (("6.1", "6.12", "--profile", "haswell", "--msrs", "x"), "not allowed with"),
        (("6.1", "6.12", "--msrs", "no-such-file"), "cannot read no-such-file"),
        (("6.1", "6.12", "--param", "nested=N"), "with nested=N"),
        (("6.1", "6.12", "--dest-param", "ept=perhaps"), "perhaps"),
        (("5.18", "6.12", "--param", "error_on_inconsistent_vmcs_config=N"), "no parameter"),
        (("6.1", "6.12", "--policy", "forget"), "forget"),
        (("6.1", "6.12", "--dest-profile", "yonah"), "does not load on this processor (-E"),
        (("6.1", "6.12", "--html", "no-such-folder/page.html"), "no-such-folder"),
        (("5.18", "5.18", "--real"), "not built"),
    ],
)
def test_bad_input_is_one_sentence(run: Run, arguments: tuple[str, ...], named: str) -> None:
    status, out, err = run("migrate", *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert named in err


def test_the_policies_are_those_that_there_are() -> None:
    assert migrate.POLICIES == POLICIES


def test_help_says_what_the_words_mean(run: Run) -> None:
    status, out, _ = run("migrate", "--help")
    assert status == 0
    for word in ("SOURCE", "DEST", "--dest-msrs", "--policy", "vmxcap", "kept, gained, lost"):
        assert word in " ".join(out.split())


# ---------------------------------------------------------------------- the real kernels


@pytest.mark.parametrize("hyperv", [(), ("--evmcs",)])
def test_the_kernels_themselves_say_the_same(run: Run, hyperv: tuple[str, ...]) -> None:
    for kernel in ("6.1", "6.12"):
        if missing := usable(kernel):
            pytest.skip(missing)
    answer = reply(run, "6.1", "6.12", "--profile", "sapphire-rapids", "--real", *hyperv)
    assert [answer[side]["witness"] for side in ("source", "destination")] == ["kernel"] * 2
    assert answer["differences"] == []
    half = reply(run, "5.18", "6.12", "--profile", "arrow-lake", "--real", *hyperv)
    assert half["source"]["witness"] == "model"
    assert half["differences"] == []


def carried(kernel: str, profile: str = "arrow-lake") -> MigrationTable:
    world = MsrWorld(profile, HostCpu.of(load_profile(profile)), DEFAULT_PARAMS)
    return migration_table(offering(ModelMsrs("5.18"), world), ModelMsrs(kernel), world)


def test_a_model_that_differs_is_told() -> None:
    real, model = carried("6.12"), carried("5.18")
    found = different(real, model)
    assert len(found) == 1
    assert found[0].startswith("0x48b IA32_VMX_PROCBASED_CTLS2 is 0x0613fbff00000000")
    assert different(real, real) == ()
    ends = End("5.18", "model", "arrow-lake"), End("6.12", "kernel", "arrow-lake")
    report = MigrationReport(*ends, real, (), (), found)
    assert "DIFFERENT: 0x48b" in to_text(report)
    assert "0x48b IA32_VMX_PROCBASED_CTLS2 is" in to_html(report)
    assert "the model says the same" in to_text(replace(report, differences=()))


def test_a_difference_is_the_exit_status(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing := usable("6.12"):
        pytest.skip(missing)
    monkeypatch.setattr("nvmxfuzz.cli.migrating.different", lambda *_: ("planted",))
    status, out, err = run("migrate", "6.12", "6.12", "--real", "--json")
    assert (status, err) == (1, "")
    assert json.loads(out)["differences"] == ["planted"]


# ---------------------------------------------------------------------- the page


def page(run: Run, path: Path, *arguments: object) -> ET.Element:
    status, _, _ = run("migrate", *arguments, "--html", path)
    assert status == 0
    return ET.fromstring(path.read_text())


def test_the_page_is_well_formed_and_whole(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    root = page(run, path, "5.18", "6.12", "--profile", "arrow-lake")
    text = " ".join("".join(root.itertext()).split())
    for wanted in ("5.18 to 6.12: the VM does not arrive", "enable ENCLS exiting", "restore."):
        assert wanted in text
    assert len(root.findall(".//table")) == 3
    assert len(root.findall(".//tbody/tr")) == 4 + 14 + 3
    assert root.attrib["lang"] == "en"
    source = path.read_text()
    assert source.startswith("<!DOCTYPE html>\n<html")
    assert 'name="viewport"' in source
    assert "prefers-color-scheme: dark" in source
    assert "max-width: 60rem" in source


def test_the_page_needs_nothing_from_elsewhere(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    root = page(run, path, "6.12", "6.1", "--profile", "everything", "--dest-profile", "haswell")
    tags = {element.tag for element in root.iter()}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    assert not re.search(r"https?:|url\(|@import|\bon\w+=|src=|href=", path.read_text())
    labelled = [cell.get("data-label") for cell in root.iter("td") if "".join(cell.itertext())]
    assert all(labelled)


def test_a_name_cannot_write_markup(run: Run, tmp_path: Path) -> None:
    path = table_of(tmp_path / "<script>&\u202e'\"\x01.txt", "haswell")
    root = page(run, tmp_path / "page.html", "6.1", "6.12", "--msrs", path)
    assert root.find(".//script") is None
    assert "<script>&" in "".join(root.itertext())


def test_every_row_of_the_page_and_of_the_reply_agree(run: Run, tmp_path: Path) -> None:
    arguments = ("6.12", "6.1", "--profile", "everything", "--dest-profile", "haswell")
    root = page(run, tmp_path / "page.html", *arguments)
    answer = reply(run, *arguments)
    items = {"".join(item.itertext()) for item in root.iter("li")}
    for each in answer["msrs"]:
        for fate in FATES:
            assert set(each[fate]) <= items
    with pytest.raises(InputError):
        load_profile("no such")


def test_the_example_of_the_docs_is_what_is_printed(run: Run) -> None:
    text = (Path(__file__).parents[2] / "docs" / "migrate.md").read_text()
    command, *said = text.partition("```\n$ nvmxfuzz ")[2].partition("```")[0].splitlines()
    _, out, _ = run(*command.split())
    printed = iter(out.splitlines())
    for line in said:
        assert line == "..." or any(line == each for each in printed), line

# SPDX-License-Identifier: GPL-2.0-only
"""The examples of docs/json-replies.md, held against what the commands print."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "json-replies.md"
MORE = "..."


def examples() -> list[tuple[str, list[str]]]:
    """Return each command of the page, with the lines of its reply."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ nvmxfuzz "):
                found.append((line.removeprefix("$ nvmxfuzz "), []))
            else:
                found[-1][1].append(line)
    return found


def agrees(said: object, real: object, *, exact: bool) -> bool:
    """Whether a reply is what the page says; where not `exact`, numbers and texts by type only."""
    match said, real:
        case "...", _:
            return True
        case dict(), dict():
            if MORE not in said and list(said) != list(real):
                return False
            keys = said.keys() - {MORE}
            return all(key in real and agrees(said[key], real[key], exact=exact) for key in keys)
        case list(), list():
            if MORE in said:
                said = said[: said.index(MORE)]
                real = real[: len(said)]
            if not exact and said:
                return all(agrees(said[0], each, exact=exact) for each in real)
            return len(said) == len(real) and all(
                agrees(one, other, exact=exact) for one, other in zip(said, real, strict=True)
            )
    return type(said) is type(real) and (said == real or not exact)


@pytest.mark.parametrize(("command", "reply"), examples(), ids=lambda value: str(value)[:60])
def test_the_page_says_what_the_command_prints(
    command: str,
    reply: list[str],
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    store = str(tmp_path / "campaign.db")
    name, *words = shlex.split(command.replace("campaign.db", store))
    _, out, _ = run(name, *words)
    real = [json.loads(line) for line in out.splitlines()]
    said = [json.loads(line) for line in reply]
    # What is found and counted moves with every rule: each line of it is like one said.
    exact = name not in ("fuzz", "rules", "corpus")
    if name == "fuzz":
        said = [*said[:1] * (len(real) - 1), *said[1:]]
    assert len(said) == len(real)
    for one, other in zip(said, real, strict=True):
        assert agrees(one, other, exact=exact), (one, other)


def test_the_page_tells_every_command_and_every_kind_of_outcome() -> None:
    shown = {command.split()[0] for command, _ in examples()}
    assert shown == {
        *("bisect", "check", "config", "corpus", "explain", "fuzz"),
        *("migrate", "replay", "rules", "show"),
    }
    kinds = set(re.findall(r'"kind": "([a-z-]+)"', PAGE.read_text()))
    assert kinds == {"entered", "fail-invalid", "fail-valid", "exit", "fault"}


@pytest.mark.parametrize(
    ("said", "real"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "...": 0}, {"b": 1}),
        ([1], [1, 2]),
        ([1, "..."], [2, 3]),
        (1, "1"),
        ([{"a": "x"}], [{"a": 1}]),
    ],
)
def test_a_page_that_is_wrong_is_noticed(said: object, real: object) -> None:
    assert not agrees(said, real, exact=True)

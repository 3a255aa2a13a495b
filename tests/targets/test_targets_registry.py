# SPDX-License-Identifier: GPL-2.0-only
"""Targets by name."""

import subprocess
import sys
from dataclasses import replace

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.registry import TARGETS, target_named


def test_an_unknown_name_tells_the_names() -> None:
    with pytest.raises(InputError, match="the targets are python-model, bochs"):
        target_named("simics")


def test_each_target_says_what_it_is() -> None:
    for name, entry in TARGETS.items():
        assert target_named(name) is entry
        assert entry.sentence.endswith(".")


def test_the_rules_are_always_usable() -> None:
    assert TARGETS["python-model"].usable() == ""


def test_an_unusable_target_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "the target needs a computer of its own; get one"
    monkeypatch.setattr("nvmxfuzz.targets.bochs.wheel.usable", lambda: reason)
    with pytest.raises(InputError, match="a computer of its own"):
        TARGETS["bochs"].make()
    with pytest.raises(InputError, match="a computer of its own"):
        TARGETS["bochs"].make_isolated()


def test_a_target_is_imported_only_when_it_is_asked_for() -> None:
    code = (
        "import sys; from nvmxfuzz.targets.registry import TARGETS;"
        "assert not any('bochs.' in name or name.endswith('vm_entry') for name in sys.modules);"
        "TARGETS['python-model'].make();"
        "assert not any('bochs.' in name for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_entry_names_what_exists() -> None:
    broken = replace(TARGETS["python-model"], factory="nvmxfuzz.targets.python_model:Nothing")
    with pytest.raises(AttributeError):
        broken.make()

# SPDX-License-Identifier: GPL-2.0-only
"""A way to look for faults: an engine, and what is switched off of it. `variants.toml` has all."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final, Literal

from nvmxfuzz.campaign.settings import ENGINES, EngineName
from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.outside import show
from nvmxfuzz.power.change import Change

DEFAULT: Final = "atheris"

Corpus = Literal["all", "one", "none"]


@dataclass(frozen=True, slots=True)
class Variant:
    """`changes` switch an idea off; `corpus` says what the engine begins with."""

    name: str
    sentence: str
    engine: EngineName
    corpus: Corpus
    changes: tuple[Change, ...]


@cache
def all_variants() -> Mapping[str, Variant]:
    """Return the variants by name, in the order of the table."""
    text = files(__package__).joinpath("variants.toml").read_text("utf-8")
    variants = {}
    for entry in tomllib.loads(text)["variant"]:
        (engine,) = (name for name in ENGINES if name == entry["engine"])
        variants[entry["name"]] = Variant(
            name=entry["name"],
            sentence=entry["sentence"],
            engine=engine,
            corpus=entry.get("corpus", "none"),
            changes=tuple(Change(**change) for change in entry.get("change", ())),
        )
    return variants


def variant_named(name: str) -> Variant:
    """Return the variant of that name; InputError if there is none."""
    variant = all_variants().get(name)
    if variant is None:
        raise InputError(
            f"there is no engine {show(name)}: choose among {', '.join(all_variants())}"
        )
    return variant

# SPDX-License-Identifier: GPL-2.0-only
"""Writes the little TOML that a case needs: values, lists of texts, and tables of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_LINE = 100


def quoted(text: str) -> str:
    """Return `text` as a basic string on one line."""
    # JSON spells a string as TOML does, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class Document:
    """A TOML file in the making: plain values first, then the tables, in the order given.

    With a name it is a table of a file, and those in it.
    """

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._values: list[str] = []
        self._tables: list[str] = []

    def value(self, key: str, value: Any) -> None:  # noqa: ANN401 - anything TOML can say
        """Add a value before the tables."""
        self.literal(key, _literal(value))

    def literal(self, key: str, literal: str) -> None:
        """Add a value that is TOML text already."""
        self._values.append(f"{key} = {literal}")

    def literals(self, name: str, literals: Mapping[str, str]) -> None:
        """Add a table whose values are TOML text already."""
        lines = [f"{key} = {literal}" for key, literal in literals.items()]
        path = f"{self._name}.{name}" if self._name else name
        self._tables.append("\n".join((f"[{path}]", *lines)))

    def table(self, name: str, table: Mapping[str, Any]) -> None:
        """Add a table; the tables in it follow it."""
        inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
        plain = {key: _literal(value) for key, value in table.items() if key not in inner}
        self.literals(name, plain)
        for key, value in inner.items():
            words = {quoted(at): f"0x{word:016x}" for at, word in value.items()}
            self.literals(f"{name}.{key}", words)

    def item(self, name: str, table: Mapping[str, Any]) -> None:
        """Add a table to the list of that name."""
        self.item_literals(name, {key: _literal(value) for key, value in table.items()})

    def item_literals(self, name: str, literals: Mapping[str, str]) -> None:
        """Add a table whose values are TOML text already to the list of that name."""
        lines = [f"{key} = {literal}" for key, literal in literals.items()]
        self._tables.append("\n".join((f"[[{name}]]", *lines)))

    def text(self) -> str:
        """Return the file."""
        head = [f"[{self._name}]"] if self._name else []
        return "\n\n".join(("\n".join((*head, *self._values)), *self._tables)) + "\n"


def _literal(value: Any) -> str:  # noqa: ANN401 - anything TOML can say
    if isinstance(value, list):
        texts = [_literal(item) for item in value]
        line = f"[{', '.join(texts)}]"
        if len(line) <= _LINE - len("features = "):
            return line
        return "[\n" + "".join(f"    {text},\n" for text in texts) + "]"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)

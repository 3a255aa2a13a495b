# SPDX-License-Identifier: GPL-2.0-only
"""The open file below a store: transactions, and every failure of SQLite in a sentence."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from nvmxfuzz.campaign.store.lock import lock_store
from nvmxfuzz.campaign.store.opening import open_database
from nvmxfuzz.errors import InputError


class Database:
    """A store that is open; use it in a `with` statement, or `close` it."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the file, making it if need be; InputError if it is no store or cannot be used."""
        self.path = path
        self._connection = open_database(path, read_only=read_only)
        self._lock: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and give the lock back."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def claim(self) -> None:
        """Lock the store until it is closed: for a campaign, or to rearrange the corpus.

        InputError if another process has done so.
        """
        if self._lock is None:
            self._lock = lock_store(self.path)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make one transaction of all that is written within: either all of it is kept or none."""
        if self._connection.in_transaction:
            yield
            return
        with self._explained("written to"):
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            with self._explained("written to"):
                self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let all that is read within be of one moment, whatever is written meanwhile."""
        if self._connection.in_transaction:
            yield
            return
        with self._reading() as connection:
            connection.execute("BEGIN")
        try:
            yield
        finally:
            connection.rollback()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self.together(), self._explained("written to"):
            yield self._connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._explained("read"):
            yield self._connection

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeError) as error:
            raise InputError(
                f"the store {self.path} could not be {what} ({error}): "
                "see to it, or name another one with --store"
            ) from error
        except (TypeError, ValueError) as error:
            raise InputError(f"the store {self.path} is damaged ({error}): name another one") from (
                error
            )

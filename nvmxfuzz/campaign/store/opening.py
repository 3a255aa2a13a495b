# SPDX-License-Identifier: GPL-2.0-only
"""Opening a store: making a new one, upgrading an old one, and refusing what is none or too new.

A store may be anybody's. What is asked of it has a bounded length, and it may hold nothing that
runs when a table is read or written: no view, no trigger, no virtual table, no function in its
schema but harmless ones.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from nvmxfuzz.errors import InputError

APPLICATION_ID = 0x6E766D78
"""The letters "nvmx": what marks an SQLite file as a store."""

VERSION = 2
"""The version of schema.sql."""

LONGEST_VALUE = 16 << 20
"""Bytes of one text or blob: SQLite refuses longer ones."""

_TABLES = {
    1: ("campaign", "finding", "sighting", "verdict"),
}
"""The tables of earlier versions."""

_BUSY_SECONDS = 60.0
"""How long to wait for another writer: one that was stopped for a while, or has much to write."""

_MAGIC = b"SQLite format 3\x00"


def is_store(path: Path) -> bool:
    """Whether a file is an SQLite database, by its first bytes: a store, or somebody else's.

    Only a regular file is looked into: of a pipe the bytes would be gone.
    """
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def open_database(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Return a connection to the store; InputError, in a sentence, for anything else."""
    try:
        _require_place(path, read_only=read_only)
        connection = sqlite3.connect(_uri(path, read_only), timeout=_BUSY_SECONDS, uri=True)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"the store {path} cannot be opened ({reason}): name another one"
        ) from error
    try:
        version = _prepare(connection, path, read_only=read_only)
        if read_only and version != VERSION:
            connection = _upgraded_copy(connection, version)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise InputError(_refusal(path, error)) from error
        if isinstance(error, ValueError | TypeError):
            raise InputError(f"the store {path} is damaged ({error}): name another one") from error
        raise
    return connection


def _require_place(path: Path, *, read_only: bool) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file for the store")
    if read_only and not path.exists():
        raise InputError(f"there is no store {path}: nvmxfuzz fuzz makes one")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent} to keep the store in: make it first")
    if path.exists() and path.stat().st_size and not is_store(path):
        raise InputError(f"{path} is not a store: name another file")


def _uri(path: Path, read_only: bool) -> str:
    address = f"file:{quote(os.fsencode(path.absolute()))}"
    if not read_only:
        return f"{address}?mode=rwc"
    # A reader needs files beside the store, which a read-only folder cannot have. But where there
    # is a write-ahead log, a reader that did without would miss what is in it.
    is_alone = not os.access(path.parent, os.W_OK) and not _log_of(path)
    return f"{address}?mode=ro{'&immutable=1' if is_alone else ''}"


def _log_of(path: Path) -> str | None:
    """Return the write-ahead log of a store if it has one that is not empty."""
    log = f"{path}-wal"
    return log if os.path.isfile(log) and os.path.getsize(log) else None


def _prepare(connection: sqlite3.Connection, path: Path, *, read_only: bool) -> int:
    """Make a connection fit for use; return the version that the store has then."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA foreign_keys = ON")
    version = _version(connection, path)
    if version > VERSION:
        raise InputError(
            f"the store {path} was written by a newer nvmxfuzz (version {version}, this one "
            f"knows {VERSION}): update nvmxfuzz, or name another store"
        )
    if read_only:
        if version == 0:
            raise InputError(f"the store {path} is empty: nvmxfuzz fuzz fills it")
        return version
    connection.execute("PRAGMA journal_mode = WAL")
    # A kill loses nothing so; only a power failure may undo what was written last.
    connection.execute("PRAGMA synchronous = NORMAL")
    if version == 0:
        _create(connection)
    elif version < VERSION:
        _upgrade(connection, version)
    # A store that cannot be written is to be refused now, not when the first finding comes.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
    return VERSION


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the schema, 0 for a file without any."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise InputError(f"{path} is an SQLite database, but not a store: name another file")
    (active,) = connection.execute(
        "SELECT count(*) FROM sqlite_schema WHERE type NOT IN ('table', 'index')"
        " OR sql LIKE 'create virtual%'"
    ).fetchone()
    if active:
        raise InputError(
            f"{path} has views, triggers or virtual tables, which no store has: name another file"
        )
    return int(version)


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables in one transaction, unless another process was faster."""
    connection.executescript(
        f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID};"
        f"{_sql('schema')} PRAGMA user_version = {VERSION}; COMMIT;"
    )


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables to this version in one transaction, unless another process was faster."""
    connection.execute("PRAGMA foreign_keys = OFF")
    # References to a table that is renamed are to the new one of that name, not to the old one.
    connection.execute("PRAGMA legacy_alter_table = ON")
    try:
        connection.execute("BEGIN IMMEDIATE")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found == version:
            _rewrite(connection, version)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
    connection.execute("PRAGMA legacy_alter_table = OFF")
    connection.execute("PRAGMA foreign_keys = ON")


def _rewrite(connection: sqlite3.Connection, version: int) -> None:
    tables = _TABLES[version]
    renamed = (f"ALTER TABLE {name} RENAME TO {name}_{version};" for name in tables)
    # Those that refer to others go first.
    dropped = (f"DROP TABLE {name}_{version};" for name in reversed(tables))
    script = "\n".join((*renamed, _sql("schema"), _sql(f"from_{version}"), *dropped))
    for statement in _statements(script):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _upgraded_copy(connection: sqlite3.Connection, version: int) -> sqlite3.Connection:
    """Return a copy that is thrown away in the end: who only reads may not change the store."""
    copy = sqlite3.connect("")
    try:
        connection.backup(copy)
        copy.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
        copy.execute("PRAGMA trusted_schema = OFF")
        _upgrade(copy, version)
        copy.execute("PRAGMA query_only = ON")
    except BaseException:
        copy.close()
        raise
    finally:
        connection.close()
    return copy


def _sql(name: str) -> str:
    return files(__package__).joinpath(f"{name}.sql").read_text("utf-8")


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script: `executescript` would commit before them."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _refusal(path: Path, error: sqlite3.Error) -> str:
    # The module has errors of its own, which carry no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return f"{path} is not a store, or is damaged ({error}): name another file"
    if code == sqlite3.SQLITE_BUSY:
        return f"the store {path} is in use by another campaign: wait for it, or name another store"
    if (log := _log_of(path)) and not os.access(path.parent, os.W_OK):
        return (
            f"the store {path} cannot be read in this folder, which cannot be written, because "
            f"of {log}: copy both files to another folder"
        )
    return f"the store {path} cannot be used ({error}): see to it, or name another one with --store"

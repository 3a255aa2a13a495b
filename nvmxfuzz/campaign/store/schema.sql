-- SPDX-License-Identifier: GPL-2.0-only
-- What campaigns leave behind. One file, one writer; readers may look on (write-ahead log).
-- `PRAGMA application_id` says that a file is a store, `PRAGMA user_version` is the version of this
-- schema: a store with a higher one is refused.

-- One run of `nvmxfuzz fuzz`.
CREATE TABLE campaign (
    id INTEGER PRIMARY KEY,
    -- The name of a harness in fuzz/, or the path of a Python file: from the checkout if it is in
    -- there, else from the root. The other tables say it the same way.
    harness TEXT NOT NULL,
    engine TEXT NOT NULL,
    seed INTEGER NOT NULL,
    -- By the clock of who ran it, in seconds since 1970-01-01 UTC.
    started INTEGER NOT NULL,
    seconds REAL NOT NULL DEFAULT 0,
    executions INTEGER NOT NULL DEFAULT 0,
    -- A campaign that was killed stays 'running'.
    state TEXT NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'time', 'runs', 'interrupted'))
) STRICT;

-- What an oracle found, once for each identity.
CREATE TABLE finding (
    id INTEGER PRIMARY KEY,
    harness TEXT NOT NULL,
    -- Short and exact: two findings with the same identity are the same.
    identity TEXT NOT NULL,
    oracle TEXT NOT NULL,
    -- JSON list of names.
    rules TEXT NOT NULL,
    -- JSON list of the two sides that disagree.
    targets TEXT NOT NULL,
    site TEXT NOT NULL,
    message TEXT NOT NULL,
    -- The input as the engine made it, encoded.
    data BLOB NOT NULL,
    -- The same as a TOML case, empty where it could not be decoded.
    case_text TEXT NOT NULL,
    -- The smallest case that still shows it, as TOML; NULL where none was looked for.
    minimised_text TEXT,
    -- 1 if a second run showed it again, 0 if it did not, NULL if there was none yet.
    reproduced INTEGER CHECK (reproduced IN (0, 1)),
    -- The campaign that saw it first.
    campaign INTEGER NOT NULL REFERENCES campaign (id),
    UNIQUE (harness, identity)
) STRICT;

-- How often a campaign saw a finding.
CREATE TABLE sighting (
    campaign INTEGER NOT NULL REFERENCES campaign (id),
    finding INTEGER NOT NULL REFERENCES finding (id),
    count INTEGER NOT NULL,
    PRIMARY KEY (campaign, finding)
) STRICT, WITHOUT ROWID;

-- Which rules were seen with which verdict, and by which campaign first.
CREATE TABLE verdict (
    harness TEXT NOT NULL,
    rule TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('n/a', 'held', 'broken', 'unknown')),
    campaign INTEGER NOT NULL REFERENCES campaign (id),
    PRIMARY KEY (harness, rule, verdict)
) STRICT, WITHOUT ROWID;

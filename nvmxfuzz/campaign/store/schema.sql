-- SPDX-License-Identifier: GPL-2.0-only
-- What campaigns leave behind. One file, one writer; readers may look on (write-ahead log).
-- `PRAGMA application_id` says that a file is a store, `PRAGMA user_version` is the version of this
-- schema: an older store is brought to it when it is opened to be written, a newer one is refused.
--
-- A harness is named as in fuzz/, or by the path of a Python file: from the checkout if it is in
-- there, else from the root. A target is a name of `nvmxfuzz targets`, empty where there is none.
-- `seconds` are those of a campaign, without the time between its end and its resumption.

-- One plan that was run, and resumed perhaps.
CREATE TABLE campaign (
    id INTEGER PRIMARY KEY,
    -- The plan as TOML, with everything that was given on the command line: what --resume reads.
    -- Empty if the campaign was written by a version of nvmxfuzz that had no plans.
    plan TEXT NOT NULL,
    -- What the seeds of its workers are derived from.
    seed INTEGER NOT NULL,
    -- By the clock of who ran it, in seconds since 1970-01-01 UTC.
    started INTEGER NOT NULL,
    -- When these figures were last written, by the same clock.
    updated INTEGER NOT NULL,
    -- How long it has run.
    seconds REAL NOT NULL DEFAULT 0,
    -- How many inputs its workers have executed.
    executions INTEGER NOT NULL DEFAULT 0,
    -- 'running' until it has ended, so that a campaign that was killed stays so (nobody holds the
    -- lock of the store then); else why it has ended: its time, its number of runs, no new
    -- behaviour for long enough ('idle'), everything seen that was to be ('seen'), a person, an
    -- error.
    state TEXT NOT NULL DEFAULT 'running' CHECK (
        state IN ('running', 'time', 'runs', 'idle', 'seen', 'interrupted', 'error')
    ),
    -- How often it was resumed.
    resumptions INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What one of the places for worker processes of a campaign, which run side by side, has done for
-- one job of the plan. One process after another takes a place: a job has its turn, a worker dies.
CREATE TABLE worker (
    campaign INTEGER NOT NULL REFERENCES campaign (id),
    -- The place, from 0; the same after a restart and after a resumption.
    number INTEGER NOT NULL,
    -- The number of the job in the plan, from 0.
    job INTEGER NOT NULL,
    -- Of the job, as are the next two.
    harness TEXT NOT NULL,
    target TEXT NOT NULL,
    -- Where its inputs come from: 'atheris', 'hypothesis' or 'random'.
    engine TEXT NOT NULL,
    -- Of the engine of the last process.
    seed INTEGER NOT NULL,
    -- Of all its processes together, as is the next.
    executions INTEGER NOT NULL,
    seconds REAL NOT NULL,
    -- Whether the last process is at work, has ended as it should, or has died or hung.
    state TEXT NOT NULL CHECK (state IN ('running', 'ended', 'died')),
    -- How many processes there were ...
    starts INTEGER NOT NULL,
    -- ... and how many of them died or hung.
    deaths INTEGER NOT NULL,
    -- Stability: of so many inputs that were run twice in a row ...
    rechecked INTEGER NOT NULL,
    -- ... so many did the same both times.
    stable INTEGER NOT NULL,
    PRIMARY KEY (campaign, number, job)
) STRICT, WITHOUT ROWID;

-- The corpus: inputs that showed a behaviour first, and those that somebody brought. On another
-- target the same bytes may be another case, since it may know other processors.
CREATE TABLE input (
    id INTEGER PRIMARY KEY,
    harness TEXT NOT NULL,
    target TEXT NOT NULL,
    -- SHA-256 of the data.
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    -- The case as the codec of inputs has it (docs/input-format.md).
    data BLOB NOT NULL,
    -- A seed of the repository, an engine, or `nvmxfuzz corpus import` or `merge`.
    origin TEXT NOT NULL CHECK (origin IN ('seed', 'engine', 'import')),
    -- Of a seed or an import the name of the file it came from, else empty.
    name TEXT NOT NULL DEFAULT '',
    -- The input it was made from, where the engine says so.
    parent INTEGER REFERENCES input (id) ON DELETE SET NULL,
    -- Which campaign kept it: NULL for what was imported, and for seeds.
    campaign INTEGER REFERENCES campaign (id),
    -- Which of its workers found it; NULL likewise.
    worker INTEGER,
    -- When it was kept, in the seconds of that campaign.
    seconds REAL,
    -- 1 if it ends every worker that runs it: none gets it any more.
    deadly INTEGER NOT NULL DEFAULT 0 CHECK (deadly IN (0, 1)),
    UNIQUE (harness, target, digest)
) STRICT;

-- The corpus is read in the order in which it came.
CREATE INDEX input_order ON input (harness, target);

-- Deleting an input looks for its children.
CREATE INDEX input_parent ON input (parent) WHERE parent IS NOT NULL;

-- What a harness has done under any input at all, and which input showed it first.
CREATE TABLE behaviour (
    harness TEXT NOT NULL,
    -- What the harness ran on beside its own witness.
    target TEXT NOT NULL,
    -- The name of a rule or a site, or of a condition in the code of a target.
    point TEXT NOT NULL,
    -- What was seen of the point; 'sole' is broken where nothing else was. A condition of a target
    -- has 'fired'.
    verdict TEXT NOT NULL CHECK (
        verdict IN ('n/a', 'held', 'broken', 'unknown', 'sole', 'fired')
    ),
    -- NULL if the input was not kept, or is in the corpus no more.
    input INTEGER REFERENCES input (id) ON DELETE SET NULL,
    -- NULL if no campaign has seen it, but `nvmxfuzz corpus`.
    campaign INTEGER REFERENCES campaign (id),
    -- When that campaign saw it; NULL where nobody noted it.
    seconds REAL,
    PRIMARY KEY (harness, target, point, verdict)
) STRICT, WITHOUT ROWID;

-- Deleting an input looks for what it showed.
CREATE INDEX behaviour_input ON behaviour (input) WHERE input IS NOT NULL;

-- What an oracle found, once for each identity.
CREATE TABLE finding (
    id INTEGER PRIMARY KEY,
    harness TEXT NOT NULL,
    -- What the campaign ran on that saw it first; empty also where nobody noted it.
    target TEXT NOT NULL,
    -- Short and exact: two findings with the same identity are the same.
    identity TEXT NOT NULL,
    -- The name of the oracle.
    oracle TEXT NOT NULL,
    -- JSON list of the names of what was broken.
    rules TEXT NOT NULL,
    -- JSON list of the two sides that disagree.
    targets TEXT NOT NULL,
    -- Where they do; empty where there is no such place.
    site TEXT NOT NULL,
    -- A sentence for people, which plays no part in the identity.
    message TEXT NOT NULL,
    -- The input as the engine made it, encoded.
    data BLOB NOT NULL,
    -- The same as a TOML case, empty where it could not be decoded.
    case_text TEXT NOT NULL,
    -- The smallest case that still shows it, as TOML; NULL where none was looked for.
    minimised_text TEXT,
    -- 1 if a second run showed it again, 0 if it did not, NULL if there was none yet.
    reproduced INTEGER CHECK (reproduced IN (0, 1)),
    -- Runs in fresh processes to see whether it is flaky; NULL if there were none yet ...
    reruns INTEGER,
    -- ... and how many of them showed it. It is flaky if that is fewer.
    same INTEGER CHECK (same BETWEEN 0 AND reruns),
    -- Of the kernels that were tried, the first that shows it; NULL if none was tried.
    first_bad TEXT,
    -- What the last replay made of it; NULL if there was none.
    status TEXT CHECK (status IN ('still there', 'gone', 'different')),
    -- The campaign that saw it first ...
    campaign INTEGER NOT NULL REFERENCES campaign (id),
    -- ... and when; NULL where nobody noted it.
    seconds REAL,
    UNIQUE (harness, identity)
) STRICT;

-- How often a campaign saw a finding.
CREATE TABLE sighting (
    campaign INTEGER NOT NULL REFERENCES campaign (id),
    finding INTEGER NOT NULL REFERENCES finding (id),
    count INTEGER NOT NULL,
    PRIMARY KEY (campaign, finding)
) STRICT, WITHOUT ROWID;

-- A finding asks how often all campaigns together saw it.
CREATE INDEX sighting_finding ON sighting (finding, count);

-- How often a campaign saw a known difference between witnesses, which is no finding.
CREATE TABLE known_difference (
    campaign INTEGER NOT NULL REFERENCES campaign (id),
    -- As in docs/known-differences.md and docs/known-differences-kvm.md.
    name TEXT NOT NULL,
    -- Among the inputs that were looked at closely.
    count INTEGER NOT NULL,
    PRIMARY KEY (campaign, name)
) STRICT, WITHOUT ROWID;

-- Where a campaign stood at a time: a time series, thinned out as it grows.
CREATE TABLE sample (
    id INTEGER PRIMARY KEY,
    campaign INTEGER NOT NULL REFERENCES campaign (id),
    -- NULL for the campaign as a whole.
    worker INTEGER,
    -- The time of the sample.
    seconds REAL NOT NULL,
    -- Inputs that were executed until then.
    executions INTEGER NOT NULL,
    -- Inputs that were kept.
    corpus INTEGER NOT NULL,
    -- Behaviours that were seen.
    behaviours INTEGER NOT NULL,
    -- Different findings.
    findings INTEGER NOT NULL,
    -- Edges of nested.c that were executed; NULL without coverage.
    edges INTEGER,
    -- Resident memory in bytes; NULL where the system does not say.
    rss INTEGER,
    -- From 0 to 1, see worker; NULL where nothing was run twice.
    stability REAL
) STRICT;

CREATE INDEX sample_series ON sample (campaign, worker, seconds);

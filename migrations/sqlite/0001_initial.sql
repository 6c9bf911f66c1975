-- The state. Columns are what is asked for; the rest of a row is its JSON document. Dates are RFC 3339 in UTC with nine
-- decimals, so that the order of texts is the order of times. A key is `tenant/environment/Kind/name`.

-- The platform revision in force: one row.
CREATE TABLE platform (
    id         INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    updated_at TEXT    NOT NULL,
    document   TEXT    NOT NULL
) STRICT;

-- Who each provider is (R11).
CREATE TABLE providers (
    name     TEXT NOT NULL PRIMARY KEY,
    identity TEXT NOT NULL
) STRICT;

CREATE TABLE tenants (
    tenant     TEXT NOT NULL PRIMARY KEY,
    updated_at TEXT NOT NULL,
    document   TEXT NOT NULL
) STRICT;

-- What was applied last.
CREATE TABLE inventory (
    tenant     TEXT NOT NULL,
    key        TEXT NOT NULL,
    provider   TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    document   TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT;

CREATE TABLE statuses (
    tenant     TEXT NOT NULL,
    key        TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    document   TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT;

-- Marked objects that nobody asked for.
CREATE TABLE strays (
    tenant   TEXT NOT NULL,
    key      TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT;

CREATE TABLE proposals (
    tenant     TEXT NOT NULL,
    key        TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    document   TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT;

-- Keys is a JSON list.
CREATE TABLE held_plans (
    tenant  TEXT NOT NULL,
    plan_id TEXT NOT NULL,
    kind    TEXT NOT NULL,
    keys    TEXT NOT NULL,
    PRIMARY KEY (tenant, plan_id, kind)
) STRICT;

CREATE TABLE approvals (
    tenant    TEXT NOT NULL,
    plan_id   TEXT NOT NULL,
    kind      TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    keys      TEXT NOT NULL,
    PRIMARY KEY (tenant, plan_id, kind, commit_id)
) STRICT;

-- Passwords (R12), as ciphertext only. One row a rotation, never changed; the id tells which is newest.
CREATE TABLE secrets (
    id         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant     TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    role       TEXT    NOT NULL,
    rotation   TEXT    NOT NULL,
    ciphertext BLOB    NOT NULL,
    created_at TEXT    NOT NULL,
    UNIQUE (tenant, key, role, rotation)
) STRICT;

CREATE TABLE executions (
    id           INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant       TEXT    NOT NULL,
    trigger_kind TEXT    NOT NULL,
    commit_id    TEXT,
    plan_id      TEXT,
    outcome      TEXT    NOT NULL,
    summary      TEXT    NOT NULL,
    started_at   TEXT    NOT NULL,
    finished_at  TEXT,
    -- What an event refers to: its execution is of its own tenant.
    UNIQUE (id, tenant)
) STRICT;

CREATE INDEX executions_by_tenant ON executions (tenant, id);
CREATE INDEX executions_by_end ON executions (finished_at);
CREATE INDEX executions_running ON executions (outcome) WHERE outcome = 'Running';

CREATE TABLE events (
    id        INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    execution INTEGER NOT NULL,
    tenant    TEXT    NOT NULL,
    key       TEXT,
    at        TEXT    NOT NULL,
    document  TEXT    NOT NULL,
    FOREIGN KEY (execution, tenant) REFERENCES executions (id, tenant)
) STRICT;

CREATE INDEX events_by_execution ON events (execution, id);
CREATE INDEX events_by_tenant ON events (tenant, id);
CREATE INDEX events_by_key ON events (key, id) WHERE key IS NOT NULL;

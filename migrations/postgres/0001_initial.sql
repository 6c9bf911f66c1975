-- The state, in the schema `plumb`. Columns are what is asked for; the rest of a row is its JSON document, as text: it is
-- read back as it was written. Dates are RFC 3339 in UTC with nine decimals, so that the order of texts is the order of
-- times ("C" says so whatever the database's language). A key is `tenant/environment/Kind/name`.

-- The platform revision in force: one row.
CREATE TABLE platform (
    id         BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    updated_at TEXT    COLLATE "C" NOT NULL,
    document   TEXT    NOT NULL
);

-- Who each provider is (R11).
CREATE TABLE providers (
    name     TEXT NOT NULL PRIMARY KEY,
    identity TEXT NOT NULL
);

CREATE TABLE tenants (
    tenant     TEXT NOT NULL PRIMARY KEY,
    updated_at TEXT COLLATE "C" NOT NULL,
    document   TEXT NOT NULL
);

-- What was applied last.
CREATE TABLE inventory (
    tenant     TEXT NOT NULL,
    key        TEXT NOT NULL,
    provider   TEXT NOT NULL,
    updated_at TEXT COLLATE "C" NOT NULL,
    document   TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
);

CREATE TABLE statuses (
    tenant     TEXT NOT NULL,
    key        TEXT NOT NULL,
    updated_at TEXT COLLATE "C" NOT NULL,
    document   TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
);

-- Marked objects that nobody asked for.
CREATE TABLE strays (
    tenant   TEXT NOT NULL,
    key      TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
);

CREATE TABLE proposals (
    tenant     TEXT NOT NULL,
    key        TEXT NOT NULL,
    updated_at TEXT COLLATE "C" NOT NULL,
    document   TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
);

-- Keys is a JSON list.
CREATE TABLE held_plans (
    tenant  TEXT NOT NULL,
    plan_id TEXT NOT NULL,
    kind    TEXT NOT NULL,
    keys    TEXT NOT NULL,
    PRIMARY KEY (tenant, plan_id, kind)
);

CREATE TABLE approvals (
    tenant    TEXT NOT NULL,
    plan_id   TEXT NOT NULL,
    kind      TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    keys      TEXT NOT NULL,
    PRIMARY KEY (tenant, plan_id, kind, commit_id)
);

-- Passwords (R12), as ciphertext only. One row a rotation, never changed; the id tells which is newest.
CREATE TABLE secrets (
    id         BIGINT  NOT NULL PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    tenant     TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    role       TEXT    NOT NULL,
    rotation   TEXT    NOT NULL,
    ciphertext BYTEA   NOT NULL,
    created_at TEXT    COLLATE "C" NOT NULL,
    UNIQUE (tenant, key, role, rotation)
);

CREATE TABLE executions (
    id           BIGINT  NOT NULL PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    tenant       TEXT    NOT NULL,
    trigger_kind TEXT    NOT NULL,
    commit_id    TEXT,
    plan_id      TEXT,
    outcome      TEXT    NOT NULL,
    summary      TEXT    NOT NULL,
    started_at   TEXT    COLLATE "C" NOT NULL,
    finished_at  TEXT    COLLATE "C",
    -- What an event refers to: its execution is of its own tenant.
    UNIQUE (id, tenant)
);

CREATE INDEX executions_by_tenant ON executions (tenant, id);
CREATE INDEX executions_by_end ON executions (finished_at);
CREATE INDEX executions_running ON executions (outcome) WHERE outcome = 'Running';

CREATE TABLE events (
    id        BIGINT  NOT NULL PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    execution BIGINT  NOT NULL,
    tenant    TEXT    NOT NULL,
    key       TEXT,
    at        TEXT    COLLATE "C" NOT NULL,
    document  TEXT    NOT NULL,
    FOREIGN KEY (execution, tenant) REFERENCES executions (id, tenant)
);

CREATE INDEX events_by_execution ON events (execution, id);
CREATE INDEX events_by_tenant ON events (tenant, id);
CREATE INDEX events_by_key ON events (key, id) WHERE key IS NOT NULL;

-- A transaction sees and changes the rows of its own tenant, or of all where it works for the platform. Both are set for
-- each transaction; one that sets neither sees nothing.
CREATE FUNCTION works_for_platform() RETURNS boolean LANGUAGE sql STABLE AS
    $$ SELECT current_setting('plumb.scope', true) IS NOT DISTINCT FROM 'platform' $$;

CREATE FUNCTION works_for(tenant text) RETURNS boolean LANGUAGE sql STABLE AS
    $$ SELECT CASE current_setting('plumb.scope', true)
                  WHEN 'platform' THEN true
                  WHEN 'tenant' THEN tenant = current_setting('plumb.tenant', true)
                  ELSE false
              END $$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['tenants', 'inventory', 'statuses', 'strays', 'proposals', 'held_plans', 'approvals',
                                'secrets', 'executions', 'events']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY own_rows ON %I USING (works_for(tenant)) WITH CHECK (works_for(tenant))', name);
    END LOOP;
    -- What belongs to no tenant is everybody's to read.
    FOREACH name IN ARRAY ARRAY['platform', 'providers']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY everybody_reads ON %I FOR SELECT USING (true)', name);
        EXECUTE format('CREATE POLICY platform_writes ON %I USING (works_for_platform()) WITH CHECK (works_for_platform())',
                       name);
    END LOOP;
END
$$;

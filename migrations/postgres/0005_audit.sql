-- Who or what did what: one chain a tenant, and one of the platform (tenant ''). The numbers of a chain have no gap, and
-- each row's hash is over the row and the hash before it.
CREATE TABLE audit (
    tenant   TEXT   COLLATE "C" NOT NULL,
    id       BIGINT NOT NULL,
    at       TEXT   COLLATE "C" NOT NULL,
    actor    TEXT   NOT NULL,
    action   TEXT   NOT NULL,
    key      TEXT,
    details  TEXT   NOT NULL,
    previous TEXT   NOT NULL,
    hash     TEXT   NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE INDEX audit_by_time ON audit (at);

-- Where each chain begins, since its oldest rows may have been cut off, and where it ends.
CREATE TABLE audit_heads (
    tenant         TEXT   COLLATE "C" NOT NULL PRIMARY KEY,
    first_id       BIGINT NOT NULL,
    first_previous TEXT   NOT NULL,
    last_id        BIGINT NOT NULL,
    last_hash      TEXT   NOT NULL
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['audit', 'audit_heads']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY own_rows ON %I USING (works_for(tenant)) WITH CHECK (works_for(tenant))', name);
    END LOOP;
END
$$;

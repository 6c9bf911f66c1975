-- Steps that failed, with when they are tried again.
CREATE TABLE attempts (
    tenant   TEXT NOT NULL,
    key      TEXT NOT NULL,
    updated_at TEXT COLLATE "C" NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
);

-- Providers that do not answer.
CREATE TABLE circuits (
    provider TEXT NOT NULL PRIMARY KEY,
    document TEXT NOT NULL
);

ALTER TABLE attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE attempts FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON attempts USING (works_for(tenant)) WITH CHECK (works_for(tenant));

ALTER TABLE circuits ENABLE ROW LEVEL SECURITY;
ALTER TABLE circuits FORCE ROW LEVEL SECURITY;
CREATE POLICY everybody_reads ON circuits FOR SELECT USING (true);
CREATE POLICY platform_writes ON circuits USING (works_for_platform()) WITH CHECK (works_for_platform());

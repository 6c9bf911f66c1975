-- Changes that are undone together.
CREATE TABLE sagas (
    tenant      TEXT NOT NULL,
    environment TEXT NOT NULL,
    document    TEXT NOT NULL,
    PRIMARY KEY (tenant, environment)
);

ALTER TABLE sagas ENABLE ROW LEVEL SECURITY;
ALTER TABLE sagas FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON sagas USING (works_for(tenant)) WITH CHECK (works_for(tenant));

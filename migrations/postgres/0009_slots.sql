-- What runs on each provider, over all replicas. A slot is taken while the lease it was taken under is held.
CREATE TABLE slots (
    provider   TEXT   NOT NULL,
    number     BIGINT NOT NULL,
    tenant     TEXT   NOT NULL,
    generation BIGINT NOT NULL,
    PRIMARY KEY (provider, number)
);

ALTER TABLE slots ENABLE ROW LEVEL SECURITY;
ALTER TABLE slots FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON slots USING (works_for(tenant)) WITH CHECK (works_for(tenant));

-- How many holders in a row gave no sign of life while they looked at a tenant. A table of its own: replicas of the version
-- before ask the queue for all of its columns, and a statement that is prepared is refused once there are others.
CREATE TABLE abandoned (
    tenant TEXT   NOT NULL PRIMARY KEY,
    looks  BIGINT NOT NULL
);

ALTER TABLE abandoned ENABLE ROW LEVEL SECURITY;
ALTER TABLE abandoned FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON abandoned USING (works_for(tenant)) WITH CHECK (works_for(tenant));

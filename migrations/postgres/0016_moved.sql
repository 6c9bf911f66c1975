-- Where the state was moved to, once it was: one row. What is left here is not the state any more.
CREATE TABLE moved (
    id       BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    place    TEXT   NOT NULL,
    moved_at TEXT   NOT NULL
);

ALTER TABLE moved ENABLE ROW LEVEL SECURITY;
ALTER TABLE moved FORCE ROW LEVEL SECURITY;
CREATE POLICY everybody_reads ON moved FOR SELECT USING (true);
CREATE POLICY platform_writes ON moved USING (works_for_platform()) WITH CHECK (works_for_platform());

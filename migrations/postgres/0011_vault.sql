-- Which key the passwords are encrypted with, by its id: one row, written once. A replica with another key is refused.
CREATE TABLE vault (
    id     BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    key_id TEXT   NOT NULL
);

ALTER TABLE vault ENABLE ROW LEVEL SECURITY;
ALTER TABLE vault FORCE ROW LEVEL SECURITY;
CREATE POLICY everybody_reads ON vault FOR SELECT USING (true);
CREATE POLICY platform_writes ON vault USING (works_for_platform()) WITH CHECK (works_for_platform());

-- What runs on each provider, over all replicas. One process alone reconciles on SQLite, and counts for itself; the table
-- is there so that both databases hold the same.
CREATE TABLE slots (
    provider   TEXT    NOT NULL,
    number     INTEGER NOT NULL,
    tenant     TEXT    NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (provider, number)
) STRICT;

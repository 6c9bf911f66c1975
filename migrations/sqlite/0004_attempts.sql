-- Steps that failed, with when they are tried again.
CREATE TABLE attempts (
    tenant   TEXT NOT NULL,
    key      TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT;

-- Providers that do not answer.
CREATE TABLE circuits (
    provider TEXT NOT NULL PRIMARY KEY,
    document TEXT NOT NULL
) STRICT;

-- Who or what did what: one chain a tenant, and one of the platform (tenant ''). The numbers of a chain have no gap, and
-- each row's hash is over the row and the hash before it.
CREATE TABLE audit (
    tenant   TEXT    NOT NULL,
    id       INTEGER NOT NULL,
    at       TEXT    NOT NULL,
    actor    TEXT    NOT NULL,
    action   TEXT    NOT NULL,
    key      TEXT,
    details  TEXT    NOT NULL,
    previous TEXT    NOT NULL,
    hash     TEXT    NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT;

CREATE INDEX audit_by_time ON audit (at);

-- Where each chain begins, since its oldest rows may have been cut off, and where it ends.
CREATE TABLE audit_heads (
    tenant         TEXT    NOT NULL PRIMARY KEY,
    first_id       INTEGER NOT NULL,
    first_previous TEXT    NOT NULL,
    last_id        INTEGER NOT NULL,
    last_hash      TEXT    NOT NULL
) STRICT;

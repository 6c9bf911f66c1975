-- How many holders in a row gave no sign of life while they looked at a tenant.
CREATE TABLE abandoned (
    tenant TEXT    NOT NULL PRIMARY KEY,
    looks  INTEGER NOT NULL
) STRICT;

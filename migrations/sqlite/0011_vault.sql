-- Which key the passwords are encrypted with, by its id: one row, written once. Whoever comes with another key is refused.
CREATE TABLE vault (
    id     INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    key_id TEXT    NOT NULL
) STRICT;

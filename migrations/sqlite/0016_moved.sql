-- Where the state was moved to, once it was: one row. What is left here is not the state any more.
CREATE TABLE moved (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    place    TEXT    NOT NULL,
    moved_at TEXT    NOT NULL
) STRICT;

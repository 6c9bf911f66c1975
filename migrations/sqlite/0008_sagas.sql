-- Changes that are undone together.
CREATE TABLE sagas (
    tenant      TEXT NOT NULL,
    environment TEXT NOT NULL,
    document    TEXT NOT NULL,
    PRIMARY KEY (tenant, environment)
) STRICT;

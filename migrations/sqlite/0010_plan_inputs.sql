-- What plans were made of, beside git, so that each can be made again. Scenes are large and often the same from one look
-- to the next, so each is kept once.
CREATE TABLE plan_inputs (
    tenant    TEXT    NOT NULL,
    execution INTEGER NOT NULL,
    pass      INTEGER NOT NULL,
    scene     TEXT    NOT NULL,
    packed    BLOB    NOT NULL,
    PRIMARY KEY (tenant, execution, pass)
) STRICT;

CREATE INDEX plan_inputs_by_scene ON plan_inputs (tenant, scene);

CREATE TABLE scenes (
    tenant TEXT NOT NULL,
    hash   TEXT NOT NULL,
    packed BLOB NOT NULL,
    PRIMARY KEY (tenant, hash)
) STRICT;

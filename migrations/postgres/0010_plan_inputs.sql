-- What plans were made of, beside git, so that each can be made again. Scenes are large and often the same from one look
-- to the next, so each is kept once.
CREATE TABLE plan_inputs (
    tenant    TEXT   NOT NULL,
    execution BIGINT NOT NULL,
    pass      BIGINT NOT NULL,
    scene     TEXT   NOT NULL,
    packed    BYTEA  NOT NULL,
    PRIMARY KEY (tenant, execution, pass)
);

CREATE INDEX plan_inputs_by_scene ON plan_inputs (tenant, scene);

ALTER TABLE plan_inputs ENABLE ROW LEVEL SECURITY;
ALTER TABLE plan_inputs FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON plan_inputs USING (works_for(tenant)) WITH CHECK (works_for(tenant));

CREATE TABLE scenes (
    tenant TEXT  NOT NULL,
    hash   TEXT  NOT NULL,
    packed BYTEA NOT NULL,
    PRIMARY KEY (tenant, hash)
);

ALTER TABLE scenes ENABLE ROW LEVEL SECURITY;
ALTER TABLE scenes FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON scenes USING (works_for(tenant)) WITH CHECK (works_for(tenant));

-- Which tenants need a look, and who looks at them: one row a tenant. Width is 0 (what changed), 1 (shallow) or 2 (deep).
CREATE TABLE queue (
    tenant          TEXT   NOT NULL PRIMARY KEY,
    -- The look that is asked for; NULL when none is.
    trigger_kind    TEXT,
    width           BIGINT,
    due_at          TEXT   COLLATE "C",
    -- Rises with every claim; what is written under an older one is refused.
    generation      BIGINT NOT NULL DEFAULT 0,
    -- Who looks now, and at what; after lease_until somebody else may.
    holder          TEXT,
    lease_until     TEXT   COLLATE "C",
    claimed_at      TEXT   COLLATE "C",
    claimed_trigger TEXT,
    claimed_width   BIGINT,
    failures        BIGINT NOT NULL DEFAULT 0,
    -- The refs that the last look saw, and when it ended.
    seen            TEXT,
    looked_at       TEXT   COLLATE "C"
);

CREATE INDEX queue_by_due ON queue (due_at) WHERE holder IS NULL;
CREATE INDEX queue_by_lease ON queue (lease_until) WHERE holder IS NOT NULL;

ALTER TABLE queue ENABLE ROW LEVEL SECURITY;
ALTER TABLE queue FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON queue USING (works_for(tenant)) WITH CHECK (works_for(tenant));

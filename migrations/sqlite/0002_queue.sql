-- Which tenants need a look, and who looks at them: one row a tenant. Width is 0 (what changed), 1 (shallow) or 2 (deep).
CREATE TABLE queue (
    tenant          TEXT    NOT NULL PRIMARY KEY,
    -- The look that is asked for; NULL when none is.
    trigger_kind    TEXT,
    width           INTEGER,
    due_at          TEXT,
    -- Rises with every claim; what is written under an older one is refused.
    generation      INTEGER NOT NULL DEFAULT 0,
    -- Who looks now, and at what; after lease_until somebody else may.
    holder          TEXT,
    lease_until     TEXT,
    claimed_at      TEXT,
    claimed_trigger TEXT,
    claimed_width   INTEGER,
    failures        INTEGER NOT NULL DEFAULT 0,
    -- The refs that the last look saw, and when it ended.
    seen            TEXT,
    looked_at       TEXT
) STRICT;

CREATE INDEX queue_by_due ON queue (due_at) WHERE holder IS NULL;
CREATE INDEX queue_by_lease ON queue (lease_until) WHERE holder IS NOT NULL;

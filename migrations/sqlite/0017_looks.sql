-- When the holder of a tenant gave its last sign of life, when what waits began to, and when a look inside each object ended
-- last. Of what lies further ahead than now the clock was set back since.
ALTER TABLE queue ADD COLUMN alive_at TEXT;
ALTER TABLE queue ADD COLUMN asked_at TEXT;
ALTER TABLE queue ADD COLUMN deep_at TEXT;

-- When the holder of a tenant gave its last sign of life, when what waits began to, and when a look inside each object ended
-- last. Of what lies further ahead than now the clock was set back since. Columns are read by their names, so that replicas of
-- the version before go on.
ALTER TABLE queue ADD COLUMN alive_at TEXT COLLATE "C";
ALTER TABLE queue ADD COLUMN asked_at TEXT COLLATE "C";
ALTER TABLE queue ADD COLUMN deep_at TEXT COLLATE "C";

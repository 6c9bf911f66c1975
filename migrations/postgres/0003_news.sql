-- A name for the newest refs that a poll asked a look for.
ALTER TABLE queue ADD COLUMN news TEXT;

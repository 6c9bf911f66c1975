-- One process alone reconciles on SQLite, and counts what runs on each provider itself.
SELECT 1;

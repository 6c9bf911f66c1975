-- SQLite keeps events and the audit log in one table each: deleting old rows is cheap enough in one file.
SELECT 1;

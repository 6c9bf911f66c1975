-- Whoever may write the file may write all of it. Of the audit log, the chain shows it.
SELECT 1;

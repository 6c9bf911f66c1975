-- There are no months to drop.
SELECT 1;

-- What is kept of executions is the newest look at each tenant, which an execution that showed a secret is not: a month
-- that held the events of that look went with it, where a secret was shown since.

-- Drops the partitions of months that ended before the time that is given and of which nothing is kept; says how many rows
-- went with them. Events are kept with their execution; of the audit log, what its chain still holds.
CREATE OR REPLACE FUNCTION drop_months(parent text, before text) RETURNS bigint LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = plumb, pg_temp AS $$
DECLARE
    part text;
    kept text;
    is_kept boolean;
    counted bigint;
    gone bigint := 0;
BEGIN
    IF NOT works_for_platform() THEN
        RAISE EXCEPTION 'months are dropped for the platform alone';
    END IF;
    kept := CASE parent
        WHEN 'events' THEN
            'SELECT FROM %I AS past JOIN executions AS run ON run.id = past.execution
             WHERE run.finished_at IS NULL OR run.finished_at >= $1
                OR run.id IN (WITH RECURSIVE newest(tenant, id) AS (
                    (SELECT tenant, id FROM executions WHERE trigger_kind <> ''secretshown''
                     ORDER BY tenant DESC, id DESC LIMIT 1)
                    UNION ALL
                    SELECT look.tenant, look.id FROM newest CROSS JOIN LATERAL (
                        SELECT tenant, id FROM executions
                        WHERE tenant < newest.tenant AND trigger_kind <> ''secretshown''
                        ORDER BY tenant DESC, id DESC LIMIT 1) AS look)
                    SELECT id FROM newest)'
        WHEN 'audit' THEN
            'SELECT FROM %I AS past LEFT JOIN audit_heads AS head ON head.tenant = past.tenant
             WHERE head.tenant IS NULL OR past.id >= head.first_id OR $1 IS NULL'
    END;
    FOR part IN
        SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = format('plumb.%I', parent)::regclass AND c.relname ~ ('^' || parent || '_\d{4}_\d{2}$')
    LOOP
        CONTINUE WHEN to_char(to_date(right(part, 7), 'YYYY_MM') + interval '1 month', 'YYYY-MM') COLLATE "C" > before;
        EXECUTE format('SELECT EXISTS (' || kept || ')', part) INTO is_kept USING before;
        CONTINUE WHEN is_kept;
        EXECUTE format('SELECT count(*) FROM %I', part) INTO counted;
        EXECUTE format('DROP TABLE %I', part);
        gone := gone + counted;
    END LOOP;
    RETURN gone;
END
$$;

-- Events and the audit log, a partition a month: old months are dropped whole, and what is asked of new ones does not
-- read old ones. Months are ranges over the text of their times, which sorts as times do. What no month takes is in the
-- partition `_default`, so that no row is ever refused.

-- As the platform, or the rows of these tables would not be seen.
SELECT set_config('plumb.scope', 'platform', true);

ALTER TABLE events RENAME TO events_whole;
ALTER TABLE events_whole RENAME CONSTRAINT events_pkey TO events_whole_pkey;
ALTER SEQUENCE events_id_seq RENAME TO events_whole_id_seq;
DROP INDEX events_by_execution;
DROP INDEX events_by_tenant;
DROP INDEX events_by_key;

CREATE TABLE events (
    id        BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY,
    execution BIGINT NOT NULL,
    tenant    TEXT   NOT NULL,
    key       TEXT,
    at        TEXT   COLLATE "C" NOT NULL,
    document  TEXT   NOT NULL,
    PRIMARY KEY (id, at),
    FOREIGN KEY (execution, tenant) REFERENCES executions (id, tenant)
) PARTITION BY RANGE (at);

CREATE INDEX events_by_execution ON events (execution, id);
CREATE INDEX events_by_tenant ON events (tenant, id);
CREATE INDEX events_by_key ON events (key, id) WHERE key IS NOT NULL;

ALTER TABLE audit RENAME TO audit_whole;
ALTER TABLE audit_whole RENAME CONSTRAINT audit_pkey TO audit_whole_pkey;
DROP INDEX audit_by_time;

CREATE TABLE audit (
    tenant   TEXT   COLLATE "C" NOT NULL,
    id       BIGINT NOT NULL,
    at       TEXT   COLLATE "C" NOT NULL,
    actor    TEXT   NOT NULL,
    action   TEXT   NOT NULL,
    key      TEXT,
    details  TEXT   NOT NULL,
    previous TEXT   NOT NULL,
    hash     TEXT   NOT NULL,
    PRIMARY KEY (tenant, id, at)
) PARTITION BY RANGE (at);

CREATE INDEX audit_by_time ON audit (at);

-- Who asks a partition by its own name sees what it sees in the whole table.
CREATE FUNCTION guard_rows(name text) RETURNS void LANGUAGE plpgsql SET search_path = plumb, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY own_rows ON %I USING (works_for(tenant)) WITH CHECK (works_for(tenant))', name);
END
$$;

-- Makes the partition of a month ('2026-11'), where there is none. Rows of it that are in the default partition move.
CREATE FUNCTION make_month(parent text, month text) RETURNS void LANGUAGE plpgsql SET search_path = plumb, pg_temp AS $$
DECLARE
    part text := parent || '_' || replace(month, '-', '_');
    next text := to_char(to_date(month, 'YYYY-MM') + interval '1 month', 'YYYY-MM');
BEGIN
    IF to_regclass(format('plumb.%I', part)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part, parent);
    EXECUTE format('WITH moved AS (DELETE FROM %I WHERE at >= %L AND at < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
                   parent || '_default', month, next, part);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part, month, next);
    PERFORM guard_rows(part);
END
$$;

-- The two that the service calls; it owns nothing, so they work as the owner, for the platform alone.

-- Makes the partitions of the month that is given and of so many after it.
CREATE FUNCTION make_months(first text, ahead integer) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = plumb, pg_temp AS $$
BEGIN
    IF NOT works_for_platform() OR first !~ '^\d{4}-\d{2}$' OR ahead NOT BETWEEN 0 AND 24 THEN
        RAISE EXCEPTION 'months are made for the platform alone, by their names';
    END IF;
    FOR number IN 0 .. ahead LOOP
        PERFORM make_month('events', to_char(to_date(first, 'YYYY-MM') + make_interval(months => number), 'YYYY-MM'));
        PERFORM make_month('audit', to_char(to_date(first, 'YYYY-MM') + make_interval(months => number), 'YYYY-MM'));
    END LOOP;
END
$$;

-- Drops the partitions of months that ended before the time that is given and of which nothing is kept; says how many rows
-- went with them. Events are kept with their execution; of the audit log, what its chain still holds.
CREATE FUNCTION drop_months(parent text, before text) RETURNS bigint LANGUAGE plpgsql
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
                OR run.id IN (SELECT max(id) FROM executions GROUP BY tenant)'
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

REVOKE ALL ON FUNCTION guard_rows(text), make_month(text, text), make_months(text, integer), drop_months(text, text)
    FROM PUBLIC;

CREATE TABLE events_default PARTITION OF events DEFAULT;
CREATE TABLE audit_default PARTITION OF audit DEFAULT;
SELECT guard_rows(name) FROM unnest(ARRAY['events', 'events_default', 'audit', 'audit_default']) AS name;

-- The months that there are rows of, then the rows.
DO $$
DECLARE
    month text;
BEGIN
    FOR month IN SELECT DISTINCT left(at, 7) FROM events_whole WHERE at ~ '^\d{4}-\d{2}-' LOOP
        PERFORM make_month('events', month);
    END LOOP;
    FOR month IN SELECT DISTINCT left(at, 7) FROM audit_whole WHERE at ~ '^\d{4}-\d{2}-' LOOP
        PERFORM make_month('audit', month);
    END LOOP;
END
$$;

INSERT INTO events (id, execution, tenant, key, at, document) OVERRIDING SYSTEM VALUE
    SELECT id, execution, tenant, key, at, document FROM events_whole;
INSERT INTO audit (tenant, id, at, actor, action, key, details, previous, hash)
    SELECT tenant, id, at, actor, action, key, details, previous, hash FROM audit_whole;

-- Numbers are never given twice.
SELECT setval(pg_get_serial_sequence('events', 'id'), last_value, is_called) FROM events_whole_id_seq;

DROP TABLE events_whole;
DROP TABLE audit_whole;

SELECT make_months(to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM'), 2);

-- What is on record is added to. The service changes nothing, and removes only as retention does: for the platform alone, and
-- of the audit log from the beginning of a chain. What is old the database does not know; of what was cut off beside
-- retention, `plumb audit --verify` tells. Whoever owns the tables may do as they like with them.
CREATE OR REPLACE FUNCTION keep_on_record() RETURNS trigger LANGUAGE plpgsql SET search_path = plumb, pg_temp AS $$
DECLARE
    is_owner boolean := pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE');
BEGIN
    IF TG_OP = 'UPDATE' AND is_owner THEN
        RETURN NEW;
    ELSIF TG_OP = 'DELETE' AND is_owner THEN
        RETURN OLD;
    ELSIF TG_OP = 'DELETE' AND works_for_platform() THEN
        IF TG_ARGV[0] = 'events' THEN
            RETURN OLD;
        ELSIF OLD.id < (SELECT first_id FROM audit_heads WHERE tenant = OLD.tenant) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'what is on record is neither changed nor removed';
END
$$;

-- A chain goes on at its end, and is cut at its beginning as retention works.
CREATE OR REPLACE FUNCTION keep_chain() RETURNS trigger LANGUAGE plpgsql SET search_path = plumb, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.tenant = OLD.tenant
        AND (NEW.last_id > OLD.last_id OR (NEW.last_id, NEW.last_hash) = (OLD.last_id, OLD.last_hash))
        AND ((NEW.first_id, NEW.first_previous) = (OLD.first_id, OLD.first_previous)
             OR (NEW.first_id > OLD.first_id AND works_for_platform())) THEN
        RETURN NEW;
    ELSIF pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE') THEN
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END IF;
    RAISE EXCEPTION 'what is on record is neither changed nor removed';
END
$$;

DROP TRIGGER IF EXISTS keep_on_record ON events;
CREATE TRIGGER keep_on_record BEFORE UPDATE OR DELETE ON events
    FOR EACH ROW EXECUTE FUNCTION keep_on_record('events');
DROP TRIGGER IF EXISTS keep_on_record ON audit;
CREATE TRIGGER keep_on_record BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION keep_on_record('audit');
DROP TRIGGER IF EXISTS keep_chain ON audit_heads;
CREATE TRIGGER keep_chain BEFORE UPDATE OR DELETE ON audit_heads
    FOR EACH ROW EXECUTE FUNCTION keep_chain();

-- Which commit was read last is asked at each look that finds a new one, however long the chain is.
CREATE INDEX audit_by_action ON audit (tenant, action, id);

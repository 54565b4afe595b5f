-- Kept answers that gateways forget. A row for each route and path that was ever named, with the version of the last time,
-- so that the table does not grow with use.
CREATE TABLE cache_purges (
    -- None is every route.
    route       smallint    REFERENCES routes (number),
    path_prefix text        NOT NULL CHECK (path_prefix = '' OR path_prefix LIKE '/%'),
    version     bigint      NOT NULL,
    purged_at   timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (route, path_prefix)
);
CREATE INDEX cache_purges_version ON cache_purges (version);
CREATE TRIGGER cache_purges_version BEFORE INSERT OR UPDATE ON cache_purges FOR EACH ROW EXECUTE FUNCTION bump_version();

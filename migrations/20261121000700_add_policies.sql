-- How upstreams are called and requests handled, as written in the catalogue file: model::policy.
ALTER TABLE upstreams ADD COLUMN policy jsonb NOT NULL DEFAULT '{}';
ALTER TABLE routes ADD COLUMN policy jsonb NOT NULL DEFAULT '{}';

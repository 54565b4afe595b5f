-- Features that not everybody on a plan has, that one consumer has for a time, and that work in variants.
ALTER TABLE features ADD COLUMN life jsonb NOT NULL DEFAULT '{}';

-- A feature given to one consumer, whatever its plan.
CREATE TABLE feature_grants (
    consumer_id text        NOT NULL REFERENCES consumers (id),
    feature     text        NOT NULL REFERENCES features (slug),
    -- The first instant without it; none means until it is withdrawn.
    until       timestamptz,
    granted_at  timestamptz NOT NULL,
    PRIMARY KEY (consumer_id, feature)
);

-- Combinations of variants that some consumer has or had, such as `ranking=b`: usage refers to their numbers.
CREATE TABLE variant_sets (
    number smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    words  text     NOT NULL UNIQUE
);

-- 0 for a request under no variant.
ALTER TABLE requests ADD COLUMN variants smallint NOT NULL DEFAULT 0;

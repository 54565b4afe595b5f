-- What one consumer has in place of what its plan says: another quota, other limits, a feature on or off, for a time.
CREATE TABLE overrides (
    id          text        PRIMARY KEY,
    consumer_id text        NOT NULL REFERENCES consumers (id),
    -- model::overrides::Change
    change      jsonb       NOT NULL,
    -- For the provider's own people and the audit log.
    reason      text        NOT NULL,
    starts_at   timestamptz NOT NULL,
    -- The first instant without it; none means until it is removed.
    ends_at     timestamptz CHECK (ends_at > starts_at),
    created_by  text        NOT NULL,
    created_at  timestamptz NOT NULL,
    -- When somebody ended it early, or took it back before it began.
    removed_at  timestamptz
);
CREATE INDEX overrides_consumer_id ON overrides (consumer_id);

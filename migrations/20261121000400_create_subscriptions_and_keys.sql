-- Agreements, keys, and what the gateway is told about them.
-- One sequence numbers every change a gateway must hear of. It is drawn under a lock that is held until commit, so
-- the numbers become visible in order and a gateway that has seen version n has missed nothing below it.
CREATE SEQUENCE snapshot_version_seq;

CREATE FUNCTION next_snapshot_version() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7770001);
    -- A hint only: listeners scan for what is newer than they have.
    PERFORM pg_notify('snapshot', '');
    RETURN nextval('snapshot_version_seq');
END $$;

CREATE FUNCTION bump_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := next_snapshot_version();
    RETURN NEW;
END $$;

-- One row: bumping its version announces a new routing table.
CREATE TABLE routing_state (
    id      boolean PRIMARY KEY DEFAULT true CHECK (id),
    version bigint  NOT NULL
);
CREATE TRIGGER routing_state_version BEFORE INSERT OR UPDATE ON routing_state FOR EACH ROW EXECUTE FUNCTION bump_version();
INSERT INTO routing_state (version) VALUES (0);

CREATE TABLE subscriptions (
    id                    text        PRIMARY KEY CHECK (id LIKE 'sub\_%'),
    consumer_id           text        NOT NULL REFERENCES consumers (id),
    plan_version_id       text        NOT NULL REFERENCES plan_versions (id),
    interval              text        NOT NULL CHECK (interval IN ('month', 'year')),
    status                text        NOT NULL CHECK (status IN ('active', 'incomplete', 'past_due', 'suspended', 'cancelled')),
    settlement            text        NOT NULL CHECK (settlement IN ('stripe', 'free', 'complimentary')),
    period_start          timestamptz NOT NULL,
    period_end            timestamptz NOT NULL CHECK (period_end > period_start),
    -- What the calendar periods of a subscription without Stripe are counted from.
    anchor                timestamptz NOT NULL,
    cancel_at_period_end  boolean     NOT NULL DEFAULT false,
    -- A change that begins with the next period.
    scheduled_plan_version_id text    REFERENCES plan_versions (id),
    scheduled_interval    text        CHECK (scheduled_interval IN ('month', 'year')),
    -- Access goes on until then although a renewal failed.
    grace_until           timestamptz,
    -- An upgrade waits for its payment until then; the plan stays as it was.
    pending_until         timestamptz,
    stripe_subscription   text        UNIQUE,
    stripe_schedule       text,
    -- Stripe's newest invoice of it: the one to pay when a payment failed.
    stripe_invoice        text,
    created_at            timestamptz NOT NULL,
    ended_at              timestamptz
);
-- At most one agreement in force.
CREATE UNIQUE INDEX subscriptions_one_open ON subscriptions (consumer_id) WHERE ended_at IS NULL;
CREATE INDEX subscriptions_to_roll ON subscriptions (period_end) WHERE ended_at IS NULL AND settlement <> 'stripe';
CREATE INDEX subscriptions_by_version ON subscriptions (plan_version_id) WHERE ended_at IS NULL;

-- A Checkout in progress: one open session for each account.
CREATE TABLE checkouts (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer_id     text        NOT NULL REFERENCES consumers (id),
    plan_version_id text        NOT NULL REFERENCES plan_versions (id),
    interval        text        NOT NULL CHECK (interval IN ('month', 'year')),
    stripe_session  text        UNIQUE,
    url             text,
    state           text        NOT NULL CHECK (state IN ('open', 'completed', 'expired')),
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL
);
CREATE UNIQUE INDEX checkouts_one_open ON checkouts (consumer_id) WHERE state = 'open';

CREATE TABLE keys (
    id            text        PRIMARY KEY CHECK (id LIKE 'key\_%'),
    consumer_id   text        NOT NULL REFERENCES consumers (id),
    environment   text        NOT NULL CHECK (environment IN ('live', 'test')),
    name          text        NOT NULL CHECK (length(name) BETWEEN 1 AND 80),
    -- model::key::Lookup as a number.
    lookup        bigint      NOT NULL UNIQUE,
    mac           bytea       NOT NULL CHECK (length(mac) = 32),
    pepper        smallint    NOT NULL,
    shown_prefix  text        NOT NULL,
    last4         text        NOT NULL,
    -- Slugs of the routes it may use; none means all.
    routes        text[],
    expires_at    timestamptz,
    revoked_at    timestamptz,
    -- The key that took over, when it was rotated.
    replaced_by   text        REFERENCES keys (id),
    last_used_at  timestamptz,
    created_at    timestamptz NOT NULL,
    version       bigint      NOT NULL DEFAULT 0
);
CREATE INDEX keys_by_consumer ON keys (consumer_id, created_at DESC);
CREATE INDEX keys_by_version ON keys (version);
-- `last_used_at` is written every minute and is nothing to the gateway.
CREATE TRIGGER keys_version_insert BEFORE INSERT ON keys FOR EACH ROW EXECUTE FUNCTION bump_version();
CREATE TRIGGER keys_version_update BEFORE UPDATE ON keys FOR EACH ROW
    WHEN (OLD.mac IS DISTINCT FROM NEW.mac OR OLD.routes IS DISTINCT FROM NEW.routes OR OLD.expires_at IS DISTINCT FROM NEW.expires_at
       OR OLD.revoked_at IS DISTINCT FROM NEW.revoked_at OR OLD.pepper IS DISTINCT FROM NEW.pepper)
    EXECUTE FUNCTION bump_version();

-- One compiled row per consumer and environment; `record` is model::snapshot::Entitlement with `used` left at 0,
-- which is filled in from usage_periods when a gateway asks.
CREATE TABLE entitlements (
    consumer_id text   NOT NULL REFERENCES consumers (id),
    environment text   NOT NULL CHECK (environment IN ('live', 'test')),
    record      jsonb  NOT NULL,
    -- End of the record's period: what the job that rolls calendar periods looks for.
    period_end  timestamptz NOT NULL,
    version     bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (consumer_id, environment)
);
CREATE INDEX entitlements_by_period_end ON entitlements (period_end) WHERE environment = 'test';
CREATE INDEX entitlements_by_version ON entitlements (version);
CREATE TRIGGER entitlements_version BEFORE INSERT OR UPDATE ON entitlements FOR EACH ROW EXECUTE FUNCTION bump_version();

-- What was used. A batch of ledger records, its aggregates and the cursor move in one transaction, so whatever dies
-- in between, nothing is lost and nothing counts twice.
CREATE TABLE ledgers (
    id              text        PRIMARY KEY,
    shipped_through bigint      NOT NULL DEFAULT 0,
    shipped_at      timestamptz NOT NULL
);

CREATE TABLE usage_hours (
    hour            timestamptz NOT NULL,
    consumer_id     text        NOT NULL REFERENCES consumers (id),
    environment     text        NOT NULL,
    key_id          text        NOT NULL,
    route           smallint    NOT NULL,
    meter           smallint    NOT NULL,
    requests        bigint      NOT NULL,
    refused         bigint      NOT NULL,
    errors          bigint      NOT NULL,
    units           bigint      NOT NULL,
    request_bytes   bigint      NOT NULL,
    response_bytes  bigint      NOT NULL,
    PRIMARY KEY (consumer_id, environment, hour, key_id, route, meter)
);
CREATE INDEX usage_hours_by_hour ON usage_hours (hour);

-- Totals of a billing period: what the gateway starts counting from and what is rated. One row a plan version: after
-- an upgrade in mid-period each version's units are rated by its own prices, as Stripe bills them.
CREATE TABLE usage_periods (
    consumer_id     text        NOT NULL REFERENCES consumers (id),
    environment     text        NOT NULL,
    meter           smallint    NOT NULL,
    period_start    timestamptz NOT NULL,
    -- '' for usage without a plan.
    plan_version_id text        NOT NULL,
    subscription_id text,
    units           bigint      NOT NULL,
    PRIMARY KEY (consumer_id, environment, period_start, meter, plan_version_id)
);

-- The last requests, for the log on the usage page; a job drops what is older than the retention.
CREATE TABLE requests (
    ledger          text        NOT NULL,
    seq             bigint      NOT NULL,
    request_id      text        NOT NULL,
    at              timestamptz NOT NULL,
    consumer_id     text        NOT NULL,
    environment     text        NOT NULL,
    key_id          text        NOT NULL,
    route           smallint    NOT NULL,
    meter           smallint    NOT NULL,
    units           bigint      NOT NULL,
    status          smallint    NOT NULL,
    refusal         smallint    NOT NULL,
    request_bytes   bigint      NOT NULL,
    response_bytes  bigint      NOT NULL,
    duration_us     bigint      NOT NULL,
    PRIMARY KEY (ledger, seq)
);
CREATE INDEX requests_by_consumer ON requests (consumer_id, at DESC);
-- What people look for first: what went wrong.
CREATE INDEX requests_failed ON requests (consumer_id, at DESC) WHERE status >= 400;
CREATE INDEX requests_by_time ON requests (at);

-- Usage on its way to Stripe. A row is one meter event: (subscription, meter, hour, sequence) makes its identifier,
-- so sending it again within Stripe's memory of 24 hours changes nothing.
CREATE TABLE meter_events (
    id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer_id      text        NOT NULL REFERENCES consumers (id),
    subscription_id  text        NOT NULL REFERENCES subscriptions (id),
    meter            smallint    NOT NULL REFERENCES meters (number),
    hour             timestamptz NOT NULL,
    sequence         integer     NOT NULL,
    units            bigint      NOT NULL CHECK (units > 0),
    identifier       text        NOT NULL UNIQUE,
    period_start     timestamptz NOT NULL,
    plan_version_id  text        NOT NULL,
    -- The instant Stripe is told: inside the billing period and the plan version it was used under.
    at               timestamptz NOT NULL,
    state            text        NOT NULL CHECK (state IN ('pending', 'sending', 'acknowledged', 'ambiguous', 'refused')),
    -- When it was first handed to Stripe: the clock of the 24 hours starts here.
    first_sent_at    timestamptz,
    -- Not to be tried before: it grows with the tries.
    retry_at         timestamptz,
    attempts         integer     NOT NULL DEFAULT 0,
    acknowledged_at  timestamptz,
    last_error       text,
    UNIQUE (subscription_id, meter, hour, sequence)
);
CREATE INDEX meter_events_unsent ON meter_events (id) WHERE state IN ('pending', 'sending', 'ambiguous');
CREATE INDEX meter_events_by_customer ON meter_events (consumer_id, meter, at);

-- Units of an hour not yet in a meter event; the shipper adds, the outbox job takes. Kept apart by period and plan
-- version, so that an event never mixes units of two prices.
CREATE TABLE unbilled_units (
    subscription_id text        NOT NULL REFERENCES subscriptions (id),
    consumer_id     text        NOT NULL REFERENCES consumers (id),
    meter           smallint    NOT NULL REFERENCES meters (number),
    hour            timestamptz NOT NULL,
    period_start    timestamptz NOT NULL,
    plan_version_id text        NOT NULL,
    units           bigint      NOT NULL,
    -- When the newest of them was used.
    last_at         timestamptz NOT NULL,
    PRIMARY KEY (subscription_id, meter, hour, period_start, plan_version_id)
);

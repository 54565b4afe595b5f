-- Payments that a cardholder contests at the bank: the provider sees them, and access follows them.
CREATE TABLE disputes (
    stripe_dispute text        PRIMARY KEY,
    consumer_id    text        NOT NULL REFERENCES consumers (id),
    stripe_subscription text,
    amount_minor   bigint      NOT NULL,
    currency       text        NOT NULL,
    reason         text        NOT NULL,
    -- Stripe's word.
    status         text        NOT NULL,
    opened_at      timestamptz NOT NULL,
    closed_at      timestamptz
);
CREATE INDEX disputes_by_consumer ON disputes (consumer_id, opened_at DESC);

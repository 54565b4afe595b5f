-- What Stripe tells us: the inbox of its events and the mirror of its invoices.
CREATE TABLE stripe_events (
    id           text        PRIMARY KEY,
    type         text        NOT NULL,
    object_id    text        NOT NULL DEFAULT '',
    customer     text        NOT NULL DEFAULT '',
    livemode     boolean     NOT NULL,
    raw          jsonb       NOT NULL,
    received_at  timestamptz NOT NULL,
    state        text        NOT NULL CHECK (state IN ('received', 'done', 'ignored', 'dead')),
    attempts     integer     NOT NULL DEFAULT 0,
    last_error   text,
    done_at      timestamptz
);
CREATE INDEX stripe_events_open ON stripe_events (object_id) WHERE state = 'received';
CREATE INDEX stripe_events_by_time ON stripe_events (received_at DESC, id DESC);

-- An endpoint that was replaced stays: deliveries signed with its secret are still under way.
CREATE TABLE stripe_endpoints (
    stripe_id    text        PRIMARY KEY,
    url          text        NOT NULL,
    -- Signs deliveries. Kept here because Stripe shows it once.
    secret       text        NOT NULL,
    api_version  text        NOT NULL,
    created_at   timestamptz NOT NULL
);

CREATE TABLE invoices (
    id              text        PRIMARY KEY CHECK (id LIKE 'inv\_%'),
    consumer_id     text        NOT NULL REFERENCES consumers (id),
    stripe_invoice  text        NOT NULL UNIQUE,
    stripe_subscription text,
    number          text,
    status          text        NOT NULL,
    currency        text        NOT NULL,
    total_minor     bigint      NOT NULL,
    amount_due_minor bigint     NOT NULL,
    amount_paid_minor bigint    NOT NULL,
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    hosted_url      text,
    pdf_url         text,
    created_at      timestamptz NOT NULL,
    -- What our own rating says of the usage on it, once it is final; differs from Stripe's only when something is wrong.
    rated_usage_minor bigint,
    billed_usage_minor bigint
);
CREATE INDEX invoices_by_consumer ON invoices (consumer_id, created_at DESC);

-- Lines without usage are left out by Stripe, so a line that should be there is looked for by its price.
CREATE TABLE invoice_lines (
    invoice_id    text    NOT NULL REFERENCES invoices (id) ON DELETE CASCADE,
    position      integer NOT NULL,
    description   text    NOT NULL,
    quantity      bigint,
    unit_minor    text,
    amount_minor  bigint  NOT NULL,
    metered       boolean NOT NULL,
    stripe_price  text,
    period_start  timestamptz NOT NULL,
    period_end    timestamptz NOT NULL,
    PRIMARY KEY (invoice_id, position)
);
CREATE INDEX invoice_lines_by_price ON invoice_lines (stripe_price) WHERE metered;

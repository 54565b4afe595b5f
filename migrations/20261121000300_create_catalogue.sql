-- What is sold. A plan keeps its identity; its terms live in versions that never change once published.
CREATE TABLE products (
    slug        text        PRIMARY KEY,
    name        text        NOT NULL,
    summary     text        NOT NULL,
    currency    text        NOT NULL CHECK (currency ~ '^[a-z]{3}$'),
    updated_at  timestamptz NOT NULL
);

CREATE TABLE upstreams (
    number      smallint    GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug        text        NOT NULL UNIQUE,
    url         text        NOT NULL,
    first_byte_timeout_ms integer NOT NULL CHECK (first_byte_timeout_ms > 0),
    idle_timeout_ms       integer NOT NULL CHECK (idle_timeout_ms > 0)
);

CREATE TABLE meters (
    number       smallint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug         text       NOT NULL UNIQUE,
    name         text       NOT NULL,
    unit         text       NOT NULL,
    statuses     text[]     NOT NULL,
    -- Stripe's meter and its event name, made by the publishing job.
    stripe_meter text,
    event_name   text       NOT NULL UNIQUE
);

CREATE TABLE features (
    slug        text        PRIMARY KEY,
    name        text        NOT NULL
);

CREATE TABLE routes (
    number      smallint    GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug        text        NOT NULL UNIQUE,
    product     text        NOT NULL REFERENCES products (slug),
    methods     text[]      NOT NULL,
    path        text        NOT NULL,
    upstream    smallint    NOT NULL REFERENCES upstreams (number),
    meter       smallint    NOT NULL REFERENCES meters (number),
    weight      integer     NOT NULL CHECK (weight >= 0),
    feature     text        REFERENCES features (slug),
    -- Retired routes keep their number, because usage refers to it.
    retired_at  timestamptz
);

CREATE TABLE plans (
    id          text        PRIMARY KEY CHECK (id LIKE 'plan\_%'),
    slug        text        NOT NULL UNIQUE,
    product     text        NOT NULL REFERENCES products (slug),
    position    integer     NOT NULL,
    -- Stripe's product, made by the publishing job: what invoice lines are named after.
    stripe_product text,
    retired_at  timestamptz,
    created_at  timestamptz NOT NULL
);

CREATE TABLE plan_versions (
    id           text        PRIMARY KEY CHECK (id LIKE 'pv\_%'),
    plan_id      text        NOT NULL REFERENCES plans (id),
    number       integer     NOT NULL CHECK (number > 0),
    -- model::catalogue::PlanTerms.
    terms        jsonb       NOT NULL,
    published_at timestamptz NOT NULL,
    -- Set when every price of it exists in Stripe: from then on it can be bought.
    ready_at     timestamptz,
    UNIQUE (plan_id, number)
);

-- The Stripe price of each part of a version.
CREATE TABLE plan_prices (
    plan_version_id text     NOT NULL REFERENCES plan_versions (id),
    interval        text     NOT NULL CHECK (interval IN ('month', 'year')),
    -- '' is the flat part, otherwise the meter's slug.
    part            text     NOT NULL,
    stripe_price    text     NOT NULL UNIQUE,
    PRIMARY KEY (plan_version_id, interval, part)
);

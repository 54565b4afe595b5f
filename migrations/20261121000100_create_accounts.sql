-- People and the accounts they act for. A person (member) logs in; a consumer subscribes, holds keys and pays.
CREATE TABLE members (
    id             text        PRIMARY KEY CHECK (id LIKE 'mem\_%'),
    email          text        NOT NULL CHECK (length(email) <= 254),
    -- What two spellings of one address have in common: uniqueness hangs on this, mail goes to `email`.
    email_key      text        NOT NULL UNIQUE,
    password_hash  text        NOT NULL,
    verified_at    timestamptz,
    -- Set for the provider's own people, who may use the admin pages.
    provider_admin boolean     NOT NULL DEFAULT false,
    disabled_at    timestamptz,
    created_at     timestamptz NOT NULL
);

CREATE TABLE consumers (
    id                  text        PRIMARY KEY CHECK (id LIKE 'con\_%'),
    name                text        NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    billing_email       text        NOT NULL,
    stripe_customer     text        UNIQUE,
    -- The consumer's own ceiling on usage charges in a period; none means none.
    spend_cap_minor     bigint      CHECK (spend_cap_minor >= 0),
    -- Set by the provider; keys are refused while it is.
    suspended_at        timestamptz,
    suspended_reason    text,
    created_at          timestamptz NOT NULL
);

CREATE TABLE memberships (
    consumer_id text        NOT NULL REFERENCES consumers (id),
    member_id   text        NOT NULL REFERENCES members (id),
    role        text        NOT NULL CHECK (role IN ('owner', 'admin', 'developer', 'viewer')),
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (consumer_id, member_id)
);
CREATE INDEX memberships_by_member ON memberships (member_id);

-- Sessions of tower-sessions. The id in the cookie is stored hashed: a dump of this table logs nobody in.
CREATE TABLE sessions (
    id_hash     bytea       PRIMARY KEY,
    member_id   text        REFERENCES members (id),
    data        jsonb       NOT NULL,
    user_agent  text        NOT NULL DEFAULT '',
    ip          text        NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL,
    seen_at     timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL
);
CREATE INDEX sessions_by_member ON sessions (member_id);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

-- Single-use links by mail: address verification, password reset. Only the hash is kept.
CREATE TABLE link_tokens (
    token_hash  bytea       PRIMARY KEY,
    member_id   text        NOT NULL REFERENCES members (id),
    purpose     text        NOT NULL CHECK (purpose IN ('verify', 'reset')),
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz
);
CREATE INDEX link_tokens_by_member ON link_tokens (member_id, purpose);

-- The one-time token printed at first start, with which the first admin signs up.
CREATE TABLE bootstrap_tokens (
    token_hash  bytea       PRIMARY KEY,
    created_at  timestamptz NOT NULL,
    used_at     timestamptz
);

-- Failed log-ins by account and by network, so that guessing slows down and survives a restart.
CREATE TABLE login_failures (
    bucket       text        PRIMARY KEY,
    failures     integer     NOT NULL,
    last_at      timestamptz NOT NULL,
    blocked_until timestamptz
);

-- Who changed what, from where.
CREATE TABLE audit_log (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL,
    actor       text        NOT NULL,
    consumer_id text        REFERENCES consumers (id),
    action      text        NOT NULL,
    target      text        NOT NULL DEFAULT '',
    detail      jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_by_consumer ON audit_log (consumer_id, id DESC);

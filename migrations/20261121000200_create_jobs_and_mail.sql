-- Work that is stored in the transaction of its cause and done after its commit.
CREATE TABLE jobs (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text        NOT NULL,
    -- Two unfinished jobs of one kind never share a key: enqueueing again is a no-op.
    dedup_key   text,
    payload     jsonb       NOT NULL,
    run_at      timestamptz NOT NULL,
    attempts    integer     NOT NULL DEFAULT 0,
    last_error  text,
    -- Set when the tries are used up; the row stays for an operator.
    dead_at     timestamptz,
    created_at  timestamptz NOT NULL
);
CREATE INDEX jobs_due ON jobs (run_at) WHERE dead_at IS NULL;
CREATE UNIQUE INDEX jobs_dedup ON jobs (kind, dedup_key) WHERE dead_at IS NULL AND dedup_key IS NOT NULL;

-- Every mail sent, and without an SMTP server the only place it goes to.
CREATE TABLE mails (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recipient   text        NOT NULL,
    subject     text        NOT NULL,
    body_text   text        NOT NULL,
    body_html   text        NOT NULL,
    created_at  timestamptz NOT NULL,
    sent_at     timestamptz
);

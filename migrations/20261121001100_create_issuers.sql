-- Who is calling, said by somebody else: issuers whose signed tokens are taken, and the names they know consumers by.
CREATE TABLE issuers (
    slug        text        PRIMARY KEY,
    -- Stands in usage for the key that its callers do not have; no row of `keys` has it.
    key_id      text        NOT NULL UNIQUE CHECK (key_id LIKE 'key\_%'),
    -- model::issuer::IssuerFile. No secret is in it: those are named by variable or file.
    record      jsonb       NOT NULL,
    -- Retired issuers stay, because usage refers to them.
    retired_at  timestamptz
);

ALTER TABLE consumers ADD COLUMN external_id text UNIQUE CHECK (length(external_id) BETWEEN 1 AND 200);
COMMENT ON COLUMN consumers.external_id IS 'The name that the provider''s own systems give the consumer; tokens may call it by that.';

-- Parts of hard limits that single ledgers may use up without asking, so that several gateways never let more through than
-- one would.
ALTER TABLE ledgers ADD COLUMN lease_turn bigint NOT NULL DEFAULT 0,
                    ADD COLUMN leased_at timestamptz;
COMMENT ON COLUMN ledgers.lease_turn IS 'Questions for leases that were answered: one that names another turn comes too late.';
COMMENT ON COLUMN ledgers.leased_at IS 'When its gateway last asked for leases; none where it never did.';

CREATE TABLE leases (
    ledger       text        NOT NULL REFERENCES ledgers (id),
    consumer_id  text        NOT NULL,
    environment  text        NOT NULL,
    period_start timestamptz NOT NULL,
    -- First key of the chain whose own limits these are; '' for those of the account.
    root_id      text        NOT NULL,
    meter        smallint    NOT NULL,
    period_end   timestamptz NOT NULL,
    -- Units of the ledger, counted from when the row was made, that may be reached, and those of them that are taken in.
    ceiling      bigint      NOT NULL CHECK (ceiling >= 0),
    used         bigint      NOT NULL CHECK (used >= 0),
    -- What was leased before a gateway began is used up to this record of its ledger at most: until that is taken in, the
    -- ceiling is not lowered, and then what is left is free, unless the gateway has taken the lease over.
    ends_after   bigint,
    taken_over   boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (ledger, consumer_id, environment, period_start, root_id, meter)
);
CREATE INDEX leases_by_account ON leases (consumer_id, environment, period_start, root_id);
CREATE INDEX leases_by_end ON leases (period_end);

-- Who lacked units lately that are leased to others.
CREATE TABLE lease_wants (
    consumer_id  text        NOT NULL,
    environment  text        NOT NULL,
    period_start timestamptz NOT NULL,
    root_id      text        NOT NULL,
    wanted_at    timestamptz NOT NULL,
    PRIMARY KEY (consumer_id, environment, period_start, root_id)
);
CREATE INDEX lease_wants_by_time ON lease_wants (wanted_at);

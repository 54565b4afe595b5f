-- Members hear when so many percent of an allowance or of the spend cap are used, once for each mark and period.
CREATE TABLE usage_marks (
    consumer_id  text        NOT NULL REFERENCES consumers (id),
    -- Slug of the meter; '' for the spend cap.
    meter        text        NOT NULL,
    period_start timestamptz NOT NULL,
    -- Of what: units, or minor units of the spend cap. A larger plan or cap has marks of its own.
    amount       bigint      NOT NULL CHECK (amount > 0),
    percent      smallint    NOT NULL CHECK (percent > 0),
    reached_at   timestamptz NOT NULL,
    PRIMARY KEY (consumer_id, meter, period_start, amount, percent)
);

-- Consumers whose live usage grew since their marks were looked at.
CREATE TABLE usage_touched (
    consumer_id text        PRIMARY KEY REFERENCES consumers (id),
    touched_at  timestamptz NOT NULL
);

-- A WebSocket that is counted by its time has a record for each of its slices: they count units and are no requests. The log
-- shows one line for all of them.
ALTER TABLE requests ADD COLUMN continues boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN requests.continues IS 'A further part of the request with the same request_id.';

DROP INDEX requests_by_consumer;
CREATE INDEX requests_by_consumer ON requests (consumer_id, at DESC) WHERE NOT continues;

-- What all further parts of a request come to: a socket that is open for a week has hundreds of thousands.
CREATE TABLE request_parts (
    request_id      text        PRIMARY KEY,
    last_at         timestamptz NOT NULL,
    units           bigint      NOT NULL,
    duration_us     bigint      NOT NULL,
    response_bytes  bigint      NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX request_parts_by_time ON request_parts (last_at);

-- A WebSocket that is counted by its time has a record for each of its slices: they count units and are no requests. The log
-- shows one line for all of them.
ALTER TABLE requests ADD COLUMN continues boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN requests.continues IS 'A further part of the request with the same request_id.';
CREATE INDEX requests_parts ON requests (request_id) WHERE continues;

DROP INDEX requests_by_consumer;
CREATE INDEX requests_by_consumer ON requests (consumer_id, at DESC) WHERE NOT continues;

-- A change of plan that Stripe was asked for and that is not mirrored yet, with the instant it was previewed at: whoever
-- mirrors it, a webhook included, lets the new prices begin there.
ALTER TABLE subscriptions ADD COLUMN changing_plan_version_id text REFERENCES plan_versions (id),
                          ADD COLUMN changing_interval text CHECK (changing_interval IN ('month', 'year')),
                          ADD COLUMN changing_at timestamptz;

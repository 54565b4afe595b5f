-- What the owner of a key lets it use in a billing period, and what each key has used of each meter.
ALTER TABLE keys ADD COLUMN quota_units bigint CHECK (quota_units >= 0),
                 ADD COLUMN budget_minor bigint CHECK (budget_minor >= 0);

DROP TRIGGER keys_version_update ON keys;
CREATE TRIGGER keys_version_update BEFORE UPDATE ON keys FOR EACH ROW
    WHEN (OLD.mac IS DISTINCT FROM NEW.mac OR OLD.routes IS DISTINCT FROM NEW.routes OR OLD.expires_at IS DISTINCT FROM NEW.expires_at
       OR OLD.revoked_at IS DISTINCT FROM NEW.revoked_at OR OLD.pepper IS DISTINCT FROM NEW.pepper
       OR OLD.quota_units IS DISTINCT FROM NEW.quota_units OR OLD.budget_minor IS DISTINCT FROM NEW.budget_minor)
    EXECUTE FUNCTION bump_version();

-- Also of callers with a token, whose issuer has an id in the place of a key's.
CREATE TABLE usage_keys (
    key_id       text        NOT NULL,
    period_start timestamptz NOT NULL,
    meter        smallint    NOT NULL,
    units        bigint      NOT NULL,
    PRIMARY KEY (key_id, period_start, meter)
);

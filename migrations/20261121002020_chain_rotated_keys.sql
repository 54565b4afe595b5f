-- The limits of a key are those of its whole chain of rotations, so that a rotation renews nothing; its first key names the
-- chain.
ALTER TABLE keys ADD COLUMN root_id text REFERENCES keys (id);
COMMENT ON COLUMN keys.root_id IS 'First key of the chain of rotations; none for that one itself.';
CREATE INDEX keys_by_root ON keys (root_id) WHERE root_id IS NOT NULL;

DROP TRIGGER keys_version_update ON keys;
CREATE TRIGGER keys_version_update BEFORE UPDATE ON keys FOR EACH ROW
    WHEN (OLD.mac IS DISTINCT FROM NEW.mac OR OLD.routes IS DISTINCT FROM NEW.routes OR OLD.expires_at IS DISTINCT FROM NEW.expires_at
       OR OLD.revoked_at IS DISTINCT FROM NEW.revoked_at OR OLD.pepper IS DISTINCT FROM NEW.pepper
       OR OLD.quota_units IS DISTINCT FROM NEW.quota_units OR OLD.budget_minor IS DISTINCT FROM NEW.budget_minor
       OR OLD.root_id IS DISTINCT FROM NEW.root_id)
    EXECUTE FUNCTION bump_version();

-- The newest key's limits are what the owner wants.
WITH RECURSIVE chains AS (
    SELECT k.id, k.id AS root, k.replaced_by FROM keys k
    WHERE k.replaced_by IS NOT NULL AND NOT EXISTS (SELECT FROM keys o WHERE o.replaced_by = k.id)
    UNION ALL
    SELECT n.id, c.root, n.replaced_by FROM chains c JOIN keys n ON n.id = c.replaced_by
)
UPDATE keys k SET root_id = nullif(c.root, k.id), quota_units = newest.quota_units, budget_minor = newest.budget_minor
FROM chains c
JOIN chains last ON last.root = c.root AND last.replaced_by IS NULL
JOIN keys newest ON newest.id = last.id
WHERE k.id = c.id;

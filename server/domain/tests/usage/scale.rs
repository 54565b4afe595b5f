//! A gateway that knows nothing is told everything, however much that is: in parts that a database soon has and a gateway
//! can hold.

use super::paid::Paid;
use domain::snapshot::changes_since;
use model::access::Environment;
use model::snapshot::Changes;
use model::{ConsumerId, KeyId};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// Most keys and entitlements in a part.
const PART_MOST: usize = 25_000;
/// The key that is revoked while all is told.
const REVOKED: u128 = 7;

/// What a gateway would know.
#[derive(Default)]
struct Known {
    keys: HashMap<KeyId, bool>,
    accounts: HashSet<(ConsumerId, Environment)>,
    routed: usize,
}

impl Known {
    fn take(&mut self, part: &Changes) {
        self.keys.extend(part.keys.iter().map(|k| (k.id, k.revoked)));
        let accounts = part.entitlements.iter().map(|e| (e.consumer, e.environment));
        self.accounts.extend(accounts);
        self.routed += usize::from(part.routing.is_some());
    }
}

#[tokio::test]
async fn very_many_keys_are_told_in_parts() {
    let keys: i32 = if std::env::var_os("TURNPIKE_LONG_TESTS").is_some() {
        1_000_000
    } else {
        45_000
    };
    let paid = Paid::new("small").await;
    fill(&paid, keys / 10, keys).await;
    let (mut known, mut version, mut parts) = (Known::default(), 0, 0);
    let (begun, mut longest) = (Instant::now(), std::time::Duration::ZERO);
    loop {
        let asked = Instant::now();
        let part = changes_since(&paid.domain, "a", version).await.unwrap();
        longest = longest.max(asked.elapsed());
        assert!(part.version > version, "every part leads on");
        let size = part.keys.len() + part.entitlements.len();
        assert!(size <= PART_MOST, "{size}");
        let used = part.entitlements.iter().filter(|e| e.environment == Environment::Live);
        let used = used.filter(|e| e.consumer != paid.consumer);
        let used = used.map(|e| e.meters.iter().map(|m| m.used).sum::<u64>());
        assert!(used.clone().all(|units| units == 7), "each with its usage");
        known.take(&part);
        version = part.version;
        parts += 1;
        if parts == 2 {
            sqlx::query("UPDATE keys SET revoked_at = now() WHERE id = $1")
                .bind(KeyId::from_bits(REVOKED))
                .execute(paid.world.database.pool())
                .await
                .unwrap();
        }
        if !part.more {
            break;
        }
    }
    println!(
        "{keys} keys in {parts} parts in {:?}, the longest {longest:?}",
        begun.elapsed()
    );
    assert!(parts >= 3, "{parts}");
    let count = usize::try_from(keys).unwrap();
    assert_eq!((known.keys.len(), known.accounts.len()), (count + 1, count / 5 + 2));
    assert_eq!(known.routed, 1, "the routes are in one part");
    let revoked: Vec<KeyId> = known.keys.iter().filter(|k| *k.1).map(|k| *k.0).collect();
    assert_eq!(
        revoked,
        [KeyId::from_bits(REVOKED)],
        "what changed meanwhile is told as it is"
    );
    let rest = changes_since(&paid.domain, "a", version).await.unwrap();
    assert!(rest.keys.is_empty() && !rest.more && rest.version == version);
}

/// Consumers like the one that is there, each with its entitlements, and keys of all of them, by SQL.
async fn fill(paid: &Paid, consumers: i32, keys: i32) {
    let pool = paid.world.database.pool();
    sqlx::query(
        "INSERT INTO consumers (id, name, billing_email, created_at)
         SELECT 'con_' || lpad(n::text, 24, '0'), 'c' || n, n || '@example.com', now() FROM generate_series(1, $1) n",
    )
    .bind(consumers)
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO entitlements (consumer_id, environment, record, period_end)
         SELECT c, e.environment, jsonb_set(e.record, '{consumer}', to_jsonb(c)), e.period_end
         FROM generate_series(1, $1) n, lateral (SELECT 'con_' || lpad(n::text, 24, '0') AS c) c, entitlements e
         WHERE e.consumer_id = $2",
    )
    .bind(consumers)
    .bind(paid.consumer)
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO usage_periods (consumer_id, environment, meter, period_start, plan_version_id, units)
         SELECT e.consumer_id, e.environment, 1, (e.record->'period'->>'start')::timestamptz, e.record->>'plan_version', 7
         FROM entitlements e WHERE e.environment = 'live'",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO keys (id, consumer_id, environment, name, lookup, mac, pepper, shown_prefix, last4, created_at)
         SELECT 'key_' || lpad(n::text, 24, '0'), 'con_' || lpad((1 + n % $1)::text, 24, '0'), 'live', 'k', n,
                sha256(n::text::bytea), 1, 'x', 'y', now()
         FROM generate_series(1, $2) n",
    )
    .bind(consumers)
    .bind(keys)
    .execute(pool)
    .await
    .unwrap();
    sqlx::query("ANALYZE").execute(pool).await.unwrap();
}

//! Keys, what gateways are told, what they report, and what becomes of it at Stripe.

mod counts;
mod ingest;
mod invoices;
mod key_limits;
mod keys;
mod late;
mod leases;
mod marks;
mod outbox;
mod paid;
mod scale;
mod snapshot;

use crate::world::World;
use domain::consumers::{self, NewConsumer};
use domain::{KeyManager, Provider, keys as key_rules};
use model::access::Environment;
use model::usage::{UsageBatch, UsageRecord};
use model::{ConsumerId, KeyId, PlanVersionId, RequestId, SubscriptionId, Time};

/// A consumer of its own.
async fn consumer(world: &World, name: &str) -> ConsumerId {
    let new = NewConsumer {
        name: name.to_owned(),
        email: format!("{name}@example.com"),
        password: None,
    };
    consumers::create(&world.domain, &Provider::console(), new)
        .await
        .unwrap()
        .0
}

fn manager(consumer: ConsumerId) -> KeyManager {
    Provider::console().key_manager(consumer)
}

fn live(name: &str) -> key_rules::NewKey {
    key_rules::NewKey {
        name: name.to_owned(),
        environment: Environment::Live,
        expires_at: None,
        routes: None,
    }
}

/// Two routes and a meter, enough for keys and usage without a catalogue.
async fn routes(world: &World) {
    let sql = "INSERT INTO products (slug, name, summary, currency, updated_at) VALUES ('p', 'P', '', 'usd', now());
               INSERT INTO upstreams (slug, url, first_byte_timeout_ms, idle_timeout_ms) VALUES ('u', 'http://u', 1, 1);
               INSERT INTO meters (slug, name, unit, statuses, event_name) VALUES ('calls', 'Calls', 'call', '{2xx}', 'p_calls');
               INSERT INTO routes (slug, product, methods, path, upstream, meter, weight)
               VALUES ('one', 'p', '{GET}', '/one', 1, 1, 1), ('two', 'p', '{GET}', '/two', 1, 1, 1);";
    sqlx::raw_sql(sql).execute(world.database.pool()).await.unwrap();
}

/// Under what a record counts.
#[derive(Clone, Copy)]
struct Under {
    consumer: ConsumerId,
    key: KeyId,
    subscription: Option<SubscriptionId>,
    version: Option<PlanVersionId>,
    period_start: Time,
}

/// A request that counted `units`.
fn record(under: Under, seq: u64, at: Time, units: u32) -> UsageRecord {
    UsageRecord {
        seq,
        request: RequestId::from_bits(u128::from(seq)),
        continues: false,
        at,
        consumer: under.consumer,
        environment: Environment::Live,
        subscription: under.subscription,
        plan_version: under.version,
        period_start: under.period_start,
        key: under.key,
        route: 1,
        meter: 1,
        units,
        status: 200,
        refusal: 0,
        variants: 0,
        request_bytes: 10,
        response_bytes: 20,
        duration_us: 1_500,
    }
}

fn batch(ledger: &str, records: Vec<UsageRecord>) -> UsageBatch {
    UsageBatch {
        ledger: ledger.to_owned(),
        records,
    }
}

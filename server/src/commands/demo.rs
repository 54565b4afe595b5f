//! `turnpike demo`: a believable provider, from a catalogue file and a file of people. Run again it adds nothing but a
//! fresh key for the developer, because a key can be shown once only.

use super::{Context, account};
use crate::output::{self, Failure};
use clap::Args;
use domain::consumers::NewConsumer;
use domain::keys::NewKey;
use domain::settings::Secret;
use model::access::{Environment, Interval};
use model::snapshot::{Entitlement, RouteRecord};
use model::usage::{UsageBatch, UsageRecord};
use model::{ConsumerId, KeyId, RequestId, Time};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long plans may take to become ready (prices made in Stripe by the worker of a running `serve`).
const READY_LIMIT: Duration = Duration::from_secs(40);
/// How often it is looked.
const READY_POLL: Duration = Duration::from_millis(200);
/// Name of the key whose `curl` line is printed.
const KEY_NAME: &str = "demo";
/// Records in a batch, as a gateway would ship them.
const BATCH: usize = 5_000;

/// Fills a database with a believable provider.
#[derive(Args)]
pub(crate) struct Demo {
    /// What is sold.
    #[arg(long, value_name = "FILE")]
    catalogue: PathBuf,
    /// The people and their past.
    people: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct People {
    card: String,
    admin: Person,
    developer: Developer,
    #[serde(default)]
    consumers: Vec<Past>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    email: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Developer {
    email: String,
    password: String,
    name: String,
    call: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Past {
    name: String,
    email: String,
    plan: String,
    daily_calls: u32,
    days: u16,
}

/// Runs it.
pub(crate) async fn run(context: &Context, demo: Demo) -> Result<(), Failure> {
    let people: People = toml_file(&demo.people)?;
    let domain = &context.domain;
    let provider = domain::Provider::console();
    let text = std::fs::read_to_string(&demo.catalogue)
        .map_err(|e| Failure(format!("cannot read {}: {e}", demo.catalogue.display())))?;
    let catalogue =
        domain::catalogue::parse(&text).map_err(|e| Failure(format!("{}: {e}", demo.catalogue.display())))?;
    domain::catalogue::publish(domain, &provider, &catalogue).await?;
    wait_until_ready(context, catalogue.plans.len()).await?;
    let password = Secret::new(people.admin.password.as_str());
    domain::bootstrap::create_admin(domain, &provider, &people.admin.email, &password).await?;
    let developer = &people.developer;
    let consumer = account_of(context, developer).await?;
    for past in &people.consumers {
        fill(context, past).await?;
    }
    let key = fresh_key(context, consumer).await?;
    let (portal, gateway) = (&domain.settings.portal_url, &domain.settings.gateway_url);
    let curl = format!("curl {gateway}{} -H 'X-API-Key: {key}'", developer.call);
    let words = format!(
        "\n  Portal     {portal}\n  Developer  {} / {}\n  Provider   {} / {}   {portal}/admin\n  Card       {}\n  Mail       {portal}/development/mail\n\n  {curl}\n",
        developer.email, developer.password, people.admin.email, people.admin.password, people.card
    );
    output::result(
        context.json,
        &serde_json::json!({ "portal_url": portal, "consumer_id": consumer, "key": key, "curl": curl }),
        &words,
    );
    Ok(())
}

async fn account_of(context: &Context, developer: &Developer) -> Result<ConsumerId, Failure> {
    if let Some(there) = domain::provision::consumer_by_email(&context.domain, &developer.email).await? {
        return Ok(there);
    }
    let new = NewConsumer {
        name: developer.name.clone(),
        email: developer.email.clone(),
        password: Some(Secret::new(developer.password.as_str())),
    };
    Ok(
        domain::consumers::create(&context.domain, &domain::Provider::console(), new)
            .await?
            .0,
    )
}

fn toml_file<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| Failure(format!("cannot read {}: {e}", file.display())))?;
    toml::from_str(&text).map_err(|e| Failure(format!("{}: {e}", file.display())))
}

async fn wait_until_ready(context: &Context, plans: usize) -> Result<(), Failure> {
    let ready = async {
        loop {
            let count = domain::catalogue::current(&context.domain)
                .await?
                .map_or(0, |c| c.plans.len());
            if count >= plans {
                return Ok(());
            }
            tokio::time::sleep(READY_POLL).await;
        }
    };
    tokio::time::timeout(READY_LIMIT, ready).await.unwrap_or_else(|_| {
        Err(Failure(
            "the plans' prices are not in Stripe yet: is `turnpike serve` running, with a Stripe key?".to_owned(),
        ))
    })
}

async fn fresh_key(context: &Context, consumer: ConsumerId) -> Result<String, Failure> {
    let domain = &context.domain;
    let manager = domain::Provider::console().key_manager(consumer);
    for key in domain::keys::list(domain, &manager).await? {
        if key.name == KEY_NAME && key.works(domain.clock.now()) {
            domain::keys::revoke(domain, &manager, key.id).await?;
        }
    }
    let new = NewKey {
        name: KEY_NAME.to_owned(),
        environment: Environment::Live,
        expires_at: None,
        routes: None,
    };
    Ok(domain::keys::create(domain, &manager, new)
        .await?
        .plain
        .reveal()
        .to_owned())
}

/// A consumer on a plan, and calls on the days before now, taken in as a gateway's ledger would be.
async fn fill(context: &Context, past: &Past) -> Result<(), Failure> {
    let domain = &context.domain;
    if domain::provision::consumer_by_email(domain, &past.email)
        .await?
        .is_some()
    {
        return Ok(());
    }
    let complimentary = past.plan != "free";
    let consumer = account::create(
        context,
        &past.email,
        &past.name,
        &past.plan,
        Interval::Month,
        complimentary,
    )
    .await?;
    let manager = domain::Provider::console().key_manager(consumer);
    let new = NewKey {
        name: "production".to_owned(),
        environment: Environment::Live,
        expires_at: None,
        routes: None,
    };
    let key = domain::keys::create(domain, &manager, new).await?.id;
    let changes = domain::snapshot::everything(domain, "").await?;
    let own = |e: &Entitlement| e.consumer == consumer && e.environment == Environment::Live;
    let routes = changes.routing.map(|r| r.routes).unwrap_or_default();
    let (Some(record), false) = (changes.entitlements.into_iter().find(own), routes.is_empty()) else {
        return Ok(());
    };
    let mut draw = Draw(u64::from(model::key::crc32(past.email.as_bytes())) | 1);
    let moments = moments(past, domain.clock.now(), &mut draw);
    let calls = (1u64..)
        .zip(moments)
        .map(|(seq, at)| call(context, &record, &routes, key, seq, at, &mut draw));
    let mut records: Vec<UsageRecord> = calls.collect();
    while !records.is_empty() {
        let rest = records.split_off(records.len().min(BATCH));
        let batch = UsageBatch {
            ledger: format!("demo-{consumer}"),
            records: std::mem::replace(&mut records, rest),
        };
        domain::usage::ship(domain, &batch).await?;
    }
    Ok(())
}

/// One call of the past: a route, now and then a path that is not there.
fn call(
    context: &Context,
    record: &Entitlement,
    routes: &[RouteRecord],
    key: KeyId,
    seq: u64,
    at: Time,
    draw: &mut Draw,
) -> UsageRecord {
    let failed = draw.below(90) == 0;
    let index = usize::try_from(draw.below(u64::try_from(routes.len()).unwrap_or(1))).unwrap_or(0);
    let (route, meter, weight) = routes.get(index).map_or((0, 0, 0), |r| (r.number, r.meter, r.weight));
    UsageRecord {
        seq,
        request: RequestId::new(at, &*context.domain.random),
        continues: false,
        at,
        consumer: record.consumer,
        environment: Environment::Live,
        subscription: record.subscription,
        plan_version: record.plan_version,
        period_start: record.period.start,
        key,
        route,
        meter,
        units: if failed { 0 } else { weight },
        status: if failed { 404 } else { 200 },
        refusal: 0,
        variants: 0,
        request_bytes: 0,
        response_bytes: 200 + draw.below(3_000),
        duration_us: u32::try_from(900 + draw.below(9_000)).unwrap_or(900),
    }
}

/// When the calls were: more by day than by night, fewer at week-ends, in order.
fn moments(past: &Past, now: Time, draw: &mut Draw) -> Vec<Time> {
    let mut all = Vec::new();
    for day in (0..i64::from(past.days)).rev() {
        let start = now.plus_s(-86_400 * (day + 1));
        let weekend = (start.unix_s() / 86_400 + 4) % 7 >= 5;
        let calls = u64::from(past.daily_calls) * (70 + draw.below(60)) / if weekend { 180 } else { 100 };
        for _ in 0..calls {
            let second = (draw.below(43_200) + draw.below(43_200)).min(86_399);
            all.push(start.plus_s(i64::try_from(second).unwrap_or(0)));
        }
    }
    all.sort();
    all
}

/// Numbers that look random and are the same each time: xorshift.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

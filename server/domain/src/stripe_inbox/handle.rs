//! Handling: all waiting events about one object come to a few questions to Stripe, each asked once.

use crate::jobs::{self, Job};
use crate::{Domain, Result, invoices, meter_events, subscriptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// Handles what waits about an object.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandleEvents {
    /// Stripe's id of it.
    pub object: String,
}

#[async_trait::async_trait]
impl Job for HandleEvents {
    const KIND: &'static str = "stripe_inbox.handle";
    const ASKS_STRIPE: bool = true;

    fn dedup_key(&self) -> Option<String> {
        Some(self.object.clone())
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        let waiting = sqlx::query!(
            "SELECT id, type AS kind, raw FROM stripe_events WHERE object_id = $1 AND state = 'received' ORDER BY received_at",
            self.object
        )
        .fetch_all(&domain.pool)
        .await?;
        let ids: Vec<String> = waiting.iter().map(|e| e.id.clone()).collect();
        let mut todo = BTreeSet::new();
        for event in &waiting {
            if event.kind == "invoice.finalization_failed" {
                tracing::error!(invoice = self.object, "Stripe cannot finalize an invoice");
            }
            todo.extend(Action::of(&event.kind, &event.raw));
        }
        for action in &todo {
            if let Err(error) = action.run(domain).await {
                note_failure(domain, &ids, &error).await?;
                return Err(error);
            }
        }
        sqlx::query!(
            "UPDATE stripe_events SET state = 'done', done_at = $2, last_error = NULL WHERE id = ANY($1) AND state = 'received'",
            &ids,
            domain.clock.now()
        )
        .execute(&domain.pool)
        .await?;
        Ok(())
    }
}

/// Dead with the job: the inbox page shows it and can replay it.
async fn note_failure(domain: &Domain, ids: &[String], error: &crate::DomainError) -> Result<()> {
    sqlx::query!(
        "UPDATE stripe_events SET attempts = attempts + 1, last_error = $2,
                state = CASE WHEN attempts + 1 >= $3 THEN 'dead' ELSE state END
         WHERE id = ANY($1) AND state = 'received'",
        ids,
        error.chain(),
        jobs::MAX_ATTEMPTS
    )
    .execute(&domain.pool)
    .await?;
    Ok(())
}

/// A question to Stripe whose answer is written. Of the event only ids are used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    /// First: the mirror must have a draft before usage of its period is sent.
    Invoice(String),
    /// Then usage: an invoice is open for about an hour.
    Flush(String),
    Checkout(String),
    CheckoutExpired(String),
    Subscription(String),
    Refund(String),
    Dispute(String),
    CustomerDeleted(String),
}

impl Action {
    fn of(kind: &str, raw: &Value) -> Vec<Action> {
        let object = &raw["data"]["object"];
        let id = |value: &Value| value.as_str().or_else(|| value["id"].as_str()).map(str::to_owned);
        let Some(this) = object["id"].as_str().map(str::to_owned) else {
            return Vec::new();
        };
        let family = kind.rsplit_once('.').map_or(kind, |(family, _)| family);
        match (family, kind) {
            (_, "checkout.session.expired") => vec![Action::CheckoutExpired(this)],
            ("checkout.session", _) => vec![Action::Checkout(this)],
            ("customer.subscription", _) => vec![Action::Subscription(this)],
            ("customer", "customer.deleted") => vec![Action::CustomerDeleted(this)],
            ("charge.dispute", _) => vec![Action::Dispute(this)],
            ("charge", "charge.refunded") => vec![Action::Refund(this)],
            ("subscription_schedule", _) => id(&object["subscription"])
                .or_else(|| id(&object["released_subscription"]))
                .map(Action::Subscription)
                .into_iter()
                .collect(),
            ("invoice", _) => {
                let subscription = id(&object["parent"]["subscription_details"]["subscription"]);
                let mut all = vec![Action::Invoice(this)];
                if kind == "invoice.created" {
                    all.extend(subscription.clone().map(Action::Flush));
                }
                all.extend(subscription.map(Action::Subscription));
                all
            }
            _ => Vec::new(),
        }
    }

    async fn run(&self, domain: &Domain) -> Result<()> {
        match self {
            Action::Flush(subscription) => meter_events::flush(domain, subscription).await,
            Action::Checkout(id) => subscriptions::completed(domain, id).await,
            Action::CheckoutExpired(id) => subscriptions::expired(domain, id).await,
            Action::Subscription(id) => subscriptions::sync_subscription(domain, id).await,
            Action::Invoice(id) => invoices::sync(domain, id).await,
            Action::Dispute(id) => subscriptions::disputed(domain, id).await,
            Action::Refund(charge) => subscriptions::refunded(domain, charge).await,
            Action::CustomerDeleted(id) => subscriptions::customer_deleted(domain, id).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_type_that_is_asked_for_leads_to_something() {
        let raw = json!({"data": {"object": {"id": "x", "subscription": "sub_1",
            "parent": {"subscription_details": {"subscription": {"id": "sub_2"}}}}}});
        for kind in super::super::HANDLED {
            assert!(!Action::of(kind, &raw).is_empty(), "{kind}");
        }
        assert_eq!(
            Action::of("invoice.created", &raw),
            [
                Action::Invoice("x".into()),
                Action::Flush("sub_2".into()),
                Action::Subscription("sub_2".into())
            ]
        );
    }

    #[test]
    fn an_event_without_an_object_leads_to_nothing() {
        assert!(Action::of("invoice.paid", &json!({})).is_empty());
        assert!(Action::of("customer.updated", &json!({"data": {"object": {"id": "cus_1"}}})).is_empty());
    }
}

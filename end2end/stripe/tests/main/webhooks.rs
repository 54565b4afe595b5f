//! Deliveries: signed, retried, and as bad as ordered.

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Router, routing::post};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;

use crate::support::{World, at, id};

#[derive(Clone, Default)]
struct Inbox {
    taken: Arc<Mutex<Vec<(Value, String, String)>>>,
    refuses: Arc<Mutex<bool>>,
}

async fn take(State(inbox): State<Inbox>, headers: HeaderMap, body: String) -> StatusCode {
    if *inbox.refuses.lock().unwrap() {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    let signature = headers["stripe-signature"].to_str().unwrap().to_owned();
    inbox
        .taken
        .lock()
        .unwrap()
        .push((serde_json::from_str(&body).unwrap(), signature, body));
    StatusCode::OK
}

impl Inbox {
    async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let app = Router::new().route("/hook", post(take)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }

    fn types(&self) -> Vec<String> {
        self.taken
            .lock()
            .unwrap()
            .iter()
            .map(|(event, ..)| id(event, "type"))
            .collect()
    }
}

#[tokio::test]
async fn events_are_signed_and_filtered() {
    let (world, inbox) = (World::at("2026-04-01T00:00:00Z").await, Inbox::default());
    let url = inbox.listen().await;
    let form = format!("url={url}&enabled_events[0]=customer.created&api_version=2026-09-30.endive");
    let endpoint = world.post("webhook_endpoints", &form).await;
    assert!(world.get(&format!("webhook_endpoints/{}", id(&endpoint, "id"))).await["secret"].is_null());
    world.post("customers", "name=Ada").await;
    world.post("products", "name=Atlas").await;
    world.emulator.settle().await;
    assert_eq!(inbox.types(), ["customer.created"]);
    let (event, signature, body) = inbox.taken.lock().unwrap()[0].clone();
    let now = at("2026-04-01T00:00:00Z");
    let mac = Hmac::<sha2::Sha256>::new_from_slice(id(&endpoint, "secret").as_bytes()).unwrap();
    let digest = mac.chain_update(format!("{now}.{body}")).finalize().into_bytes();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(signature, format!("t={now},v1={hex}"));
    assert_eq!(event["api_version"], "2026-09-30.endive");
    assert_eq!(
        world.get("events?delivery_success=false").await["data"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
}

#[tokio::test]
async fn a_refused_delivery_is_listed_and_retried() {
    let (world, inbox) = (World::at("2026-04-01T00:00:00Z").await, Inbox::default());
    world.emulator.add_webhook(&inbox.listen().await).unwrap();
    *inbox.refuses.lock().unwrap() = true;
    world.post("customers", "name=Ada").await;
    world.emulator.settle().await;
    assert_eq!(
        world.get("events?delivery_success=false").await["data"][0]["type"],
        "customer.created"
    );
    *inbox.refuses.lock().unwrap() = false;
    world.emulator.advance(60).await;
    assert_eq!(inbox.types(), ["customer.created"]);
    assert!(
        world.get("events?delivery_success=false").await["data"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn deliveries_can_be_doubled_turned_round_lost_and_sent_again() {
    let (world, inbox) = (World::at("2026-04-01T00:00:00Z").await, Inbox::default());
    world.emulator.add_webhook(&inbox.listen().await).unwrap();
    world.emulator.set(|settings| settings.webhooks.duplicate = true);
    world.post("products", "name=Atlas").await;
    world.emulator.settle().await;
    assert_eq!(inbox.types(), ["product.created", "product.created"]);
    world.emulator.set(|settings| {
        settings.webhooks.duplicate = false;
        settings.webhooks.reorder = true;
    });
    inbox.taken.lock().unwrap().clear();
    let customer = id(&world.post("customers", "name=Ada").await, "id");
    world.post(&format!("customers/{customer}"), "name=Bea").await;
    world.emulator.settle().await;
    assert_eq!(inbox.types(), ["customer.updated", "customer.created"]);
    world.emulator.set(|settings| {
        settings.webhooks.reorder = false;
        settings.webhooks.drop = true;
    });
    inbox.taken.lock().unwrap().clear();
    world.post(&format!("customers/{customer}"), "name=Cy").await;
    world.emulator.advance(86_400).await;
    assert!(inbox.types().is_empty());
    world.emulator.set(|settings| settings.webhooks.drop = false);
    let lost = world.get("events?delivery_success=false").await;
    assert!(world.emulator.resend(&id(&lost["data"][0], "id")));
    world.emulator.settle().await;
    assert_eq!(inbox.types(), ["customer.updated"]);
}

#[tokio::test]
async fn an_unanswered_invoice_created_holds_the_draft_back() {
    let (world, inbox) = (World::at("2026-04-01T00:00:00Z").await, Inbox::default());
    let (price, customer) = (world.monthly(2000).await, world.customer("pm_card_visa").await);
    world
        .post("subscriptions", &format!("customer={customer}&items[0][price]={price}"))
        .await;
    world.emulator.add_webhook(&inbox.listen().await).unwrap();
    *inbox.refuses.lock().unwrap() = true;
    world.emulator.advance_to(at("2026-05-01T12:00:00Z")).await;
    assert_eq!(world.get("invoices").await["data"][0]["status"], "draft");
    world.emulator.advance_to(at("2026-05-04T02:00:00Z")).await;
    assert_eq!(world.get("invoices").await["data"][0]["status"], "paid");
}

//! Signed tokens: an issuer that the test plays, with keys that lie beside this file and open nothing.

mod forged;
mod grants;
mod identity;
mod issuers;
mod plans;

use crate::credentials::{ask, set_policy};
use crate::recorder::accept;
use crate::support::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use model::issuer::IssuerFile;
use model::snapshot::IssuerRecord;
use model::{Clock as _, KeyId};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "https://api.example";
const RSA: &str = include_str!("keys/rsa.pem");
const RSA_PUBLIC: &str = include_str!("keys/rsa.pub.pem");
const EC: &str = include_str!("keys/ec.pem");
const EC_PUBLIC: &str = include_str!("keys/ec.pub.pem");
const ED: &str = include_str!("keys/ed.pem");
const ED_PUBLIC: &str = include_str!("keys/ed.pub.pem");
const OTHER: &str = include_str!("keys/other.pem");
/// What stands in usage for the key that a token's caller does not have.
const STAND_IN: u128 = 0xABCD << 80;

/// Somebody who signs.
struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    name: &'static str,
}

fn rsa() -> Signer {
    Signer {
        key: EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap(),
        algorithm: Algorithm::RS256,
        name: "RS256",
    }
}
fn ec() -> Signer {
    Signer {
        key: EncodingKey::from_ec_pem(EC.as_bytes()).unwrap(),
        algorithm: Algorithm::ES256,
        name: "ES256",
    }
}
fn ed(pem: &str) -> Signer {
    Signer {
        key: EncodingKey::from_ed_pem(pem.as_bytes()).unwrap(),
        algorithm: Algorithm::EdDSA,
        name: "EdDSA",
    }
}
fn secret(bytes: &[u8]) -> Signer {
    Signer {
        key: EncodingKey::from_secret(bytes),
        algorithm: Algorithm::HS256,
        name: "HS256",
    }
}

impl Signer {
    /// A token with these parts, whatever they are.
    fn raw(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encoded(header), encoded(claims));
        let signature = crypto::sign(signed.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{signed}.{signature}")
    }

    fn token(&self, header: Value, claims: &Value) -> String {
        let mut whole = json!({"alg": self.name, "typ": "JWT"});
        for (name, value) in header.as_object().unwrap() {
            match value {
                Value::Null => drop(whole.as_object_mut().unwrap().remove(name)),
                _ => whole[name] = value.clone(),
            }
        }
        self.raw(&whole.to_string(), &claims.to_string())
    }

    /// The public half as a JWK.
    fn jwk(&self, kid: &str) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = json!(kid);
        jwk
    }
}

fn encoded(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Claims that are good now.
fn claims(world: &World) -> Value {
    let now = world.clock.security_now().unix_s();
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": world.consumer.to_string(), "iat": now, "exp": now + 300})
}

fn record(file: Value) -> IssuerRecord {
    let mut whole = json!({"slug": "login", "issuer": ISSUER, "audiences": [AUDIENCE]});
    for (name, value) in file.as_object().unwrap() {
        whole[name] = value.clone();
    }
    let file: IssuerFile = serde_json::from_value(whole).unwrap();
    file.check().unwrap();
    IssuerRecord {
        key: KeyId::from_bits(STAND_IN),
        file,
    }
}

/// A world in which the issuer's tokens are taken beside keys.
async fn world(issuer: Value) -> World {
    let world = World::new().await;
    trust(&world, vec![record(issuer)]).await;
    world
}

async fn trust(world: &World, issuers: Vec<IssuerRecord>) {
    set_policy(world, r#"{"accept": ["key", "jwt"]}"#, |routing| {
        routing.issuers = issuers;
    })
    .await;
}

/// A world that trusts the Ed25519 key.
async fn simple() -> World {
    world(json!({"algorithms": ["EdDSA"], "public_key": ED_PUBLIC})).await
}

async fn call(world: &World, token: &str) -> Reply {
    call_at(world, "/v1/ok", token).await
}

async fn call_at(world: &World, path: &str, token: &str) -> Reply {
    ask(world, path, &format!("Authorization: Bearer {token}\r\n")).await
}

/// The status and the name of the refusal.
async fn outcome(world: &World, token: &str) -> (u16, String) {
    // Long enough that failures of before do not count any more.
    world.clock.advance(1_000);
    let reply = call(world, token).await;
    (
        reply.status,
        if reply.status < 400 {
            String::new()
        } else {
            reply.problem()
        },
    )
}

async fn assert_invalid(world: &World, what: &str, token: &str) {
    let before = world.upstream.requests().len();
    assert_eq!(
        outcome(world, token).await,
        (401, "token-invalid".to_owned()),
        "{what}: {token}"
    );
    assert_eq!(world.upstream.requests().len(), before, "{what}");
}

/// A server that answers every request alike, and counts them.
struct Stub {
    addr: SocketAddr,
    asked: Arc<AtomicUsize>,
    says: Arc<Mutex<Says>>,
}

#[derive(Clone)]
struct Says {
    head: String,
    body: Vec<u8>,
    pause: Duration,
}

impl Stub {
    async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Self {
            addr: listener.local_addr().unwrap(),
            asked: Arc::default(),
            says: Arc::new(Mutex::new(Says {
                head: String::new(),
                body: Vec::new(),
                pause: Duration::ZERO,
            })),
        };
        stub.publish(keys);
        let (asked, says) = (Arc::clone(&stub.asked), Arc::clone(&stub.says));
        tokio::spawn(async move {
            loop {
                let mut stream = accept(&listener).await;
                asked.fetch_add(1, Ordering::SeqCst);
                let says = says.lock().unwrap().clone();
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    tokio::time::sleep(says.pause).await;
                    let _ = stream.write_all(says.head.as_bytes()).await;
                    let _ = stream.write_all(&says.body).await;
                });
            }
        });
        stub
    }

    fn publish(&self, keys: &[Value]) {
        self.say("200 OK", "", json!({ "keys": keys }).to_string().into_bytes());
    }

    fn say(&self, status: &str, lines: &str, body: Vec<u8>) {
        let length = body.len();
        *self.says.lock().unwrap() = Says {
            head: format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{lines}\r\n"),
            body,
            pause: Duration::ZERO,
        };
    }

    fn url(&self) -> String {
        format!("http://{}/keys", self.addr)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Longer than keys are waited for, and than the pause behind the first failure.
const STOOD_STILL: Duration = Duration::from_secs(8);

/// Waits until a token is judged: its issuer's keys were asked for.
async fn judged(world: &World, token: &str) -> Reply {
    let begun = Instant::now();
    let mut next = STOOD_STILL;
    while begun.elapsed() < Duration::from_secs(60) {
        let reply = call(world, token).await;
        if reply.status != 503 {
            return reply;
        }
        assert_eq!(reply.problem(), "issuer-unavailable");
        assert_eq!(reply.header("retry-after"), Some("1"));
        if begun.elapsed() > next {
            // The machine stood still while they were fetched. A token makes them be fetched again a minute later.
            world.clock.advance(61_000);
            next += STOOD_STILL;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the keys never came");
}

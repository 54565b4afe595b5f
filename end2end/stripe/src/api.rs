//! The API's front door: key, version, faults, parameters, idempotency, expansion.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State as Extract;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::Endpoint;
use crate::running::Shared;
use crate::settings::Fault;
use crate::state::{API_VERSION, Saved, State, each};

/// A saved answer is replayed for so long.
const SAVED_SECONDS: i64 = 24 * 3600;
/// A meter event holds its customer and meter this long; a second one meanwhile is refused, as Stripe does.
const METER_HOLD: Duration = Duration::from_millis(3);

/// Answers every request under `/v1/`.
pub(crate) async fn handle(
    Extract(shared): Extract<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let body = String::from_utf8_lossy(&body).into_owned();
    shared.record(&json!({"method": method.as_str(), "path": path, "query": query, "body": body}));
    let id = shared.with(|state| state.new_id("req"));
    let call = Call {
        method: method.as_str(),
        path,
        form: if method == Method::GET { query } else { &body },
        key: header(&headers, "idempotency-key"),
        id: &id,
    };
    let fault = shared.with(take_fault);
    match fault.as_ref().map(|fault| fault.kind.as_str()) {
        Some("slow") => {
            tokio::time::sleep(Duration::from_millis(fault.as_ref().map_or(0, |fault| fault.delay_ms))).await;
        }
        Some("status") => return call.answer(faulty(&shared, &call, fault.map_or(500, |fault| fault.status))),
        _ => {}
    }
    let drops = fault.is_some_and(|fault| fault.kind == "drop_after_commit");
    let done = match admitted(&headers) {
        Ok(()) => serve(&shared, &call).await,
        Err(refusal) => Done::new(refusal.status, refusal.body()),
    };
    if drops {
        let hang_up =
            futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("the connection was dropped")) });
        return Response::new(Body::from_stream(hang_up));
    }
    call.answer(done)
}

/// One request.
struct Call<'a> {
    method: &'a str,
    path: &'a str,
    form: &'a str,
    key: &'a str,
    id: &'a str,
}

/// One answer.
struct Done {
    status: u16,
    body: Value,
    replayed: bool,
}

impl Done {
    fn new(status: u16, body: Value) -> Self {
        Self {
            status,
            body,
            replayed: false,
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn take_fault(state: &mut State) -> Option<Fault> {
    let fault = state.settings.faults.first_mut()?;
    fault.count = fault.count.saturating_sub(1);
    let taken = fault.clone();
    state.settings.faults.retain(|fault| fault.count > 0);
    Some(taken)
}

/// A fault's answer. As at Stripe, a 500 is kept for its idempotency key and a 429 is not.
fn faulty(shared: &Shared, call: &Call<'_>, status: u16) -> Done {
    let error = match status {
        429 => ApiError::new(
            429,
            "invalid_request_error",
            "Too many requests hit the API too quickly.",
        )
        .with("code", "rate_limit"),
        _ => ApiError::new(
            status,
            "api_error",
            "An unknown error occurred (a fault was ordered on the control page).",
        ),
    };
    let done = Done::new(status, error.body());
    if status == 500 && !call.key.is_empty() {
        shared.with(|state| save(state, call, &done));
    }
    done
}

fn admitted(headers: &HeaderMap) -> Result<(), ApiError> {
    let authorization = header(headers, "authorization");
    if !authorization.starts_with("Bearer sk_test_") && !authorization.starts_with("Bearer rk_test_") {
        let message =
            "Invalid API Key provided: the emulator takes test keys only, `Authorization: Bearer sk_test_...`.";
        return Err(ApiError {
            status: 401,
            ..ApiError::invalid(message)
        });
    }
    let version = header(headers, "stripe-version");
    if version != API_VERSION {
        let message = format!("Invalid Stripe API version: `{version}`. The emulator speaks `{API_VERSION}` only.");
        return Err(ApiError::invalid(&message));
    }
    Ok(())
}

async fn serve(shared: &Shared, call: &Call<'_>) -> Done {
    let refused = |refusal: ApiError| Done::new(refusal.status, refusal.body());
    let Some((endpoint, id)) = crate::params::find(call.method, call.path) else {
        return refused(crate::routes::unknown(call.method, call.path));
    };
    let form = crate::form::parse(call.form)
        .map_err(|name| ApiError::param(&name, "The parameter is both a text and an object."));
    let params = match form.and_then(|form| endpoint.check(&form)) {
        Ok(params) => params,
        Err(refusal) => return refused(refusal),
    };
    if call.method == "GET" || call.key.is_empty() {
        return execute(shared, call, endpoint, &id, &params).await;
    }
    let Some(_busy) = shared.claim(format!("key {}", call.key)) else {
        let message = "There is currently another in-progress request using this Idempotent Key.";
        return refused(ApiError::new(409, "idempotency_error", message).with("code", "idempotency_key_in_use"));
    };
    match shared.with(|state| saved(state, call)) {
        Some(Ok(done)) => return done,
        Some(Err(refusal)) => return refused(refusal),
        None => {}
    }
    let done = execute(shared, call, endpoint, &id, &params).await;
    if done.status < 400 || done.status == 402 || done.status >= 500 {
        shared.with(|state| save(state, call, &done));
    }
    done
}

fn fingerprint(call: &Call<'_>) -> String {
    format!("{} {} {}", call.method, call.path, call.form)
}

fn saved(state: &mut State, call: &Call<'_>) -> Option<Result<Done, ApiError>> {
    let now = state.wall;
    state.saved.retain(|_, saved| now - saved.at < SAVED_SECONDS);
    let saved = state.saved.get(call.key)?;
    if saved.request != fingerprint(call) {
        let message = format!(
            "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key other than '{}' if you meant to execute a different request.",
            call.key
        );
        return Some(Err(ApiError::new(400, "idempotency_error", &message)));
    }
    Some(Ok(Done {
        status: saved.status,
        body: saved.body.clone(),
        replayed: true,
    }))
}

fn save(state: &mut State, call: &Call<'_>, done: &Done) {
    let kept = Saved {
        request: fingerprint(call),
        status: done.status,
        body: done.body.clone(),
        at: state.wall,
    };
    state.saved.insert(call.key.to_owned(), kept);
}

async fn execute(shared: &Shared, call: &Call<'_>, endpoint: &Endpoint, id: &str, params: &Value) -> Done {
    let _lane = if endpoint.name == "POST /v1/billing/meter_events" {
        let lane = shared.read(|state| crate::meters::lane(state, params));
        let Some(busy) = shared.claim(format!("meter {lane}")) else {
            let message = "This object cannot be accessed right now because another API request is using it: one call at a time for a customer and meter.";
            let refusal = ApiError::new(429, "invalid_request_error", message).with("code", "lock_timeout");
            return Done::new(refusal.status, refusal.body());
        };
        tokio::time::sleep(METER_HOLD).await;
        Some(busy)
    } else {
        None
    };
    shared.with(|state| {
        state.request =
            json!({"id": call.id, "idempotency_key": if call.key.is_empty() { Value::Null } else { json!(call.key) }});
        let answer = crate::routes::answer(state, &endpoint.name, id, call.path, params);
        let answer = answer.and_then(|mut answer| {
            crate::views::expand(state, &mut answer, each(params, "expand"))?;
            Ok(answer)
        });
        match answer {
            Ok(body) => Done::new(200, body),
            Err(refusal) => Done::new(refusal.status, refusal.body()),
        }
    })
}

impl Call<'_> {
    fn answer(&self, done: Done) -> Response {
        let mut response = Response::new(Body::from(done.body.to_string()));
        *response.status_mut() = StatusCode::from_u16(done.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = value.parse() {
                response.headers_mut().insert(name, value);
            }
        };
        set("content-type", "application/json");
        set("request-id", self.id);
        set("stripe-version", API_VERSION);
        if !self.key.is_empty() {
            set("idempotency-key", self.key);
            set("original-request", self.id);
        }
        if done.replayed {
            set("idempotent-replayed", "true");
        }
        response
    }
}

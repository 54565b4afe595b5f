//! The pages behind the `type` of every refusal: what happened, and how to go on.

use crate::error::AppError;
use crate::session::Visitor;
use axum::extract::Path;
use axum::response::Response;
use leptos::prelude::*;

/// A refusal of the gateway in words. The gateway has numbers, statuses and titles of its own; a test of the program
/// compares the two lists.
#[derive(Debug, Clone, Copy)]
pub struct Problem {
    /// Number in the usage log.
    pub number: i16,
    /// Last part of the `type`.
    pub slug: &'static str,
    /// HTTP status.
    pub status: u16,
    /// What it is called.
    pub title: &'static str,
    /// What happened.
    pub meaning: &'static str,
    /// What to do.
    pub mend: &'static str,
    /// Where to do it: text and address; empty where there is no page for it.
    pub link: (&'static str, &'static str),
}

const KEYS: (&str, &str) = ("Go to your keys", "/keys");
const PLANS: (&str, &str) = ("Compare plans", "/pricing");
const NOWHERE: (&str, &str) = ("", "");

macro_rules! problems {
    ($($number:literal $slug:literal $status:literal $title:literal $meaning:literal $mend:literal $link:expr;)+) => {
        /// Every refusal, by number.
        pub const ALL: &[Problem] = &[$(Problem {
            number: $number, slug: $slug, status: $status, title: $title, meaning: $meaning, mend: $mend, link: $link,
        }),+];
    };
}

problems! {
    1 "no-route" 404 "There is nothing at this path"
        "The path of the request is none that the API has." "Check the path for spelling and for the version at its beginning." NOWHERE;
    2 "method-not-allowed" 405 "The method is not allowed here"
        "The path exists, but not for this method." "Use one of the methods in the answer's Allow header." NOWHERE;
    3 "bad-request" 400 "The request is malformed or ambiguous"
        "The request can be read in more than one way, so it is not forwarded at all." "Send it with an ordinary HTTP client. The answer's detail says what is wrong." NOWHERE;
    4 "key-missing" 401 "An API key is needed"
        "The request carries no key." "Send your key in the X-API-Key header, or as a bearer token in Authorization." KEYS;
    5 "key-unknown" 401 "The API key is not valid"
        "The key is none of ours: mistyped, cut off, or of another provider." "Copy the key again. If it is lost, create a new one: a key is shown only once." KEYS;
    6 "two-credentials" 400 "More than one credential was given"
        "The request carries two keys, so it is unclear who asks." "Send the key once, in one header." NOWHERE;
    7 "key-revoked" 401 "The API key was revoked"
        "Somebody in your account revoked this key, or it was rotated without an overlap." "Use the key that took over, or create a new one." KEYS;
    8 "key-expired" 401 "The API key has expired"
        "The key's expiry, or the overlap of its rotation, is over." "Create a new key, or use the one that took over." KEYS;
    9 "payment-required" 402 "A payment is overdue"
        "A payment failed, and the grace period after it is over." "Pay the open invoice. Access returns within seconds of the payment." ("Go to your invoices", "/invoices");
    10 "suspended" 403 "The account is suspended"
        "The provider suspended your account." "Write to the provider." ("Go to your account", "/account");
    11 "no-plan" 402 "A plan is needed"
        "The account has no plan in force." "Choose a plan. The free one needs no card." PLANS;
    12 "insufficient-scope" 403 "The API key may not use this route"
        "The key was made for other routes." "Use a key that allows this route, or create one." KEYS;
    13 "feature-missing" 403 "The plan does not include this"
        "The route needs a feature that your plan does not grant." "Change to a plan that grants it." PLANS;
    14 "rate-limited" 429 "Too many requests in a short time"
        "There were more requests than a rate limit of your plan, or of the route, allows. The answer's violated-policies names which." "Wait as long as the Retry-After header says. The RateLimit header tells how many are left of each limit." PLANS;
    15 "quota-exceeded" 429 "The plan's allowance is used up"
        "The plan has a hard quota, and this period's is used up." "Wait for the next period, or change to a plan with more." PLANS;
    16 "spend-cap-reached" 402 "The spend cap is reached"
        "Usage charges of this period have reached the cap that your account set." "Raise or remove the cap, or wait for the next period." ("Change the spend cap", "/budget");
    17 "body-too-large" 413 "The request's body is too large"
        "The body is larger than the gateway takes." "Send less at once." NOWHERE;
    18 "upgrade-unsupported" 501 "Protocol upgrades are not supported"
        "The request asks to change to another protocol." "Use plain HTTP." NOWHERE;
    19 "upstream-unreachable" 502 "The service behind the gateway cannot be reached"
        "The API itself accepts no connection. The call is not counted." "Try again in a moment." NOWHERE;
    20 "upstream-broken" 502 "The service behind the gateway gave no valid answer"
        "The API broke off its answer. The call is not counted." "Try again in a moment." NOWHERE;
    21 "upstream-timeout" 504 "The service behind the gateway took too long"
        "The API did not answer in time. The call is not counted." "Try again in a moment." NOWHERE;
    22 "keys-unavailable" 503 "The key cannot be checked just now"
        "The gateway does not know this key yet and cannot ask." "Try again in a moment. Keys in use go on working." NOWHERE;
    23 "not-ready" 503 "The gateway is starting"
        "The gateway has no routes yet." "Try again in a moment." NOWHERE;
    24 "ledger-unavailable" 503 "The gateway cannot record usage just now"
        "What is paid for and cannot be recorded is not let through, so that no bill is ever wrong." "Try again in a moment. Calls that cost nothing go on." NOWHERE;
    25 "body-timeout" 408 "The request's body came too slowly"
        "The gateway stopped waiting for the rest of the body." "Send it again." NOWHERE;
    26 "body-broken" 400 "The request's body is malformed or broke off"
        "The body ended too early, or its framing is wrong." "Send it again, with an ordinary HTTP client." NOWHERE;
    27 "client-gone" 400 "The client went away"
        "The connection was closed before the answer." "Wait longer for answers." NOWHERE;
    28 "address-refused" 403 "Requests from this address are not let in"
        "The provider lets only some network addresses call this route." "Call from an address that was agreed on, or write to the provider." NOWHERE;
    29 "origin-refused" 403 "Pages of this origin may not call this"
        "A page in a browser asked for permission to call, and its origin is not among those allowed." "Call from your server, or ask the provider to allow the origin." NOWHERE;
    30 "too-many-at-once" 429 "Too many requests in flight"
        "Your keys together have as many requests in flight as the plan allows; an open stream is one of them." "Wait for an answer before the next request, end a stream, or change to a plan with more." PLANS;
    31 "route-busy" 503 "Too many requests are in flight to this route"
        "The route serves so many requests at once, of all callers, and has them. The call is not counted." "Try again as the Retry-After header says." NOWHERE;
    32 "overloaded" 503 "There is more to do than can be done just now"
        "More is asked for than the API can serve, and plans with a higher priority go first. The call is not counted." "Try again as the Retry-After header says, with growing waits. A plan with a higher priority is served first." PLANS;
    33 "snapshot-stale" 503 "Plans and keys are not certain any more"
        "The gateway was cut off from what it knows of plans and keys for too long, so calls that are paid for wait. The call is not counted." "Try again as the Retry-After header says. Calls that cost nothing go on." NOWHERE;
    34 "limit-leased" 503 "What is left of a limit is not here just now"
        "Several gateways share what is left of a quota, a spend cap or a key's own limit, and this one has none of it at the moment. The call is not counted." "Try again as the Retry-After header says." NOWHERE;
    40 "credential-misplaced" 401 "The credential is in the wrong place"
        "The request carries a credential where this route does not take one: in the query, in a cookie, or under another scheme." "Send it where the answer's detail says. A key that was part of an address may be in logs by now: rotate it." KEYS;
    41 "too-many-failures" 429 "Too many wrong credentials"
        "Many requests with wrong credentials came from your network in a short time." "Wait as long as the Retry-After header says, and use a key that works: right ones are let in all the while." KEYS;
    42 "token-invalid" 401 "The token is not valid"
        "The token is malformed, not signed by an issuer that this API trusts, or made for something else." "Ask the issuer for a new token for this API. The answer's detail says what is wrong with this one." NOWHERE;
    43 "token-expired" 401 "The token has expired"
        "The token's time is over." "Ask the issuer for a new one." NOWHERE;
    44 "token-unknown-consumer" 403 "The token names nobody known here"
        "The token is good, but the account that it names does not exist here." "Sign up, or ask the provider which account the token should name." NOWHERE;
    45 "issuer-unavailable" 503 "The token cannot be checked just now"
        "The gateway has no keys of the token's issuer that it may still trust." "Try again in a moment." NOWHERE;
    80 "token-plan-refused" 403 "The token names a plan that it may not"
        "The token is good, but its issuer may not put callers on the plan that it names." "Ask the issuer for a token without a plan, or ask the provider to let the issuer name it." NOWHERE;
    55 "upstream-unavailable" 503 "The service behind the gateway is not available just now"
        "The API failed too often and is given time to recover. The call is not counted." "Try again after the seconds in Retry-After." NOWHERE;
    60 "not-cached" 504 "No answer is kept"
        "The request says only-if-cached, and the gateway keeps no answer that it could give." "Leave only-if-cached out of Cache-Control, and the API is asked." NOWHERE;
    61 "idempotency-key-missing" 400 "An Idempotency-Key is needed"
        "This call must carry the header Idempotency-Key, so that repeating it does not do it twice." "Send a value of your own that is new for each operation, such as a UUID, and the same one when you repeat it." NOWHERE;
    62 "idempotency-busy" 409 "The first request with this key is under way"
        "A request with the same Idempotency-Key has not been answered yet." "Repeat it after the seconds in Retry-After: then you get its answer. It is not counted." NOWHERE;
    63 "idempotency-reused" 422 "The key was used for another request"
        "The Idempotency-Key was used for a request with another method, host, path, query or body." "Use a new key for each operation." NOWHERE;
    64 "idempotency-lost" 409 "The first answer is not kept"
        "The request was done, or may have been, and is not done twice; its answer was too large to be kept, broke off, could not be passed on, did not come in time, or made room for others." "Ask the API what became of it. Use a new key only to do it again." NOWHERE;
    70 "key-quota-reached" 429 "The key's own quota is used up"
        "Your account gave this key a quota of its own, and this period's is used up. Other keys of the account go on." "Raise or remove the key's quota, or wait for the next period." KEYS;
    71 "key-budget-reached" 402 "The key's own budget is reached"
        "Your account gave this key a budget of its own, and the key's part of the usage charges has reached it. Other keys of the account go on." "Raise or remove the key's budget, or wait for the next period." KEYS;
    50 "body-unclear" 400 "The request's body is not JSON that has one reading"
        "Some fields of the body need a feature that your plan does not grant, so the body is read before it is forwarded; and it is no JSON, or a name stands in an object twice." "Send plain JSON in which every name stands once." NOWHERE;
    51 "body-encoded" 415 "The request's body must not be compressed here"
        "Some fields of the body need a feature that your plan does not grant, so the body is read before it is forwarded." "Send the body uncompressed, or change to a plan that grants the feature." PLANS;
    52 "format-refused" 406 "The plan includes this answer as JSON only"
        "Some fields of the answer need a feature that your plan does not grant. They can be left out of JSON, not out of the format that the API answers in." "Ask for application/json in the Accept header, or change to a plan that grants the feature." PLANS;
}

/// The problem with a number of the usage log.
pub fn by_number(number: i16) -> Option<&'static Problem> {
    ALL.iter().find(|p| p.number == number)
}

/// `GET /problems`
pub async fn index(visitor: Visitor) -> Response {
    visitor.page("Refusals", || {
        let rows: Vec<_> = ALL
            .iter()
            .map(|p| {
                view! {
                    <tr>
                        <td><a href=format!("/problems/{}", p.slug)>{p.title}</a></td>
                        <td class="num" data-label="Status">{p.status}</td>
                        <td data-label="Name"><code>{p.slug}</code></td>
                    </tr>
                }
            })
            .collect();
        view! {
            <div class="wrap" data-top="plain">
                <div class="page-head"><div>
                    <h1>"How the gateway says no"</h1>
                    <p>"Every refusal is a problem document (RFC 9457). Its type is the address of one of these pages."</p>
                </div></div>
                <div class="table-wrap" tabindex="0" role="group" aria-label="Refusals">
                    <table class="stacked">
                        <thead><tr><th scope="col">"Problem"</th><th scope="col" class="num">"Status"</th><th scope="col">"Name"</th></tr></thead>
                        <tbody>{rows}</tbody>
                    </table>
                </div>
            </div>
        }
    })
}

/// `GET /problems/{slug}`
///
/// # Errors
/// Not found for a name that is none.
pub async fn page(visitor: Visitor, Path(slug): Path<String>) -> Result<Response, AppError> {
    let problem = ALL.iter().find(|p| p.slug == slug).ok_or_else(AppError::not_found)?;
    Ok(visitor.page(problem.title, || {
        let (text, href) = problem.link;
        let link = (!href.is_empty()).then(|| view! { <p><a class="button" data-kind="primary" href=href>{text}</a></p> });
        view! {
            <div class="narrow">
                <h1>{problem.title}</h1>
                <p>{problem.meaning}</p>
                <p><strong>{problem.mend}</strong></p>
                {link}
                <p><small>"Status " {problem.status} ", type " <code>{problem.slug}</code> ". " <a href="/problems">"All refusals"</a></small></p>
            </div>
        }
    }))
}

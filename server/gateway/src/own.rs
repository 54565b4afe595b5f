//! What the gateway says to an upstream beside what the client says.

use crate::account::Profile;
use crate::authenticate::Caller;
use crate::headers;
use crate::listen::Client;
use crate::route::Route;
use crate::seen::TRACEPARENT;
use http::header::HeaderValue;
use model::KeyId;
use model::policy::{IdentityForm, SharedBy};

/// Most headers that the gateway adds to a request.
const OWN_HEADERS: usize = 12;

/// The headers that the gateway adds to a request, on the stack.
#[derive(Default)]
pub(crate) struct Own<'a> {
    lines: [(&'static str, &'a [u8]); OWN_HEADERS],
    len: usize,
}

/// What they follow from.
#[derive(Clone, Copy)]
pub(crate) struct Told<'a> {
    pub(crate) client: &'a Client,
    pub(crate) caller: &'a Caller,
    pub(crate) route: &'a Route,
    pub(crate) profile: &'a Profile,
    /// What `X-Features` says.
    pub(crate) features: &'a HeaderValue,
    /// Who is calling, signed, where the upstream is told so.
    pub(crate) token: &'a [u8],
    /// The key's id.
    pub(crate) key: &'a [u8],
    pub(crate) request_id: &'a [u8],
    /// The host that the client asked.
    pub(crate) host: Option<&'a [u8]>,
    /// Who shares the answer, where it is fetched for several.
    pub(crate) shared_by: Option<SharedBy>,
}

impl<'a> Own<'a> {
    /// Everything there is to say.
    pub(crate) fn new(told: Told<'a>) -> Self {
        let (upstream, account) = (&told.route.upstream, &told.caller.key.account);
        let mut own = Self::default();
        own.say(
            "host",
            told.route.host.as_ref().unwrap_or(&upstream.host_header).as_bytes(),
        );
        let shared_by = told.shared_by;
        let one = shared_by.is_none_or(|by| !by.is_shared());
        if one {
            own.say(headers::X_FORWARDED_FOR, told.client.header.as_bytes());
        }
        own.say(headers::X_FORWARDED_PROTO, told.client.scheme.as_bytes());
        match upstream.identity {
            IdentityForm::Jwt if !one => {}
            IdentityForm::Jwt => own.say(headers::X_IDENTITY_TOKEN, told.token),
            IdentityForm::Headers => {
                if one {
                    own.say(headers::X_CONSUMER_ID, account.header.as_bytes());
                }
                if told.caller.key.id != KeyId::NONE && shared_by.is_none_or(|by| by == SharedBy::Key) {
                    own.say(headers::X_KEY_ID, told.key);
                }
                if shared_by != Some(SharedBy::Everyone) {
                    own.say(headers::X_PLAN, told.profile.plan_header.as_bytes());
                    own.say(headers::X_FEATURES, told.features.as_bytes());
                }
                own.say(headers::X_ENVIRONMENT, account.environment.word().as_bytes());
            }
        }
        own.say("x-request-id", told.request_id);
        if let Some(host) = told.host {
            own.say(headers::X_FORWARDED_HOST, host);
        }
        own
    }

    /// With what is said of a trace, where traces are made.
    pub(crate) fn traced(mut self, trace: Option<&'a [u8]>) -> Self {
        if let Some(trace) = trace {
            self.say(TRACEPARENT, trace);
        }
        self
    }

    fn say(&mut self, name: &'static str, value: &'a [u8]) {
        if let Some(line) = self.lines.get_mut(self.len) {
            *line = (name, value);
            self.len += 1;
        }
    }

    /// Names in lower case, and values.
    pub(crate) fn lines(&self) -> &[(&'static str, &'a [u8])] {
        &self.lines[..self.len]
    }
}

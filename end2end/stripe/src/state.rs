//! All that the emulator knows: objects by id, usage, deliveries, saved answers.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::ApiError;
use crate::meters::UsageEvent;
use crate::settings::Settings;
use crate::webhooks::Delivery;

/// The API version whose shapes the emulator speaks.
pub const API_VERSION: &str = "2026-09-30.endive";

static NOTHING: Value = Value::Null;

/// The answer kept for an idempotency key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) request: String,
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) at: i64,
}

/// Everything that survives a restart, and the instant of the operation in hand.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// Makes ids differ between emulators.
    pub(crate) seed: u64,
    counter: u64,
    /// Seconds by which the emulator's clock is ahead of real time.
    pub(crate) offset: i64,
    objects: HashMap<String, Value>,
    kinds: BTreeMap<String, Vec<String>>,
    /// Counted usage by `meter|customer`.
    pub(crate) usage: HashMap<String, Vec<UsageEvent>>,
    /// Accepted usage that no sum shows yet.
    pub(crate) waiting: Vec<UsageEvent>,
    /// When each meter event identifier was last accepted, in unix seconds.
    pub(crate) identifiers: HashMap<String, i64>,
    /// Meter events that were accepted and then could not be counted.
    pub(crate) usage_errors: Vec<Value>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) saved: HashMap<String, Saved>,
    pub(crate) settings: Settings,
    /// The instant of the operation in hand: the emulator's clock, or the customer's test clock.
    #[serde(skip)]
    pub(crate) now: i64,
    /// The emulator's clock.
    #[serde(skip)]
    pub(crate) wall: i64,
    /// Where the pages live, without a slash at the end.
    #[serde(skip)]
    pub(crate) base_url: String,
    /// Whether the cardholder passed 3-D Secure in the operation in hand.
    #[serde(skip)]
    pub(crate) cardholder: bool,
    /// The request in hand, as events name it.
    #[serde(skip)]
    pub(crate) request: Value,
}

/// Text under a key, or nothing.
pub(crate) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

/// Integer under a key, or 0.
pub(crate) fn number(object: &Value, key: &str) -> i64 {
    object[key].as_i64().unwrap_or_default()
}

/// Truth under a key; absent is false.
pub(crate) fn flag(object: &Value, key: &str) -> bool {
    object[key].as_bool().unwrap_or_default()
}

/// The elements of a list under a key.
pub(crate) fn each<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key].as_array().map_or(&[], Vec::as_slice)
}

/// Text or null: Stripe clears a text that is sent empty.
pub(crate) fn or_null(params: &Value, key: &str) -> Value {
    match params.get(key) {
        Some(Value::String(text)) if text.is_empty() => Value::Null,
        Some(value) => value.clone(),
        None => Value::Null,
    }
}

/// Copies the parameters that were sent onto an object.
pub(crate) fn assign(object: &mut Value, params: &Value, keys: &[&str]) {
    for key in keys.iter().filter(|key| params.get(**key).is_some()) {
        object[*key] = or_null(params, key);
    }
}

/// Merges metadata as Stripe does: an empty value removes its key, an empty parameter removes all.
pub(crate) fn merge_metadata(object: &mut Value, params: &Value) {
    let Some(sent) = params.get("metadata") else { return };
    let Some(sent) = sent.as_object() else {
        object["metadata"] = json!({});
        return;
    };
    let mut merged = object["metadata"].as_object().cloned().unwrap_or_default();
    for (key, value) in sent {
        if value == "" {
            merged.remove(key);
        } else {
            merged.insert(key.clone(), value.clone());
        }
    }
    object["metadata"] = Value::Object(merged);
}

/// A list answer.
pub(crate) fn list(url: &str, data: Vec<Value>, has_more: bool) -> Value {
    json!({"object": "list", "url": url, "data": data, "has_more": has_more})
}

impl State {
    /// Undoes everything since `backup`, but what the control page ordered and the ids that were given.
    pub(crate) fn restore(&mut self, backup: Self) {
        let (settings, counter) = (std::mem::take(&mut self.settings), self.counter);
        *self = backup;
        self.settings = settings;
        self.counter = counter;
    }

    /// A new id, such as `cus_` and 14 letters.
    pub(crate) fn new_id(&mut self, prefix: &str) -> String {
        format!("{prefix}_{}", self.letters(14))
    }

    /// Letters and digits that no earlier call gave; the seed decides them.
    pub(crate) fn letters(&mut self, length: usize) -> String {
        const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        self.counter += 1;
        let mut out = String::new();
        let mut block = 0u32;
        while out.len() < length {
            let digest = Sha256::digest(format!("{}/{}/{block}", self.seed, self.counter));
            let letters = digest.iter().filter_map(|byte| ALPHABET.get(usize::from(*byte) % 62));
            out.extend(letters.take(length - out.len()).map(|letter| char::from(*letter)));
            block += 1;
        }
        out
    }

    /// Stores an object under its id.
    pub(crate) fn put(&mut self, object: Value) {
        let id = text(&object, "id").to_owned();
        let kind = text(&object, "object").to_owned();
        if self.objects.insert(id.clone(), object).is_none() {
            self.kinds.entry(kind).or_default().push(id);
        }
    }

    /// Forgets an object.
    pub(crate) fn forget(&mut self, id: &str) {
        if let Some(object) = self.objects.remove(id)
            && let Some(ids) = self.kinds.get_mut(text(&object, "object"))
        {
            ids.retain(|known| known != id);
        }
    }

    /// The stored object, or null.
    pub(crate) fn get(&self, id: &str) -> &Value {
        self.objects.get(id).unwrap_or(&NOTHING)
    }

    /// The stored object of that kind; `param` is the parameter that named it, `id` for the path.
    pub(crate) fn find(&self, kind: &str, id: &str, param: &str) -> Result<&Value, ApiError> {
        match self.objects.get(id) {
            Some(object) if text(object, "object") == kind => Ok(object),
            _ => Err(ApiError::missing(kind, id, param)),
        }
    }

    /// Changes an object and announces nothing.
    pub(crate) fn edit(&mut self, id: &str, change: impl FnOnce(&mut Value)) {
        if let Some(object) = self.objects.get_mut(id) {
            change(object);
        }
    }

    /// Changes an object and sends `event` with the attributes' earlier values when it looks different afterwards.
    pub(crate) fn update(&mut self, id: &str, event: &str, change: impl FnOnce(&mut Value)) {
        let before = crate::views::view(self, id);
        self.edit(id, change);
        self.announce(id, event, &before);
    }

    /// Sends `event` for an object that looked like `before`, if it looks different now.
    pub(crate) fn announce(&mut self, id: &str, event: &str, before: &Value) {
        let after = crate::views::view(self, id);
        let mut earlier = Map::new();
        for (key, value) in before.as_object().into_iter().flatten() {
            if after.get(key) != Some(value) {
                earlier.insert(key.clone(), value.clone());
            }
        }
        if !earlier.is_empty() {
            crate::events::emit(self, event, after, Some(Value::Object(earlier)));
        }
    }

    /// Sends `event` with the object as it is.
    pub(crate) fn emit(&mut self, event: &str, id: &str) {
        let object = crate::views::view(self, id);
        crate::events::emit(self, event, object, None);
    }

    /// The objects of a kind, oldest first.
    pub(crate) fn of_kind(&self, kind: &str) -> impl DoubleEndedIterator<Item = &Value> {
        self.kinds
            .get(kind)
            .into_iter()
            .flatten()
            .filter_map(|id| self.objects.get(id))
    }

    /// The ids of a kind whose objects pass, oldest first.
    pub(crate) fn ids(&self, kind: &str, mut wanted: impl FnMut(&Value) -> bool) -> Vec<String> {
        self.of_kind(kind)
            .filter(|object| wanted(object))
            .map(|object| text(object, "id").to_owned())
            .collect()
    }

    /// The instant for a customer: the test clock's, or the emulator's.
    pub(crate) fn time_of(&self, customer: &str) -> i64 {
        let clock = self.get(text(self.get(customer), "test_clock"));
        clock["frozen_time"].as_i64().unwrap_or(self.wall)
    }

    /// Makes the operation in hand happen at a customer's time.
    pub(crate) fn enter(&mut self, customer: &str) {
        self.now = self.time_of(customer);
    }

    /// A page of a kind's objects, newest first, as list requests answer it.
    pub(crate) fn page(
        &self,
        path: &str,
        params: &Value,
        kind: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, ApiError> {
        let ids: Vec<&str> = self
            .of_kind(kind)
            .rev()
            .filter(|o| wanted(o) && in_range(o, params, "created"))
            .map(|o| text(o, "id"))
            .collect();
        let (chosen, has_more) = slice(&ids, params)?;
        Ok(list(
            path,
            chosen.iter().map(|id| crate::views::view(self, id)).collect(),
            has_more,
        ))
    }
}

/// Stripe's page size when none is asked for, and the largest.
const PAGE: i64 = 10;
const LARGEST_PAGE: i64 = 100;

/// Cuts the page that `limit`, `starting_after` and `ending_before` ask for out of ids in listing order.
pub(crate) fn slice<'a>(ids: &[&'a str], params: &Value) -> Result<(Vec<&'a str>, bool), ApiError> {
    let limit = params["limit"].as_i64().unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(ApiError::param("limit", "Invalid limit: must be between 1 and 100"));
    }
    let limit = usize::try_from(limit).unwrap_or(10);
    let place = |key: &str| match params[key].as_str() {
        None => Ok(None),
        Some(id) => {
            let at = ids.iter().position(|known| *known == id);
            at.map(Some).ok_or_else(|| ApiError::missing("object", id, key))
        }
    };
    if let Some(end) = place("ending_before")? {
        let start = end.saturating_sub(limit);
        return Ok((ids.get(start..end).unwrap_or_default().to_vec(), start > 0));
    }
    let start = place("starting_after")?.map_or(0, |at| at + 1);
    let end = (start + limit).min(ids.len());
    Ok((ids.get(start..end).unwrap_or_default().to_vec(), end < ids.len()))
}

/// Whether an object's instant lies in the range that `params[key]` asks for.
pub(crate) fn in_range(object: &Value, params: &Value, key: &str) -> bool {
    let (Some(range), value) = (params.get(key), number(object, key)) else {
        return true;
    };
    if let Some(exact) = range.as_i64() {
        return value == exact;
    }
    let bound = |name: &str| range[name].as_i64();
    bound("gt").is_none_or(|low| value > low)
        && bound("gte").is_none_or(|low| value >= low)
        && bound("lt").is_none_or(|high| value < high)
        && bound("lte").is_none_or(|high| value <= high)
}

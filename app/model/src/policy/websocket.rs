//! What may pass through a WebSocket, and what is counted of it.

use super::{PolicyError, wrong};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// Largest message unless something else is said, in bytes. A browser sends a message as one frame, so frames may be as large.
/// Programs keep a message in memory until it is whole, and most of them refuse what is larger than 1 to 64 MiB.
const MESSAGE_DEFAULT: u32 = 16 << 20;
/// Largest bound that may be named, in bytes: what is larger is no message but a file.
const MESSAGE_MOST: u32 = 1 << 30;

/// Handshakes are passed on, and frames behind them within these bounds. Written `true` where all defaults hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebSocketPolicy {
    /// Largest frame, in bytes of its payload as it passes (compressed, if it is); none means as large as a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_frame_bytes: Option<u32>,
    /// Largest message, which may come in several frames, in bytes as they pass.
    pub max_message_bytes: u32,
    /// What is counted.
    pub count: WebSocketCount,
}

/// What is counted of a WebSocket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebSocketCount {
    /// The handshake, as one request.
    #[default]
    Requests,
    /// Every second that has begun while it is open, as one request each.
    Seconds,
}

impl Default for WebSocketPolicy {
    fn default() -> Self {
        Self {
            max_frame_bytes: None,
            max_message_bytes: MESSAGE_DEFAULT,
            count: WebSocketCount::default(),
        }
    }
}

impl WebSocketPolicy {
    /// Largest frame, in bytes.
    #[must_use]
    pub fn frame_bytes(&self) -> u32 {
        self.max_frame_bytes.unwrap_or(self.max_message_bytes)
    }

    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if self.max_message_bytes == 0 || self.max_message_bytes > MESSAGE_MOST {
            return wrong("websocket.max_message_bytes", format!("must be 1 to {MESSAGE_MOST}"));
        }
        if self.frame_bytes() == 0 || self.frame_bytes() > self.max_message_bytes {
            let problem = format!(
                "must be 1 to {}, which is max_message_bytes: a frame is a part of a message",
                self.max_message_bytes
            );
            return wrong("websocket.max_frame_bytes", problem);
        }
        Ok(())
    }
}

/// Reads `true`, `false` or a table.
pub(super) fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Option<WebSocketPolicy>, D::Error> {
    struct Said;
    impl<'de> Visitor<'de> for Said {
        type Value = Option<WebSocketPolicy>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true, false, or a table such as { max_message_bytes = 1048576 }")
        }
        fn visit_bool<E>(self, passed_on: bool) -> Result<Self::Value, E> {
            Ok(passed_on.then(WebSocketPolicy::default))
        }
        fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Self::Value, A::Error> {
            WebSocketPolicy::deserialize(MapAccessDeserializer::new(table)).map(Some)
        }
    }
    from.deserialize_any(Said)
}

/// Writes what [`read`] reads.
pub(super) fn write<S: Serializer>(policy: &Option<WebSocketPolicy>, to: S) -> Result<S::Ok, S::Error> {
    match policy {
        None => to.serialize_bool(false),
        Some(policy) if *policy == WebSocketPolicy::default() => to.serialize_bool(true),
        Some(policy) => policy.serialize(to),
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::{RoutePolicy, WebSocketCount, WebSocketPolicy, segments};

    fn checked(toml: &str) -> Result<RoutePolicy, String> {
        let policy: RoutePolicy = toml::from_str(toml).map_err(|e| e.message().to_owned())?;
        policy.check(&segments("/a").unwrap()).map_err(|e| e.to_string())?;
        Ok(policy)
    }

    #[test]
    fn a_word_and_a_table_are_read_and_written() {
        for (toml, json) in [
            ("", "{}"),
            ("websocket = false", "{}"),
            ("websocket = true", r#"{"websocket":true}"#),
            ("websocket = {}", r#"{"websocket":true}"#),
            (
                r#"websocket = { max_message_bytes = 1000, count = "seconds" }"#,
                r#"{"websocket":{"max_message_bytes":1000,"count":"seconds"}}"#,
            ),
        ] {
            let policy = checked(toml).unwrap();
            assert_eq!(serde_json::to_string(&policy).unwrap(), json, "{toml}");
            assert_eq!(serde_json::from_str::<RoutePolicy>(json).unwrap(), policy, "{toml}");
        }
    }

    #[test]
    fn a_frame_is_as_large_as_a_message_unless_something_else_is_said() {
        let read = |toml: &str| checked(toml).unwrap().websocket.unwrap();
        assert_eq!(read("websocket = true"), WebSocketPolicy::default());
        assert_eq!(read("websocket = true").frame_bytes(), 16 << 20);
        assert_eq!(read("websocket = { max_message_bytes = 7 }").frame_bytes(), 7);
        let both = read("websocket = { max_frame_bytes = 5, max_message_bytes = 7 }");
        assert_eq!((both.frame_bytes(), both.count), (5, WebSocketCount::Requests));
    }

    #[test]
    fn errors_say_what_to_do() {
        for (toml, said) in [
            ("websocket = 1", "true, false, or a table"),
            ("websocket = \"yes\"", "true, false, or a table"),
            ("websocket = { max_frames = 1 }", "unknown field"),
            ("websocket = { count = \"minutes\" }", "unknown variant"),
            ("websocket = { max_message_bytes = 0 }", "1 to 1073741824"),
            ("websocket = { max_message_bytes = 1073741825 }", "1 to 1073741824"),
            ("websocket = { max_frame_bytes = 0 }", "1 to 16777216"),
            (
                "websocket = { max_frame_bytes = 8, max_message_bytes = 7 }",
                "a part of a message",
            ),
        ] {
            let problem = checked(toml).unwrap_err();
            assert!(problem.contains(said), "{toml}: {problem}");
        }
    }
}

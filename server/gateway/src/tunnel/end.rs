//! How a tunnel ends, and what each side is told: a close frame (RFC 6455, 7.4.1), where it can take one.

use super::frames::{self, Side, Violation};
use crate::refusal::Refused;
use bytes::BytesMut;
use http::StatusCode;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Longest wait for a side to take its last words, and then for its own end: closing while it sends would reset the
/// connection and lose the words.
const FAREWELL: Duration = Duration::from_secs(1);
/// Most bytes that are read and thrown away meanwhile, and how many at once.
const FAREWELL_BYTES: usize = 1 << 20;
const FAREWELL_READ: usize = 16 << 10;

const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
const POLICY: u16 = 1008;
const TOO_BIG: u16 = 1009;
/// Registered with IANA beside those of the RFC.
const TRY_AGAIN_LATER: u16 = 1013;

/// Why a tunnel ends.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides have ended, or a connection broke: nobody is left to be told.
    Over,
    /// Nothing passed for too long.
    Silent,
    /// A side sent what cannot be passed on.
    Broken(Side, Violation),
    /// The client sent too many frames that bring no message further.
    Flood,
    /// The client would be refused now.
    Refused(Refused),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Over
    }
}

/// What a side is told: a code and a reason.
type Words = (u16, String);

/// The close frames of both sides; none where nobody is left.
pub(super) struct Farewell {
    client: Words,
    upstream: Words,
}

impl Farewell {
    /// What is said at an end.
    pub(super) fn of(end: &End) -> Option<Self> {
        let words = |code, reason: &str| (code, reason.to_owned());
        let gone = |reason: &str| words(GOING_AWAY, reason);
        let (client, upstream) = match end {
            End::Over => return None,
            End::Silent => (
                gone("nothing was said for too long"),
                gone("nothing was said for too long"),
            ),
            End::Broken(side, Violation::Protocol(why)) => {
                let (own, other) = (words(PROTOCOL_ERROR, why), gone("the other side broke the protocol"));
                match side {
                    Side::Client => (own, other),
                    Side::Upstream => (other, own),
                }
            }
            End::Broken(_, too_large) => {
                let what = match too_large {
                    Violation::MessageTooLarge => "the message is larger than this route takes",
                    _ => "the frame is larger than this route takes",
                };
                (words(TOO_BIG, what), words(TOO_BIG, what))
            }
            End::Flood => {
                let why = "too many pings, or other frames that carry nothing";
                (
                    words(POLICY, why),
                    gone("the client sent too many frames that carry nothing"),
                )
            }
            End::Refused(refused) => {
                let refusal = refused.refusal();
                let code = match refusal.status() {
                    StatusCode::SERVICE_UNAVAILABLE => TRY_AGAIN_LATER,
                    _ => POLICY,
                };
                let reason = format!("{}: {}", refusal.slug(), refusal.title());
                ((code, reason), gone("the client may not go on"))
            }
        };
        Some(Self { client, upstream })
    }

    /// As the client gets it.
    pub(super) fn to_client(&self) -> Vec<u8> {
        frames::close(self.client.0, &self.client.1, None)
    }

    /// As the upstream gets it.
    pub(super) fn to_upstream(&self, mask: [u8; 4]) -> Vec<u8> {
        frames::close(self.upstream.0, &self.upstream.1, Some(mask))
    }
}

/// Parts with a side: it gets its last words and, for a while, the time to read them.
pub(super) async fn part(mut side: impl AsyncRead + AsyncWrite + Unpin, words: Option<BytesMut>) {
    let Some(words) = words else { return };
    let telling = async {
        side.write_all(&words).await?;
        side.flush().await?;
        side.shutdown().await
    };
    if !matches!(timeout(FAREWELL, telling).await, Ok(Ok(()))) {
        return;
    }
    let mut unwanted = BytesMut::with_capacity(FAREWELL_READ);
    let mut left = FAREWELL_BYTES;
    let listening = async {
        while let Ok(count @ 1..) = side.read_buf(&mut unwanted).await {
            unwanted.clear();
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout(FAREWELL, listening).await;
}

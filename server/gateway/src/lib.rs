//! The data plane: every request to the provider's APIs comes through here.
//!
//! # The life of a request
//!
//! 1. **Frame** (`client`). Heads and bodies are read strictly: nothing passes that two parsers could frame differently.
//!    A violation is answered 400 and the connection closed; the upstream never sees a byte of it.
//! 2. **Route** (`route`). One plain `Host`; the path's escapes are decoded for matching and ambiguous ones refused;
//!    the path and the query are forwarded byte for byte.
//! 3. **Authenticate** (`authenticate`). What the route takes, where it takes it, and at most one of it: a key (form and
//!    checksum, one lookup in the key table, one HMAC-SHA-256 under the key's pepper, one constant-time compare; unknown
//!    ids cost the same), a key as the user name of basic authentication, a signed token of an issuer (`token`), or
//!    nothing where the route names a plan for strangers. The credential goes no further. While the control plane is away
//!    an unknown key is answered 503, never 401. A network that fails sixty times at once is answered 429, and its right
//!    credentials work all the while.
//! 4. **Admit** (`admit`). Suspension, scope, feature, rate (GCRA), quota, spend cap; the first refusal wins. The
//!    route's weight is *reserved* from the meter's counter by compare-and-swap, so a hard quota and a spend cap are not
//!    passed by any number of requests at once; it is given back when the answer's status does not count.
//! 5. **Forward** (`upstream`). Hop-by-hop headers, those `Connection` names and those only the gateway may say are
//!    removed, then ours are added. Each worker thread keeps its own upstream connections. A pooled connection that was
//!    closed before a byte of an answer came is replaced once, if the request was not sent or is safe to repeat.
//! 6. **Record** (`record`). Exactly one ledger record per authenticated request, however it ends.
//!
//! Nothing in this waits for the control plane, and no lock is held across an await.
//!
//! # When a record is written
//!
//! * An answer with an end: before its last byte leaves (the last frame of a known length, or the end of a chunked
//!   body). A client that saw the whole answer is always found billed after `kill -9`; one that did not may not be.
//! * An event stream (`text/event-stream`): before its head leaves. It counts as one request; its bytes and its
//!   duration are those of that moment.
//! * An answer of unknown length that goes on for more than a second: at its next bytes, with the bytes so far.
//! * A refusal of a known caller: before the problem leaves, with units 0 and the number of its [`Refusal`].
//! * A client that went away before the answer: status 499, units 0. After the answer's head it counts as its status
//!   says, because the upstream did the work.
//!
//! Requests without a known caller are counted in [`Running::metrics`] alone.
//!
//! # The ledger
//!
//! `{data_dir}/ledger` holds `id` (the ledger's name, made once), `lock` (held while a gateway runs) and segments,
//! `{first sequence number}.ledger`. A segment is a head of 128 bytes and room for
//! [`Limits::segment_records`] records of 128 bytes; the form is in `ledger::record`. Segments are filled with zeros and
//! synced before they are mapped, and made ahead of need.
//!
//! A record is copied into the shared mapping under a mutex held for some tens of nanoseconds, so sequence numbers and
//! places agree and at most the last record can be torn. The page cache keeps it when the process dies. A thread syncs
//! every 10 ms when something was written: a power cut takes at most what is younger. Only synced records are
//! shipped, so the control plane never knows more than the disk. On start the first bad checksum in the last two
//! segments is the end; everything behind it is zeroed.
//!
//! The shipper reads from the sink's cursor. [`UsageSink::ship`] counts a batch and moves the cursor in one transaction;
//! after any failure the cursor is asked for again, so nothing is lost or counted twice. Segments go once they are
//! shipped whole and older than [`Limits::retention`].
//!
//! # The snapshot
//!
//! Keys lie in 64 shards, each behind a read-write lock that is held for the copy of one entry. An account (a consumer
//! in an environment) has its terms behind an atomic pointer, its rate limiter in one atomic, and per meter two
//! counters: *taken* (recorded and in flight) and *recorded*, which moves in the instant a ledger record is written.
//!
//! Changes come by version: at every hint, and every [`Limits::poll_interval`]. While the period's start stays the same
//! the local count is authoritative and only ever raised; a new period starts from `used` and what our own ledger holds
//! beyond `shipped_through`. Past the period's end counting goes on from zero in a period of equal length. A meter that
//! the plan does not mention is recorded, but neither limited nor priced.
//!
//! A copy goes to `{data_dir}/snapshot` (checksummed, by rename, the one before kept), each entitlement with the units
//! recorded and the sequence number they hold for; with it and the ledger a gateway starts without the control plane and
//! knows what was used to the unit. Open streams end when their key is revoked or their consumer suspended.
//!
//! # Callers with a token, callers without anything
//!
//! A token's caller is the consumer that the token names: terms, counters and suspension are those of its keys. What
//! stands in for the key in the ledger and in `X-Key-Id` is an id made once for the issuer, so that usage can be told
//! apart by it. A token is proven once a minute at most; for a minute it is known by its SHA-256, until issuers, keys or
//! names change. An issuer's keys are asked for in the background, every five minutes and, once a minute at most, when a
//! token names one that is not known (503 meanwhile); they count for an hour while the issuer is away.
//!
//! A caller without a credential has an account for its address on the plan that the route names, as far as the gateway
//! remembers (`bounded`): `X-Consumer-Id: anonymous`, no `X-Key-Id`. Its requests are in the ledger under no consumer, and
//! the control plane bills nobody for them.
//!
//! # Threads
//!
//! One current-thread runtime per worker with a listening socket of its own (`SO_REUSEPORT`), one thread that syncs the
//! ledger; the snapshot and the shipper run on the caller's runtime.

mod account;
mod admit;
mod authenticate;
mod balance;
mod body;
mod bounded;
mod client;
mod config;
mod cors;
mod date;
mod disk;
mod edits;
mod gateway;
mod grpc;
mod headers;
mod http1;
mod ledger;
mod limit;
mod listen;
mod metrics;
mod record;
mod refusal;
mod route;
mod server;
mod shipper;
mod source;
mod sync;
mod tables;
mod timer;
mod token;
mod upstream;

pub use config::{Config, Limits, Peppers};
pub use gateway::{Gateway, Running, StartError};
pub use listen::{TlsError, TlsFiles};
pub use refusal::Refusal;
pub use source::{SnapshotSource, SourceError, UsageSink};

//! The data plane: every request to the provider's APIs comes through here.
//!
//! # The life of a request
//!
//! 1. **Frame** (`client`). Heads and bodies are read strictly: nothing passes that two parsers could frame differently.
//!    A violation is answered 400 and the connection closed; the upstream never sees a byte of it.
//!    Heads have the same bounds over HTTP/2, and what is beyond them the same problem; only one of more than twice
//!    [`Limits::head_bytes`] is refused by the HTTP/2 library itself (431 without a problem and an id, or the end of the
//!    connection), which tells nobody, so it is in no metric and no log.
//! 2. **Route** (`route`). Any method that the catalogue names; HEAD is GET where no route takes it alone. One plain
//!    `Host`; the path's escapes are decoded for matching and ambiguous ones refused; the path and the query are
//!    forwarded byte for byte.
//! 3. **Authenticate** (`authenticate`). What the route takes, where it takes it, and at most one of it: a key (form and
//!    checksum, one lookup in the key table, one HMAC-SHA-256 under the key's pepper, one constant-time compare; unknown
//!    ids cost the same), a key as the user name of basic authentication, a signed token of an issuer (`token`), or
//!    nothing where the route names a plan for strangers. The credential goes no further. While the control plane is away
//!    an unknown key is answered 503, never 401. A network that fails sixty times at once is answered 429, and its right
//!    credentials work all the while.
//! 4. **Admit** (`admit`). Suspension, scope, feature and gates, concurrency, rate (GCRA), quota, spend cap; the first
//!    refusal wins. The route's weight is *reserved* from the meter's counter by compare-and-swap, so a hard quota and a spend cap are not
//!    passed by any number of requests at once; it is given back when the answer's status does not count.
//! 5. **Forward** (`upstream`). Hop-by-hop headers, those `Connection` names and those only the gateway may say are
//!    removed, then ours are added. Each worker thread keeps its own upstream connections. A pooled connection that was
//!    closed before a byte of an answer came is replaced once, if the request was not sent or is safe to repeat. Which
//!    target gets it, and when another one is tried, is said [below](#upstreams).
//!    Fields that a caller lacks the feature for leave the answer as it streams (`feature_gates`, `filter`).
//! 6. **Record** (`record`). Exactly one ledger record per authenticated request, however it ends.
//!
//! Nothing in this waits for the control plane, and no lock is held across an await. Where gateways
//! [share their rate limits](#rate-limits), step 4 waits for that answer, for at most [`Limits::shared_limits_wait`].
//!
//! # When a record is written
//!
//! * An answer with an end: before its last byte leaves (the last frame of a known length, or the end of a chunked
//!   body). A client that saw the whole answer is always found billed after `kill -9`; one that did not may not be.
//! * An event stream (`text/event-stream`): before its head leaves. It counts as one request; its bytes and its
//!   duration are those of that moment.
//! * An answer of unknown length that goes on for more than a second: at its next bytes, with the bytes so far.
//! * A refusal of a known caller: before the problem leaves, with units 0 and the number of its [`Refusal`]. One that
//!   takes the place of an answer which the upstream gave, and out of which fields cannot be left or which broke off, has
//!   the units that the answer's status says.
//! * A client that went away before the answer: status 499, units 0. After the answer's head it counts as its status
//!   says, because the upstream did the work.
//!
//! Requests without a known caller are counted in [`Running::metrics`] alone. While the ledger takes nothing, and when the control
//! plane was not heard for [`Limits::stale_after`], calls with units that are somebody's (`Open::is_billed`) are refused with
//! 503; the others go on, in the first case without a record.
//!
//! # Upstreams
//!
//! All of it is written in `[upstreams.policy]` ([`model::policy::UpstreamPolicy`]), and holds from the next routing table
//! on; connections and what is known of a target stay as long as its address, its protocol and its TLS do.
//!
//! * **Targets.** `targets` are the machines of a service; its `url` is then its name alone (`Host`, and the name in its
//!   certificates). A request goes to the target with the fewest open requests for its `weight`, by lot among equals.
//!   `canary` has targets of its own, for some of the consumers (always the same) and for requests with a header.
//! * **Time.** `connect_timeout_ms`, first byte, silence inside an answer, and `total_timeout_ms` for all of it. The clock
//!   for the first byte stands still while it is the client's body that is waited for.
//! * **Bodies of requests** have a largest size ([`Limits::body_bytes`]), a longest silence ([`Limits::body_idle`]) and a
//!   slowest pace ([`Limits::body_bytes_per_second`]), because a client could hold an upstream for hours with a byte now and
//!   then. Streams have none of the three: a gRPC call to an upstream of HTTP/2, a request to a route with `streams`, and
//!   every request from the moment its answer begins, for then it is a conversation. What ends those is silence of both
//!   sides together for `idle_timeout_ms` (before the answer begins: of the client alone), which is nobody's failure; the
//!   route's `max_request_bytes`, where it says one; `total_timeout_ms`; what ends every open stream
//!   ([below](#when-a-stream-ends-before-its-time)); and the end of the drain time. A connection's pings
//!   are no words: a call that may be silent for long needs an upstream with a longer `idle_timeout_ms`.
//! * **Retries** go to another target. A request that was not sent may; one without a body whose method is idempotent
//!   may, too, after its connection broke before a byte of the answer came, and after a status that is listed. Never
//!   after a byte of the answer was passed on, nor after a time limit, and only inside the budget.
//! * **Failures** of a target (no connection, no answer or a malformed one, no first byte in time, 502, 503, 504) open
//!   its circuit: it gets no requests for a time that doubles with each try that fails. At most a part of the targets is
//!   left out at a time, and when none is left that looks well all are used, unless that is switched off or there is but
//!   one with a `breaker` of its own: then requests are refused with `upstream-unavailable`. Targets that fail checks alone
//!   are used even then. What goes wrong with the client's own body is no failure of the target.
//! * **Checks** (`health`) run in one task per gateway, on connections of their own, and are nobody's requests.
//! * **TLS** is checked always, against the authorities that browsers trust or those in `ca_file`. Files are read
//!   when a table is compiled and every [`Limits::upstream_refresh`]; with one that cannot be used the last good table
//!   stays.
//! * **HTTP/2** (`protocol = "http2"`): connections that the requests of a worker share. A stream that the upstream did
//!   not process (`REFUSED_STREAM`, or behind a `GOAWAY`) is sent again, unless it had a body. Trailers of answers reach
//!   clients that speak HTTP/2; trailers in HTTP/1.1, and those of requests, are dropped. A gRPC call is refused with
//!   `grpc-status` in place of a problem.
//! * **WebSocket** (`websocket = true` in `[routes.policy]`, or a table: [`model::policy::WebSocketPolicy`]): see
//!   [below](#websocket) and `tunnel`. Handshakes over HTTP/2 (RFC 8441) are refused, and those of pages whose origin `cors`
//!   does not name; on a route without `cors` only where basic authentication is taken, which browsers send by themselves
//!   (`cors::check_handshake`).
//!
//! Problems name the upstream, and metrics also the target's place in the catalogue; addresses stand in the log only.
//!
//! # WebSocket
//!
//! ```toml
//! [routes.policy]
//! websocket = { max_frame_bytes = 65536, max_message_bytes = 1048576, count = "seconds" }
//! ```
//!
//! The record is written before the 101 leaves, as one request; its duration is the handshake's, and the bytes that pass
//! stand in the metrics alone. With `count = "seconds"` it holds the first second, and every second that begins later counts
//! like another request (`tunnel::seconds`): up to three are taken beforehand by the same admission as a request's units,
//! and recorded with their bytes when they are over, in a record of the same request that `continues` it
//! ([`model::usage::UsageRecord`]). So hard quotas, spend caps and a key's own limits are never passed, a crash loses three
//! seconds at most, and within three seconds of the moment at which nothing is left the tunnel ends. What is left at the
//! end is rounded up to a second that has begun. Rate limits and places in flight are those of the handshake.
//!
//! Frames are read on their way (`tunnel::frames`), without being gathered and without a look into payloads: a head goes
//! on when it is whole. Refused are frames or messages that announce more than they may have (default 16 MiB, compressed if
//! they are), reserved bits and opcodes, fragmented or large control frames, lengths in a longer form than they need, a
//! client's frames without a mask, a server's with one, and what follows a close frame. The first reserved bit may stand
//! where the 101 agrees on permessage-deflate; other extensions that use such bits do not pass. A client may send 20
//! control frames or empty parts of a message a second, 60 at once (`tunnel::flood`).
//!
//! Whoever is not inside a frame gets a close frame (`tunnel::end`): 1009 for what is too large, to both sides; 1002 for what
//! else is wrong, 1008 for a flood, and for the refusal that the same request would get now, with its name as the reason
//! (1013 where it is a 503), to the side that caused it, while the other hears 1001; 1001 to both after a silence of the
//! upstream's `idle_timeout_ms`.
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
//! segments is the end; everything behind it is zeroed. A file whose sync
//! failed is not synced again: what is not on the disk for certain goes from memory into a new segment, and the old one ends
//! before it (`ledger::rescue`).
//!
//! The shipper reads from the sink's cursor, all there is every [`Limits::ship_interval`], less often while much is done:
//! what PostgreSQL has to do for a batch goes by the keys in it more than by the requests. [`UsageSink::ship`] counts a batch and moves the cursor in one transaction;
//! after any failure the cursor is asked for again, so nothing is lost or counted twice. Segments go once they are
//! shipped whole and older than [`Limits::retention`].
//!
//! # The snapshot
//!
//! Keys lie in 64 shards, each behind a read-write lock that is held for the copy of one entry. An account (a consumer
//! in an environment) has its terms behind an atomic pointer, its rate limiter in one atomic, and per meter two
//! counters: *taken* (recorded and in flight) and *recorded*, which moves in the instant a ledger record is written.
//!
//! Changes come by version: at every hint, and every [`Limits::poll_interval`]; many come in parts, in the order of versions,
//! so that whoever is interrupted goes on from there (`sync`). A gateway that knows nothing gets its routes with the last
//! part, and serves nobody before. While the period's start stays the same
//! the local count is authoritative and only ever raised; a new period starts from `used` and what our own ledger holds
//! beyond `shipped_through`. What other gateways count is in no version and [told apart](#several-gateways). Past the
//! period's end counting goes on from zero in a period of equal length. A meter that
//! the plan does not mention is recorded, but neither limited nor priced; the quota that a key's owner set holds for it too.
//!
//! A copy goes to `{data_dir}/snapshot` (checksummed, by rename, the one before kept) after changes and once an hour, each
//! entitlement with the units recorded and the sequence number they hold for; with it and the ledger a gateway starts
//! without the control plane and knows what was used to the unit. A copy that is older than the ledger reaches back is not
//! used. When it was last known to be all there is stands beside it (`snapshot.confirmed`), and [`Limits::stale_after`] counts
//! from then. When the control plane answers it is asked for everything, counts with it.
//!
//! # When a stream ends before its time
//!
//! An answer that still comes, an open WebSocket, and a gRPC call that has no answer yet stand on what let them in
//! (`ground`). They end when the same request would be refused now: its key is revoked or its time over (as at the end of a
//! rotation), its token past `exp` (with the issuer's leeway) or its issuer trusted no more, its consumer suspended, the
//! route out of the key's scope, a feature gone that the route or a gate needs. Revocations and suspensions end them as soon
//! as they are known here, the rest within two seconds of that. What counts requests ends none: a quota or a
//! spend cap used up, a rate limit passed. Such a stream was counted when it began, as one request however long it is; only
//! a WebSocket that counts seconds ends when none is left.
//!
//! # What a request costs
//!
//! Four system calls (read and write, client and upstream) and a wait shared by many requests, as nginx makes; three
//! allocations; no timer is started and no task but the connection's own is woken. The kernel takes three fifths of the
//! CPU time (`perf record` of `examples/bench_gateway`; in nginx five sixths), the ledger's syncing about a twentieth at
//! a few thousand requests a second, less at more. What arrives together is read together and then written together
//! (`http1::Turn`): a tenth of the kernel's part was waking peers one by one. Beside nginx's 14 us in the same run the
//! whole program takes 18, of which 12 are the kernel's, as nginx's are. Of the other 6 one is what ships the records, a
//! sort and a `COPY`; the rest go as the instructions outside the
//! kernel do (`./dev bench instructions`; its hash of the key is done in software there, a sixth of all, and by the
//! processor in earnest):
//!
//! | share | about | what |
//! | --- | --- | --- |
//! | a quarter | 1.3 us | header names, values and maps, both heads; `httparse` |
//! | a seventh | 0.7 us | copies: heads and body into one buffer, structures from phase to phase |
//! | a seventh | 0.7 us | the client's connection: reading, framing, writing the answer |
//! | a seventh | 0.7 us | tokio: readiness, wake-ups, polls |
//! | a thirteenth | 0.4 us | the upstream's connection |
//! | a twenty-fifth each | 0.2 us | the key's form and checksum; the ledger record |
//! | the rest | 1.1 us | route, limits, ids, clocks |
//!
//! HTTP/1 is read and written here: with hyper on both sides, and a task for each upstream connection, the program took
//! 24 us, 1.65 times what nginx did.
//!
//! The dearest single place in time is the look-up of the key: with many keys each step of it misses the cache.
//!
//! # Rate limits
//!
//! A plan has one limit of everything a consumer does (`rate_limit`, called `rate` in answers) and any number of named
//! ones, a route any number that hold whatever the plan ([`model::policy::RateRule`]):
//!
//! ```toml
//! [[plans]]
//! limits = [
//!     { name = "reads", methods = ["GET"], requests = 500, per = "minute" },
//!     { name = "writes", methods = ["POST"], requests = 100, per = "minute" },
//!     { name = "exports", routes = ["export"], by = ["key"], requests = 10, per = "day", burst = 2 },
//! ]
//! [routes.policy]
//! limits = [{ name = "shared", by = ["route"], requests = 1000, per = "second" }]
//! ```
//!
//! Each is GCRA, its state one instant per limit and subject, and exact (`rate::gcra`): in any stretch of time `t` at
//! most `burst + t * requests / per` requests pass. All that hold for a request must let it pass; one that is refused by
//! any takes nothing from the others (`rate`). The 429 names those that refuse in `violated-policies`, and after
//! `Retry-After` seconds, not one earlier, all of them let a request pass. `RateLimit` lists the limit that stops first
//! in front. A request that a quota or a spend cap refuses has been counted by the rate limits.
//!
//! Limits that count by consumer alone are kept in the account and cost some nanoseconds; the others are looked up in a
//! sharded table of at most 4 million subjects (addresses apart, at most a million), from which times that are past go
//! first (`rate::table`). A limit that keeps its name keeps its count when a plan changes, and a consumer's count
//! follows it from plan to plan. Counts are this gateway's own, and are not kept over a restart, unless they are shared.
//!
//! With [`Config::redis`] every rate limit is one GCRA for all gateways of an installation, in a Redis (6 or later) or Valkey
//! that they all reach (`sharing`). A script takes a place from each limit that holds for a request, or from none, with the
//! same formula to the nanosecond and by that server's clock, so gateways whose clocks differ agree. What is kept is an
//! instant for each limit and subject, `turnpike:rate:{installation}:{limit}:{subject}`, which goes by itself once it says
//! nothing any more; addresses and what is long are hashed under the first pepper. The installation is known by its
//! peppers. The request is asked about behind everything else that is known here, and before its body is read or anything
//! is sent; a refusal gives its units back, and what a quota or a spend cap refuses is not counted. What was last heard of
//! a limit is remembered here, and as long as that says that it refuses, nobody is asked. Quotes take of the plan's
//! overall limit there, too.
//!
//! A question that is not answered in 30 ms costs the request that time; after five in a row, or when the connection is lost,
//! nobody asks any more, and each thread tries again in the background, after 100 ms and up to 5 s. Meanwhile each gateway holds
//! `limit / gateways * 1.2` of every limit by itself (the rate, and of the burst at least one; alone all of it), from where
//! it was last heard. Gateways are those whose ledgers grew in the last minute, as far as the control plane tells
//! ([`model::snapshot::Changes::others`]), and this one: those that let nothing through take no share. All of them
//! together let at most a fifth more through than the limit says, beside what they had not heard to be used before; Kong's
//! documentation advises half as much again, with counters that are brought together later. What is let through meanwhile
//! is not brought in afterwards. With a server that lost what it held, every limit begins anew once. Quotas,
//! spend caps and limits of keys are never counted there.
//!
//! # What begins and ends by itself
//!
//! An entitlement may name features, limits and quotas that hold for one consumer in place of its plan's, each with its
//! times ([`model::overrides`], [`model::snapshot::FeatureLife`]). What comes to hold at each of these moments is
//! compiled when the entitlement is told (`account::Profiles`); the first request in or after a moment puts it into force,
//! with the counters as they are. Nobody is asked, and the copy on disk has it too: a quota that ends while the control
//! plane is away ends all the same. Prices and allowances are the plan's always: a quota of one consumer decides what is
//! refused, not what is charged.
//!
//! # What a call costs
//!
//! On a route whose meter has a price for the caller's plan, every answer says
//!
//! ```text
//! turnpike-cost: "0.0006";currency=usd
//! turnpike-budget-remaining: "4.97";currency=usd
//! ```
//!
//! in major units, as structured fields (RFC 9651) that are strings, because decimals there end after three places. There
//! are no registered names for either. The cost is exact: what this call adds to the period before the invoice's lines
//! are rounded, so the costs of all calls add up to what is rounded. It is known with the answer's status, and said in
//! the head also of a stream; `0.00` for what does not count and for refusals. The budget is what the spend cap leaves
//! after this call, as invoices are rounded, calls in flight included, or what the key's own budget leaves when that is
//! less; without either it is not said.
//!
//! A plan's hard quota may have a grace (`grace = { percent = 5 }`, `{ hours = 24 }`, both for the first of the two). Calls
//! in it are let through and counted, cost nothing, as everything under a hard quota, and say so:
//! `turnpike-grace: units=52, until=@1793577600`, with nothing left of `"quota"` in `RateLimit`. The hours begin with the
//! request whose record uses the quota up, not with units that are given back, and the grace ends with the period. When
//! that was is in the stored copy, or follows from the ledger.
//!
//! The same request with `Turnpike-Quote: ?1` asks for the price without calling (`quote`): 200 with
//!
//! ```json
//! {"meter": "calls", "units": 1, "cost": "0.0006", "currency": "usd", "included_left": 0,
//!  "budget_remaining": "4.97", "would_be_refused": null}
//! ```
//!
//! `budget_remaining` is what is left before the call. `would_be_refused` holds the problem that the call would be answered
//! with. Who asks needs a credential as for the call. The upstream hears nothing of it, no unit is counted; it takes a place
//! of the plan's overall rate limit and of no other, and stands in the usage log with no units. It reserves nothing, so a
//! call a moment later may meet something else.
//!
//! # Requests in flight, and who goes first
//!
//! ```toml
//! [[upstreams]]
//! policy = { max_in_flight = 64, max_wait_ms = 1000 }
//! [[routes]]
//! policy = { concurrency = 10 }
//! [[plans]]
//! concurrency = 20
//! priority = 5
//! ```
//!
//! A request is in flight from its admission to the end of its answer's body, so an event stream or a WebSocket is as
//! long as it is open. Its place is given back when what holds it is dropped, and so however it ends (`flight`). A plan's
//! `concurrency` bounds the requests of one consumer in flight here; the refusal is a 429, as Stripe's is, with the
//! policy `concurrency` in `RateLimit-Policy` and `violated-policies`. A route's bounds those of all callers together; as
//! that is nobody's own doing, the refusal is a 503. Neither uses up anything of a rate limit.
//!
//! An upstream's `max_in_flight` (from one gateway) and [`Limits::in_flight_per_thread`] do not refuse but queue
//! (`gate`): the higher `priority` of a plan goes first, consumers of one priority take turns, and one consumer's
//! requests keep their order. At most 1,024 wait at a gate, each for at most `max_wait_ms`; when the queue is full, room
//! is made at the cost of the lowest priority and there of the busiest consumer. Who is shed gets 503 with `Retry-After`,
//! and is not counted by any meter; what rate limits counted stays counted. Priority is strict: a higher plan that
//! fills an upstream alone leaves the lower ones nothing, so give every plan limits that fit.
//!
//! `examples/bench_overload` measures it: an upstream that serves 16 requests at once in 20 ms each, the lower plan
//! asking for five times its capacity.
//!
//! A body that must be there before its request can be judged (fields that need a feature, repeats) is read whole before
//! it queues: at most 1 MiB, within [`Limits::whole_body_time`], and all of them in [`Limits::whole_bodies_bytes`], of
//! which a consumer may hold as much as is free (`memory`). Without room the answer is 503 with `Retry-After`.
//!
//! # Answers that are kept
//!
//! ```toml
//! [routes.policy]
//! cache = { shared_by = "plan", default_ttl_s = 60, max_object_bytes = 200_000, headers = ["x-currency"] }
//! [[plans]]
//! cache_hits = "free"
//! ```
//!
//! A route with `cache` keeps answers to GET for as long as they say themselves (RFC 9111; `Cache-Control`, `Expires`,
//! `Age`, `Vary`), or `default_ttl_s`; nothing is guessed. Not kept: `private`, `no-store`, `Set-Cookie`, `Vary: *`,
//! event streams, parts, failures, and what broke off or ends with its connection. Requests with a range, a body, or a
//! cookie or `Authorization` of the client's own go by. HEAD, `If-None-Match` and `If-Modified-Since` are answered from
//! what is kept; what is stale is confirmed by its `ETag` or `Last-Modified` (fetched anew when the upstream
//! confirms another version), and never given when the upstream fails, unless the client wants it so (`max-stale`).
//! A request that changes something (any method that is not safe, answered 2xx or 3xx) makes what is kept about the same
//! address, however that is spelled and for all callers, useless. Who shares an answer, and what the upstream is therefore
//! not told, is said in
//! [`model::policy::CachePolicy`].
//!
//! The cache is asked behind authentication, gates and every limit, and before a request queues for its upstream. A hit
//! is recorded like any answer, with its units or with none as the caller's plan says (`cache_hits`); where it has none it
//! is given also to callers whose quota, spend cap or key's own limits leave no room. `Cache-Status` (RFC 9211) says what
//! was done. Requests for the same wait up to [`Limits::cache_wait`] for the one that fetches it.
//! All answers together take [`Limits::cache_bytes`] at most; what was not used for longest goes first. A quarter of it is
//! for those on their way, of which one caller's take as much as is free, and those that get nowhere give way to others.
//! They are this gateway's own, are not kept over a restart, and go when the route or its upstream is published anew, or
//! when an administrator forgets them ([`model::snapshot::Purge`]).
//!
//! # Repeats
//!
//! ```toml
//! [routes.policy]
//! idempotency = { required = true, keep_s = 86400, max_answer_bytes = 65536 }
//! ```
//!
//! On a route with `idempotency` a request with an `Idempotency-Key` and a method that is not safe is done once: a
//! repeat gets the first answer, with `Idempotent-Replayed: true`, and is recorded with no units. A key belongs to the
//! consumer, the environment and the route; it is good for one method, host, path, query, content type and body (of at most 1
//! MiB), and with another 422 is answered. While the first is under way, a repeat gets 409 with `Retry-After`. The
//! first goes on to its end when its client goes away. Kept is every answer of the upstream but 429, 503 and, unless
//! `keep_failures` says so, other failures: after those, and when the upstream closed without an answer, a repeat is done
//! anew, so an upstream that may have done the work without answering should look at the key, which reaches it, too.
//! What was done and whose answer is not kept (larger than `max_answer_bytes`, broken off, without a certain end, an
//! event stream, not to be passed on to its caller, or pushed out of [`Limits::idempotency_bytes`]) is not done again:
//! 409. So is what the upstream did not answer in time, because it may be at it still. Of the memory one caller's keys may
//! take as much as is left for all others; beyond that it is refused new ones (503), and nobody's are forgotten before
//! their time. Where memory is short the answers go first of who holds most of it. A repeat needs what a request
//! needs, a valid credential, scope, features and room in the rate limits, but as it costs nothing none in quota, spend cap
//! and the key's own limits. All of it is in the memory of this gateway: behind a balancer repeats must come to the gateway
//! that had the first, and a restart forgets.
//!
//! # Callers with a token, callers without anything
//!
//! A token's caller is the consumer that the token names: terms, counters and suspension are those of its keys. What
//! stands in for the key in the ledger and in `X-Key-Id` is an id made once for the issuer, so that usage can be told
//! apart by it. A token is proven once a minute at most; for a minute it is known by its SHA-256, until issuers, keys or
//! names change. An issuer's keys are asked for in the background, every five minutes and, once a minute at most, when a
//! token names one that is not known (503 meanwhile); they count for an hour while the issuer is away.
//!
//! An issuer may say which claim names a plan, and which plans that may be (`plan_claim`, `plans`). Then features, gates,
//! rate limits, quotas, concurrency and priority are that plan's for the request, and a token that names another is refused
//! with 403. The account stays the consumer's: what is used is counted once, whoever asked by whichever plan, each quota
//! being compared with that one count; subscription, period, prices and spend cap are those of the consumer's own plan,
//! without which it is refused. So no token changes what is charged for a call. Meters and limits that the own plan lacks
//! are counted by this gateway alone. Of such meters it has one count for all plans of tokens, in its stored copy, which the
//! ledger completes, so that it goes on after a restart; without a copy that can be used it begins with what the ledger
//! still holds of the period ([`Limits::retention`]). What other gateways count of them, or the one before that handed over,
//! is not known here.
//!
//! A caller without a credential has an account for its address on the plan that the route names, as far as the gateway
//! remembers (`bounded`): `X-Consumer-Id: anonymous`, no `X-Key-Id`. Its requests are in the ledger under no consumer, and
//! the control plane bills nobody for them.
//!
//! # Who is calling, told to upstreams
//!
//! By default in headers (`X-Consumer-Id`, `X-Key-Id`, `X-Plan`, `X-Features`, `X-Environment`), which an upstream must take
//! on trust. With `identity = "jwt"` under `[upstreams.policy]` in their place by `X-Identity-Token`, an EdDSA token of five
//! minutes: `iss` is the gateway's address as clients know it, `aud` the upstream's slug, `sub` the consumer's id or
//! `anonymous`, then `plan`, `features`, `environment`. A token is made for a consumer, an upstream and what is said, not for
//! a request, and used for half its life. Callers cannot send either form themselves.
//!
//! Public keys are at `/.well-known/turnpike/jwks.json` of every gateway (before routes are looked at; nobody is billed). They
//! follow from the peppers and the month, so they outlive restarts, all gateways with the same peppers sign and publish the
//! same, each is published a month before it signs and a month after, and whoever learns a pepper can sign. To take a
//! stolen one out of use at once, begin with another pepper.
//!
//! # Seen from outside
//!
//! `metrics` counts per worker and is added up when it is read; a request costs it a few stores and five readings of the
//! clock. `seen` is the access log: a request gathers what is told of it only while there is one, and a thread of its own
//! writes. `trace` sends spans to an OpenTelemetry collector, from a task of its own. `explain` asks each decision of the
//! request path without taking anything. Trace context (`traceparent`) passes through untouched where there are no traces.
//!
//! # One gateway after another
//!
//! A gateway can get its listening sockets from another process ([`Config::take_over`]). It begins with a data folder of its
//! own and no stored snapshot, asks the control plane for everything, and accepts nobody before [`Running::open`]. The one
//! before it ends with [`Running::hand_over`]: it accepts nobody, answers what its clients still send, each with
//! `Connection: close` (HTTP/2: `GOAWAY`, with the last request that it takes; those beyond it are not processed, and clients
//! send them again), and ships its ledger. Units are in one ledger each, so none is lost or counted
//! twice. What it recorded after its successor was told reaches that one's counters as every other gateway's does, and in
//! the end with [`Running::ask_all_anew`]. Rate limits that are not shared, requests in flight,
//! circuits and remembered tokens begin anew. What a gateway that died left behind is brought in by [`ship_rest`].
//!
//! # Several gateways
//!
//! Each gateway counts what it lets through against quotas, spend caps and limits of keys, and hears of what the others
//! counted (`others`). Every answer of the control plane says how far it has their ledgers
//! ([`model::snapshot::Changes::others`]); the gateway asks for the counts that their new records changed
//! ([`SnapshotSource::counts`]) and raises its own to `used` and what its own ledger holds beyond `shipped_through`, of the
//! running period alone. Requests in flight stay taken beside that. So counts come together within
//! [`Limits::ship_interval`], the time to store a batch, and [`Limits::counts_interval`]: by default about a second and a
//! half, half a second more where thousands of requests a second are stored, and a second more for the first requests after
//! a minute in which no other gateway counted. What the others let through in that time may pass a hard quota or a cap, where
//! limits are not leased; nothing counts twice, and nothing is left out. After a start, a
//! long absence of the control plane, or when its database was set back, everything is asked for. One gateway alone asks
//! for nothing. Rate limits are shared where there is a [place for them](#rate-limits), and otherwise each gateway's own, as
//! requests in flight always are.
//!
//! With [`Config::leases`] nothing passes a hard quota, a spend cap or a key's own limit, on any number of gateways and
//! whatever connection is broken: each spends from *leases*, ceilings for its own ledger which the control plane grants so
//! that all of them and what is used stay within the limit ([`model::lease`] has the rule). What a limit means stays as it
//! is, and the counts above go on beside. More is asked for when half of a lease is gone; a call that finds none waits up
//! to [`Limits::lease_wait`] for an answer, then gets 503 `limit-leased` with `Retry-After`, or 429 and 402 as ever where
//! the control plane says that the limit is used up everywhere. Calls are asked for in their order, many counters in one
//! question, and in fewer after one that was not answered. So the first call on a limit costs a question to the
//! database, and while it is away calls go on as far as leases in hand reach. What is not used for
//! [`Limits::lease_idle`] is given back, sooner where others lack it, and all of it at a stop; the control plane keeps what a
//! gateway had that died until one starts on its folder or another ships its ledger ([`ship_rest`]), or the period ends.
//! Leased are limits of consumers and their keys, live and test. Not leased are rate limits, what strangers may do, and the
//! quotas of plans that tokens name, which come together as said above. Three things bound what can be said: a gateway that
//! does not hear of a limit cannot keep to it, so one that is new or lower holds for each from when it hears of it; of a
//! plan changed in mid-period, units in flight are charged by either price; and a grace in hours has an end that
//! gateways see by their clocks. All gateways on one control plane must lease or none: [`Running::unlike_leases`] counts
//! those that differ, and the log says so.
//!
//! # Threads
//!
//! One current-thread runtime per worker with a listening socket of its own (`SO_REUSEPORT`), one thread that syncs the
//! ledger; the snapshot, the shipper and what sends traces run on the caller's runtime.

mod account;
mod admit;
mod authenticate;
mod balance;
#[cfg(feature = "benching")]
#[doc(hidden)]
pub mod benching;
mod body;
mod bounded;
mod cache;
mod causes;
mod client;
mod config;
mod cors;
mod cost;
mod date;
mod disk;
mod download;
mod edits;
mod exchange;
mod explain;
mod feature_gates;
mod filter;
mod flight;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod gateway;
mod ground;
mod grpc;
mod headers;
mod http1;
mod identity;
mod key_limit;
mod leases;
mod ledger;
mod limit;
mod listen;
mod memory;
mod methods;
mod metrics;
mod once;
mod others;
mod outgoing;
mod own;
mod quote;
mod rate;
mod record;
mod refusal;
mod rest;
mod route;
mod seen;
mod sharing;
mod shipper;
mod source;
mod stop;
mod sync;
mod tables;
mod timer;
mod token;
mod trace;
mod tunnel;
mod upload;
mod upstream;
mod worker;

pub use config::{AccessLogConfig, AccessLogTo, Config, Limits, Peppers, Share};
pub use explain::{Decision, Explanation, Question, Verdict, explain_snapshot};
pub use gateway::{Gateway, Running, StartError};
pub use ledger::BeforeSync;
pub use listen::{TlsError, TlsFiles};
pub use refusal::Refusal;
pub use rest::{is_free, ship_rest};
pub use sharing::{RedisConfig, RedisUrl};
pub use source::{SnapshotSource, SourceError, UsageSink};
pub use trace::{CollectorHeaders, CollectorUrl, TraceConfig};

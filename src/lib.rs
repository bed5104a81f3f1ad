//! # pod-router
//!
//! A room-affinity reverse proxy: a request that names a room reaches the one pod that owns it. This page is the
//! architecture; the README says how to run it. What it promises whoever runs it (settings, routes, fields, metrics, the log)
//! is called the contract.
//!
//! ```text
//!                    control thread                      worker thread, one per core
//!                ┌─────────────────────┐     ┌──────────────────────────────────────────────────┐
//!  kubelet,      │ admin   signals     │     │ server → proxy → upstream ─ HTTP, WebSocket ────→│ pods
//!  Prometheus ──→│ checks  discovery   │     │            │     tunnel                          │
//!                └──────────┬──────────┘     └────────────┼──────────────────────────────────────┘
//!                           │          resolver: cache,   │                ↑ its own listener (SO_REUSEPORT)
//!                           └──────── single flight ──────┘                └ clients, ingress
//!                            each thread with a connection to Redis
//! ```
//!
//! A functional core in an imperative shell: what decides is pure and lives in [`core`]; what does I/O decides nothing.
//!
//! # Where to find what
//!
//! | to change | go to |
//! |---|---|
//! | where a room id comes from; how else a path may be read | [`core::affinity`], [`core::path`] |
//! | the value in Redis, pod names | [`core::assignment`] |
//! | which request goes where; what is retried | [`core::decision`] |
//! | the 302 | [`core::redirect`] |
//! | which heads are refused; what a WebSocket handshake is | [`core::head`] |
//! | the PROXY protocol's header | [`core::proxy_protocol`], read by `server/announced.rs` |
//! | headers added and removed | [`core::headers`], [`core::forwarded`] |
//! | HTTP/1.1 towards pods, as bytes: heads, framing, chunks; the 101 towards clients | [`core::wire`] |
//! | choosing a pod for a new room | [`core::placement`] |
//! | requests without a room: policies, sessions, ejection, checks | [`core::balance`], [`core::session`], [`core::ejection`], [`core::check`] |
//! | the pods of a backend: from where, in what state, with what load | [`backends`] |
//! | which pod of the StatefulSet an address is | `backends/names.rs` |
//! | a question over HTTP of the router's own | [`probe`] |
//! | what binds a request to one of them; where else it may go | `proxy/balance/bound.rs`; `proxy/balance.rs` |
//! | what an affinity cookie says, and its signature | `backends/cookie.rs` |
//! | names to addresses, SRV records | [`dns`] |
//! | cache, staleness, single flight, epochs | [`directory::resolver`] |
//! | what counts as a pod's load between two heartbeats | `directory/heartbeats.rs` |
//! | how Redis is spoken to | [`directory::redis`] |
//! | the allocator, and when it gives memory back | `heap.rs`, beside `main.rs` |
//! | `check`, `explain`, `health` | [`cli`] |
//! | a setting | [`config`]: `args` (typed), `convert` (meant) |
//! | a status code, an error's sentence | `proxy/reject.rs` |
//! | how what never became a request is answered | `proxy/canned.rs` |
//! | when a client's connection carries no other request | `proxy/doubt.rs` |
//! | connections to pods: dial, keep, reuse, evict | `proxy/upstream.rs`, `proxy/upstream/dial.rs`, `proxy/upstream/address.rs`, `proxy/endpoint.rs`, `proxy/socket.rs` |
//! | how a socket is read and written | `proxy/direct.rs` |
//! | places at pods, and who waits for one | `proxy/queue.rs`, `proxy/upstream/places.rs`, `proxy/forward/turn.rs` |
//! | one request and its response on such a connection | `proxy/exchange.rs`, `proxy/upload.rs`, `proxy/duplex.rs` |
//! | the response on its way to the client | `proxy/body.rs` |
//! | a client's connection to its end, also as a tunnel | `server/connection.rs` |
//! | what is known of it; its socket | `proxy/client.rs`, `proxy/client/socket.rs` |
//! | how it ends: with the last answer, after what is unread, by a reset | `Ending` and `Cork` in `proxy/client.rs` |
//! | attempts and waiting for a pod | `proxy/forward.rs` |
//! | the log's word that a pod is unreachable | `proxy/reach.rs` |
//! | WebSocket relay | `proxy/upgrade.rs`, `proxy/tunnel.rs` |
//! | what a connection or tunnel gets only after its first second | `proxy/nursery.rs` |
//! | the access line, request metrics | `proxy/record.rs`, [`metrics`] |
//! | accepting, connection limits, slow clients | [`server`] |
//! | a rate, how it is written and where it applies | [`core::rate`] |
//! | limits per client | [`limits`]; what they refuse: [`core::admission`], `proxy/admission.rs` |
//! | which RFC clause is enforced where | [`conformance`] |
//! | shutdown | [`drain`], [`app`] |
//! | health, status, metrics listener | [`admin`] |
//! | manifests, routes, alert rules, dashboard | `deploy/`, held together by `tests/it/deploy.rs` |
//!
//! # Layers
//!
//! Imports point down only; `tests/it/tidy.rs` checks it.
//!
//! ```text
//! main          parse, build, run, exit status
//! app  cli  dev wiring  |  check, explain, health  |  the demo around a router
//! server admin  accept loop and limits  |  health, status, metrics
//! proxy         the path of one request
//! backends      the pods for requests without a room
//! directory dns who owns a room  |  where a name leads
//! drain limits metrics probe single_flight telemetry timer  mechanics without domain words
//! config        what was typed → what was meant
//! core          values and decisions
//! conformance   names the tests of each RFC clause; no code, imported by none
//! ```
//!
//! # Invariants
//!
//! 1. [`core`] never awaits and reads no clock, environment or randomness.
//! 2. Only `directory/redis` names fred; only `proxy/reject.rs` picks a status on the data listener; only [`config`]
//!    reads the environment (`RUST_LOG` apart, which it checks and `tracing-subscriber` reads in [`telemetry`]).
//! 3. A connection failure never moves a room. Only the directory does.
//! 4. For one room, no request goes to a pod under a lower epoch than one this replica has used and still remembers,
//!    whatever the directory has said in between.
//! 5. A response can never reach another request: a connection whose exchange did not end cleanly is closed.
//! 6. A tunnel starts only after a WebSocket handshake that was asked for, allowed and answered by a matching 101.
//! 7. What goes up and down (loads, gauges, places, a pod's trial) is a guard that undoes itself on drop; every limit on what
//!    clients may use has a setting, a metric and a test.
//! 8. Every wait has a deadline, or a setting for one that is off by default (`--tunnel-idle`, `--response-body-idle`);
//!    nothing queues without a bound. Requests that wait for a pod are bounded by
//!    `--max-connections` and `--pod-wait`, for a place at one by `--pod-queue` and `--pod-queue-timeout`, lookups by one per room and `--redis-timeout`, questions for
//!    heartbeats by one at a time and the same, lookups of names by a number in the process (`dns/system.rs`).
//! 9. Passwords, query strings, path parameters (`sid`s, tokens) and header values never reach a log line or a label.
//! 10. Every library default the router depends on is set explicitly, with the default in a comment.
//!
//! # Guards
//!
//! What is held for as long as something lasts, and what its end, however it comes, does (invariant 7):
//!
//! | guard | held by | dropped |
//! |---|---|---|
//! | [`limits::Place`], [`limits::Seat`] | a client's connection or the tunnel it became, in its `Permit` | one less of all, and of its client |
//! | `Held` | whatever a gauge counts | the gauge goes down |
//! | [`drain::Member`] | the same | the drain waits for one less |
//! | `Record` | a request | its metrics and its access line are written |
//! | `Hold` | a request's body that comes after its answer | the connection may be idle |
//! | `Doubt` | a chunked request whose end has not been seen | not dispelled: the connection takes no other request |
//! | `Lease` | an exchange with a pod | the connection to the pod is closed; given back, it is kept for another |
//! | `Idle` | a connection that is kept | there is room for one more on the thread's `Shelf` |
//! | `PodShare` | a tunnel, agreed or begun, of its lease | the pod's load, its places and the gauge of its connections go down |
//! | `Story` | the same tunnel | its line in the log is written: one for each 101 |
//! | `Resetting` | an exchange amid its request | the connection to the pod is reset: a FIN would wait behind what the pod does not take |
//! | `Sending` in `proxy/duplex.rs` | the body of an answer that has come before all of its request | nobody sends that on |
//! | `Waiting`, then `Place` in `proxy/queue.rs` | a request at a pod with `--pod-max-connections` | the queue is shorter; the next one's turn |
//! | `Wait` in `proxy/forward/turn.rs` | a request that waits for a place | its wait is counted, also where its client has left |
//! | `InFlight` | a request or tunnel at a pod | the pod's load goes down |
//! | `Trial` | the request that tries an ejected pod | without an answer: another may try |
//! | `Departure` | the one lookup that others wait for | without an answer: somebody else asks |
//! | `Lookup` in `dns/system.rs` | the thread that looks a name up, however long nobody has waited for it | one less is under way |
//!
//! # Decisions
//!
//! - **A core is a world of its own.** One thread per core with its own runtime, listener and connections to pods and to Redis:
//!   no task hop between accept and response, and none for a lookup. Shared are the directory's answers (a sharded map, read
//!   under a shared lock), the lookups under way (who comes second waits for the first, on whatever thread), pod addresses
//!   (asked for when a pod is dialled) and the metrics (atomic additions). One multi-threaded runtime at the same work, locks
//!   and all, is not dearer (`benches/run --runtimes`: 0.91 to 1.07 times the CPU; 1.1 to 1.3 with two threads and 8
//!   connections, where single repetitions went both ways) and balances better, 50 : 50 against up to 67 : 33. So it is not
//!   the scheduler that is gained here but what of ours needs no lock, no atomic count and no `Send` (tokio's own and `bytes`'
//!   stay).
//! - **Redis away is not our outage.** Known rooms go on from the cache for a bounded time; liveness and readiness do not ask
//!   Redis. Unknown rooms are answered 503 with `Retry-After`: a guess would split the room.
//! - **Never sent twice.** A request of which a pod may have seen a byte is not repeated, whatever its method. Before a kept
//!   connection is reused the socket is peeked at, so that a pod's close is seen before the request is written.
//! - **HTTP/1.1 on both sides**: what Traefik speaks to a backend, and what WebSocket upgrades need. Towards clients it is
//!   hyper's, but for a 101: a tunnel takes the socket out of hyper and begins with that. Towards pods it is ours, over
//!   httparse ([`core::wire`], `proxy/exchange.rs`): hyper's client wants a task and two channels for every connection and
//!   moves each body frame through them, which was a sixth of a request's cost; and here it is known exactly whether a byte
//!   has been sent, which decides whether a request may be sent again. The price is a response parser of our own: it is
//!   strict (what two readers could understand differently ends the connection), pure, and tested in pieces of every size.
//! - **What happens to every request costs nothing that can be done once**: counters are found by label once a thread, a
//!   connection has one timer that is set again only when it fires ([`timer`]), a client's none in its first second, nor has
//!   a dial or an exchange that begins in that, a connection is accepted with its first bytes (`TCP_DEFER_ACCEPT`; before
//!   that it would be looked at in vain, a fifth of what it costs; the price is that of a connection silent at first the kernel
//!   takes the silence for the way's length, and repeats a lost answer only after up to three seconds), fields go from the client's head to the pod's bytes without a map between,
//!   and branches that are rare are boxed, because a request's future is as large as its largest.
//! - **mimalloc**, in its second version: 1 µs of 17 a request less than glibc's allocator, and, unlike its third version, no
//!   slow path for the aligned blocks that tasks and sockets are. It asks for no huge pages: they are 14 MB for a process that
//!   needs three. By itself it gives memory back only while it is busy, so each thread asks it to once a second (`heap.rs`).
//! - **Sessions without a room need no memory of ours.** The pod stands in the `sid`, in a signed cookie or in a hash of the
//!   client's address: any replica finds it, and a restarted one as well. Where none of them says, a session's request is
//!   refused with Engine.IO's own words rather than balanced anew: its client starts over at once instead of failing slowly.
//! - **Ready is who knows its pods**: each thread has heard from Redis, and each source of a backend has answered once, or
//!   failed to for five seconds. Later failures change neither readiness nor the pods: that nobody answers says nothing.
//! - **A pod is known by what it is, not by how it is found**: its StatefulSet name, else its address. A name with an address
//!   for each pod does not say theirs: the pods' own names are looked up, and one that leads to a listed address is that
//!   pod. A cookie and what is held against a pod outlast a change in the number of addresses, and of what is known of it.
//! - **Load and limits go by the address reached as well**: rooms dial a pod by its name, and where nobody can say whose an
//!   address is, a backend has it by that. A connection counts under both, so neither side has to know what the other calls
//!   the pod.
//! - **What fails a request without a room is held against the pod for such requests only**: a room's pod is never
//!   replaced, however it behaves.
//! - **An idle tunnel holds no buffer**: it waits for readiness and borrows its thread's one read buffer.
//! - **Limits per client are off unless asked for, and cost nothing then**: an `Option` is looked at. What is on is shared by
//!   all threads: an atomic number a client (`governor`'s arithmetic), in the same kind of bounded cache as the
//!   directory's answers, so that a flood of addresses takes no more memory than it may.
//! - **The `prometheus` crate** instead of prometheus-client: text format 0.0.4, as promised, and atomic histograms.
//!
//! # Deviations
//!
//! - **Interim responses (1xx) are not passed on**: hyper's server cannot send them. The final response is intact, and the
//!   router answers `Expect: 100-continue` itself when the pod's connection takes the body.
//! - **Response trailers reach some clients only**: hyper's server sends those that the response names in `Trailer`, to a
//!   client that sent `TE: trailers`. Others are dropped, which RFC 9110 section 6.5.1 allows.
//! - **A bare LF in a chunked request's trailer section** ends a line, but not the section: hyper goes on to the next empty
//!   line, and what others read as the next request is gone with it. It cannot be read before hyper does. What comes of it
//!   is bounded: a request that ends in a trailer section is the last of its connection (`proxy/doubt.rs`), so that no
//!   answer can be taken for another request's, and none of what was swallowed reaches a pod.

#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod backends;
pub mod cli;
pub mod config;
pub mod conformance;
pub mod core;
pub mod dev;
pub mod directory;
pub mod dns;
pub mod drain;
pub mod limits;
pub mod metrics;
pub mod probe;
pub mod proxy;
pub mod server;
pub mod single_flight;
pub mod telemetry;
pub mod timer;

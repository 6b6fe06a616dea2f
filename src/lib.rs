//! # codexd: architecture
//!
//! codexd keeps one OpenAI Codex at work on one host and tells everybody what it does. It supervises `codex app-server`,
//! keeps sessions, one-shot runs and an append-only event log on disk, and serves loopback clients a REST API and an
//! event stream. Everything is blocking threads joined by bounded channels; there is no async runtime.
//!
//! ## One notification, from the child's stdout to disk and N clients
//!
//! ```text
//! codex app-server ──stdout──▶ app-rx  bytes → lines → envelope; params stay text     (app_server::reader)
//!                                │      draft = an event without number and time       (app_server::notification, hub::drafts)
//!                                ▼ events inbox, bounded: when it is full the child waits
//!                               hub     batch → seq → one write to events.jsonl → state → subscribers   (hub::core)
//!                                ├────▶ ws-N-tx  shared bytes, one queue per client, never waited for   (hub::subscription, stream)
//!                                │       or its socket at once, if a few clients are up to date and it needs no waiting
//!                                └────▶ persist  state files, at most five times a second               (hub::persister)
//! ```
//!
//! ## One POST /v1/codexd/turn
//!
//! ```text
//! client ─TCP─▶ conn-N (peer, Host, Origin, token, route, type, framing, size)  ─unix socket─▶ http-N (tiny_http)
//!   ─▶ http::routes ─▶ ops::turns ─▶ app_server::client (connect, load the thread) ─▶ turn/start ─▶ app-tx ─stdin─▶ codex
//!   codex ─▶ app-rx ─▶ hub: turn.accepted at the answer's own place among the notifications ─▶ the waiting verb ─▶ reply
//! ```
//!
//! ## One request of Codex
//!
//! ```text
//! codex ─▶ app-rx ─▶ hub: request.opened (with a file change's changes)  ─▶ streams, GET requests     (app_server::inbox)
//!   POST answer │ timer │ policy ─▶ answer::shape ─▶ hub: one wins, request.answered ─▶ then to codex (app_server::answer)
//!   turn/completed, serverRequest/resolved ─▶ cancelled, in one write with it · end of the child, stop ─▶ orphaned
//! ```
//!
//! An answer is logged first and sent then: a crash in between costs an answer, never the record of an approval.
//!
//! ## Invariants
//!
//! 1. **Log first.** An event is in events.jsonl, whole, before any client sees it or any reply speaks of it.
//! 2. **What was acknowledged survives `kill -9`.** 201, 202 and 200 mean that replaying the log gives the record back.
//! 3. **One owner.** The hub's thread owns the state. Nobody locks it; others ask ([`hub::Hub::ask`]) or transact
//!    ([`hub::Hub::transact`]).
//! 4. **The state is a fold of the log.** An event carries what it does to the state ([`hub::change::Change`]); replay
//!    reads the same change back from the event's JSON. The state never runs ahead of the log.
//! 5. **One source, one order.** What the app-server says, notifications and answers alike, keeps its order into the log:
//!    answers that matter to the state are applied by the reader's hand-over, not by the caller that waits for them.
//! 6. **Nobody waits for a client.** A slow reader costs its own queue, then its place.
//! 7. **Backpressure goes to the child.** Every queue between its stdout and the disk is bounded; nothing is dropped.
//! 8. **The cost of an event does not grow** with sessions, runs, cached events or the log. A page of the log is found by
//!    binary search over its bytes ([`store::segments::locate`]): there is no index to build, to keep or to get wrong.
//! 9. **No orphans.** Every process is started in a group of its own, marked, and ended with its whole tree. What leaves
//!    the group and clears its environment is found as long as the daemon lives, for it adopts it (Linux; not where it
//!    adopts others' orphans too, as process 1 does). After a `kill -9` nothing tells such a process from a stranger.
//! 10. **Nothing reaches a handler** before [`http::guard`] and the framing checks have passed it.
//! 11. **No cycle in waiting**: http worker → app-server call → reader → hub → disk. The hub waits for its inbox and the
//!     disk only.
//! 12. **Unsafe code** stands in [`os`] alone.
//!
//! ## The contract
//!
//! Clients were there before this program: flags, variables and printed lines, files and records, events, routes and statuses,
//! messages of the stream and the launchd label are as an older implementation had them, its faults excepted. The source
//! calls that the contract. It only ever grows. What the older one answered, printed and wrote is in `tests/fixtures`, and
//! the tests `cli_golden`, `golden_shapes` and `older_state` hold codexd to it.
//!
//! ## Layers
//!
//! Imports go only downward; `tests/it/tidy.rs` checks it.
//!
//! | layer | modules |
//! |---|---|
//! | 11 | `main` |
//! | 10 | [`cli`] (flag table, start, status, smoke, service, doctor…) |
//! | 9 | [`daemon`] (the only place that knows all parts: start and stop order), [`smoke`], [`stub`] (the built-in stand-in for Codex) |
//! | 8 | [`stream`] (WebSocket, Server-Sent Events, what feeds both) |
//! | 7 | [`http`] (front door, guard, routes, replies, the OpenAPI document, the page at `/`) |
//! | 6 | [`ops`]: the verbs and the metrics; they know no HTTP |
//! | 5 | [`supervisor`] (the child's life, the external connection) |
//! | 4 | [`app_server`] (client, connection, reader, wire, inbox, needs, impression; dial, upgrade, tls and websocket for an external one), [`exec`] (one-shot runs) |
//! | 3 | [`hub`] (core, state, recent, change, drafts, batch, subscription, filter, replay, persister, recover) |
//! | 2 | [`store`] (journal, segments, reader, files, lock), [`config`], [`duplex`] (two-thread WebSocket), [`process`], [`api_client`] |
//! | 1 | [`model`]: records, events, views, JSON text |
//! | 0 | [`os`], [`clock`], [`fault`] (faults on demand, debug builds only), [`ids`], [`threads`], [`timer`] (deadlines) |
//!
//! ## Threads
//!
//! `tests/it/tidy` checks that every name a thread is started with stands here.
//!
//! | name | owner | blocks on | ends by |
//! |---|---|---|---|
//! | main | | signals | SIGTERM, SIGINT, SIGHUP |
//! | signals | the process | signals | the process's end |
//! | log | the process | its queue, standard error | the process's end |
//! | stdout | the process | standard output | what it had to say is written |
//! | hub | `HubThreads` | its two inboxes | `Message::Stop` |
//! | load-runs | `recover` | the run registry's file | that it is read |
//! | persist, log-sync (with `--sync interval`), voice | `HubThreads` | their channel | the hub's end |
//! | child | `Supervisor` | the child, its output, the stop | the stop |
//! | announce | `os::spawn_group` | a pipe to the process that is being started | that it has started, or was never born |
//! | wait-N (its pid) | `Process` | waitid(2) | the process's end |
//! | reaper | `Adoption` | SIGCHLD | its handle is closed |
//! | app-rx-N, child-N-err, child-out | `Life` | a pipe | end of file, or a cancelled poll(2) |
//! | app-tx-N | `Life`, `Socket` | its queue, the pipe or socket | the connection's close, or a cancelled poll(2) |
//! | app-rx-N of an external app-server | `Socket` | its WebSocket | the connection's end, or the cut |
//! | dial-N | `External` | connect, TLS, upgrade | its deadline, or a cancelled poll(2) |
//! | recover, recover-N | `Daemon`, `recover` | a child to begin, calls of the app-server | its sender is dropped, the connection's close |
//! | timer | `Daemon` | the next deadline | its `TimerThread` is dropped |
//! | watchdog | `Manager` | half of the service manager's interval | its sender is dropped |
//! | accept, conn-N | `FrontDoor` | the port, a socket | a pipe, shutdown |
//! | http-N | `Pool` (http), when one is needed | tiny_http | unblock |
//! | ws-N-tx | its connection | its queue | the queue's end |
//! | run-N | `Pool` (exec) | a process | its end, or a cancel |
//! | N-out, N-err (the run's id) | `Started` | a pipe of that process | end of file, or a cancelled poll(2) |
//! | probe-out, probe-err | the probe of a version | a pipe | end of file |
//! | interrupt, smoke-stream, doctor-out | a command that is no daemon | a signal, a stream, a pipe | that command's end |
//!
//! ## What was done otherwise than first proposed, and why
//!
//! - The stream of a client gets whole batches, not single events: one queue slot, one reference count for hundreds. A batch
//!   is a run of finished WebSocket frames, the same for every client, who is sent them as they stand
//!   ([`hub::batch::Batch::frames`]): 16 clients get 1.4 times as many events.
//! - A client that is up to date is written to by the hub itself, as far as that needs no waiting
//!   ([`hub::subscription::Direct`]): to wake its thread takes longer than all the rest of an event's way.
//! - The handlers of requests are one pool with one tiny_http, not one for each kind ([`http::api::Kind`]): how many of each are let
//!   in is counted before it, so calls that wait still leave workers to the others. Workers are started when they are needed: of 41
//!   threads of an idle daemon 25 were handlers that nobody had asked for anything, and the second tiny_http's.
//! - The connections to that tiny_http are kept from one request to the next: each was set up, accepted and handed to a thread
//!   of its pool. Four clients get 1.4 times as many statuses. Since tiny_http keeps a connection's thread, and with it the
//!   queue of requests, after the server's end, whoever waits for a request that nobody took is told by us
//!   (`http::inner::tickets`).
//! - A status is asked of the hub only if something has changed since the last one ([`hub::Hub::version`]).
//! - Events are rendered by the reader, in its own thread; the hub only numbers them. That is half of the work off the
//!   one thread that everything goes through.
//! - A delta that is written as Codex writes it is taken apart without a parser, and most previews are not decoded
//!   (`app_server::notification::delta`): what the reader does for a delta of 64 bytes went from 1.5 to 0.55 µs. Whatever is
//!   written otherwise goes through serde_json, and comes to the same. What the deltas of one text have in common is made
//!   once, and drafts about one thread share its name: another half of the reader's own time.
//! - The state files' checkpoint is `appliedSeq` in recent-events.json, which is written after the registries.
//!   So a start writes no registry in which nothing has changed, however large it is, but that of the requests, which is
//!   bounded.
//! - A segment that is full is forced to disk by log-sync, at once, and not by the hub: 64 MB took it 20 to 40 ms in which
//!   nothing was logged or answered. What a power loss may take is still of the last second, but may lie before what is left of it.
//! - Registries are read record by record ([`store::files::load_registry`]), and of recent-events.json only what stands before its
//!   list: in a start with 10,000 records half of the page faults were for text that was looked at once.
//! - In all but a daemon's first life the state files are written when the start is over ([`hub::Hub::started`]).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api_client;
pub mod app_server;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod duplex;
pub mod exec;
pub mod fault;
pub mod http;
pub mod hub;
pub mod ids;
pub mod model;
pub mod ops;
pub mod os;
pub mod process;
pub mod smoke;
pub mod store;
pub mod stream;
pub mod stub;
pub mod supervisor;
pub mod threads;
pub mod timer;

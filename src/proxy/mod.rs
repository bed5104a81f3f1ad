//! The path of one request, top to bottom.
//!
//! `handle` reads the head, finds the room, asks the resolver, lets `core::decision` decide, and then redirects,
//! refuses or forwards. What it must not do: decide by itself (that is `core`), pick a status (`reject`), or touch Redis
//! (`directory`). One [`Proxy`] per worker thread: what threads share is its [`Commons`], and the directory's cache.

mod admission;
mod balance;
mod body;
mod canned;
mod client;
mod direct;
mod doubt;
mod duplex;
mod endpoint;
mod exchange;
mod forward;
mod nursery;
mod queue;
mod reach;
mod record;
mod reject;
mod socket;
mod tunnel;
mod upgrade;
mod upkeep;
mod upload;
mod upstream;

use std::future::pending;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Request, Response, Version};
use hyper::body::{Body, Incoming};

pub use body::ResponseBody;
pub use canned::Unheard;
pub use client::{ClientGone, ClientSocket, Downstream, Ending, Permit};
pub use nursery::{Nursery, Youth};
pub use queue::Queues;
pub use reach::Reach;
pub use reject::{Answer, CODES, HEAD_TOO_LARGE, Reject, TOO_MANY_CONNECTIONS, TOO_MANY_OF_CLIENT, UNREADABLE};
pub use socket::{HELD, accept_the_silent, await_first_bytes, tune_listener};
pub use upgrade::Relay;
pub use upkeep::SECOND;

use self::balance::{Balancer, Choice};
use self::forward::{Forwarding, GivenUp};
use self::record::{Ledger, Record, RequestKind, RouteSource};
use self::reject::Own;
use self::upgrade::Offer;
use self::upstream::Pool;
use crate::backends::Backends;
use crate::config::Config;
use crate::core::assignment::Assignment;
use crate::core::decision::{self, Plan};
use crate::core::forwarded::{self, Client};
use crate::core::head::{self, Kind, X_REQUEST_ID};
use crate::core::headers::connection_options;
use crate::core::room::RoomId;
use crate::directory::Directory;
use crate::directory::resolver::Resolver;
use crate::dns::Dns;
use crate::drain::{Phase, Roster};
use crate::limits::{Files, Limits, Places};
use crate::metrics::Metrics;

/// The longest request id that is kept from a trusted proxy.
const MAX_REQUEST_ID: usize = 128;

/// Everything one worker thread needs to answer requests.
#[derive(Debug)]
pub struct Proxy<D> {
    config: Arc<Config>,
    resolver: Resolver<D>,
    pool: Rc<Pool>,
    balancer: Rc<Balancer>,
    metrics: Arc<Metrics>,
    ledger: Rc<Ledger>,
    tunnels: Rc<tunnel::Common>,
    limits: Limits,
    roster: Rc<Roster>,
}

/// What the proxies of all worker threads share.
#[derive(Clone, Debug)]
pub struct Commons {
    /// The addresses of pods.
    pub dns: Dns,
    /// The pods of the backends.
    pub backends: Arc<Backends>,
    /// The places at pods, where they are limited.
    pub queues: Queues,
    /// The pods that are away.
    pub reach: Reach,
    /// What one client may have.
    pub limits: Limits,
    /// How many connections clients may have, and have.
    pub clients: Arc<Places>,
    /// The open files that there are for connections.
    pub files: Files,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
}

/// Where a request goes.
#[derive(Debug)]
enum Route {
    /// To the room's pod.
    Pod(Assignment),
    /// To a pod of a backend. Boxed: it is much larger than an assignment.
    Backend(Box<Choice>),
}

impl<D: Directory> Proxy<D> {
    /// The proxy of one worker thread. Has to be called on that thread's runtime.
    pub fn new(config: Arc<Config>, resolver: Resolver<D>, commons: Commons, roster: Rc<Roster>) -> Rc<Self> {
        let pool = Pool::open(config.upstream.clone(), commons.clone());
        let Commons { backends, limits, metrics, .. } = commons;
        let balancer = Balancer::new(Arc::clone(&config), backends);
        let ledger = Ledger::new(Arc::clone(&metrics), Rc::clone(&roster), config.log_sample);
        let nursery = Nursery::open(Rc::clone(&roster));
        let tunnels = Rc::new(tunnel::Common {
            metrics: Arc::clone(&metrics),
            idle: config.downstream.tunnel_idle,
            stall: config.downstream.write_stall,
            linger: config.downstream.tunnel_linger,
            drain: config.drain.timeout,
            nursery,
        });
        Rc::new(Self { config, resolver, pool, balancer, metrics, ledger, tunnels, limits, roster })
    }

    /// Judges a peer by `--trusted-proxies`.
    pub fn client(&self, ip: IpAddr) -> Client {
        Client::new(ip, &self.config.downstream.trusted_proxies)
    }

    /// The young connections and tunnels of the thread.
    pub fn nursery(&self) -> &Rc<Nursery> {
        &self.tunnels.nursery
    }

    /// Answers one request. Not an `async fn`, whose future would have the request twice: it is copied when it begins.
    ///
    /// # Errors
    ///
    /// Its client has gone within its body.
    pub fn handle(
        self: Rc<Self>,
        downstream: Rc<Downstream>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, ClientGone>> {
        let (mut head, body) = request.into_parts();
        async move {
            let sound = downstream.doubts.settled().await;
            let request_id = request_id(&head, downstream.client.trusted);
            let trusted = &self.config.downstream.trusted_proxies;
            let client = forwarded::address(&head.headers, &downstream.client, trusted);
            let mut record = Record::open(&self.ledger, Instant::now(), &downstream, client, &head, request_id);
            if connection_options(&head.headers).any(|option| option.eq_ignore_ascii_case(b"close")) {
                downstream.note_last();
            }
            if !sound {
                return Ok(self.refuse(record, Reject::BehindTrailers, &body));
            }
            let kind = match head::inspect(&head) {
                Ok(kind) => kind,
                Err(error) => return Ok(self.refuse(record, Reject::Head(error), &body)),
            };
            if kind == Kind::WebSocket {
                record.exchange = RequestKind::WebSocket;
            }
            if let Err(refusal) = self.admit(&head, client, kind, &body) {
                return Ok(self.refuse_in_turn(record, Reject::Admission(refusal), &body).await);
            }
            if head::ends_here(&head) {
                others_first(&downstream).await;
                return Ok(self.answer_by_itself(record, reject::options(), &body));
            }
            let route = match self.route(&head, &mut record).await {
                Ok(Routed::To(route)) => route,
                Ok(Routed::Redirected(location)) => {
                    others_first(&downstream).await;
                    let answer = reject::redirect(location, head.headers);
                    return Ok(self.answer_by_itself(record, answer, &body));
                }
                Err(reject) => return Ok(self.refuse_in_turn(record, reject, &body).await),
            };
            let offer = if kind == Kind::WebSocket { Offer::of(&head.headers) } else { None };
            let forwarding = Forwarding { proxy: &self, downstream: &downstream, kind };
            let given_up = match forwarding.run(&mut head, body, route, &mut record).await {
                Ok(answered) => {
                    let fields = head.headers; // the answer's by now
                    return match forwarding.respond(answered, fields, record, offer) {
                        Some(response) => Ok(response),
                        None => pending().await, // the connection is taken from hyper: see `upgrade`
                    };
                }
                Err(given_up) if given_up.has_no_client() => return Err(ClientGone),
                Err(given_up) => given_up,
            };
            others_first(&downstream).await;
            Ok(self.give_up(record, &given_up))
        }
    }

    /// Where the request goes, or where its browser is sent.
    async fn route(&self, head: &Parts, record: &mut Record) -> Result<Routed, Reject> {
        let routing = &self.config.routing;
        let Some((room, _)) = routing.affinity.room(head).map_err(Reject::Affinity)? else {
            return self.any(head, record).map(Routed::To);
        };
        record.room = Some(room.clone().into_owned());
        let resolution = match self.resolver.recall(&room, record.started()) {
            Some(known) => known,
            None => Box::pin(self.look_up(&room, record)).await.map_err(Reject::Admission)?,
        };
        let redirect = routing.redirect.as_ref().filter(|redirect| redirect.applies_to(head, &room));
        let mut plan = decision::plan(redirect.is_some(), resolution, routing.on_unassigned);
        if plan == Plan::Place {
            plan = Box::pin(self.place(&room)).await?;
            record.route_awaited();
        }
        match (plan, redirect) {
            (Plan::Redirect(pod), Some(redirect)) => {
                record.exchange = RequestKind::Redirect;
                record.source = RouteSource::Room;
                if pod.is_none() {
                    self.metrics.unassigned_rooms.inc();
                }
                let location = redirect.location(&room, pod.as_ref());
                record.pod = pod.map(Arc::from);
                Ok(Routed::Redirected(location))
            }
            (plan, _) => {
                let route = self.route_of(plan, head, record)?;
                Ok(Routed::To(route))
            }
        }
    }

    /// The route that a plan asks for, once redirects and placement are dealt with.
    fn route_of(&self, plan: Plan, head: &Parts, record: &mut Record) -> Result<Route, Reject> {
        match plan {
            Plan::Forward(assignment) => {
                record.source = RouteSource::Room;
                Ok(Route::Pod(assignment))
            }
            // A room that is still unassigned right after it was claimed is being deleted: any pod may say so.
            Plan::DefaultBackend | Plan::Place | Plan::Redirect(_) => {
                self.metrics.unassigned_rooms.inc();
                self.any(head, record)
            }
            Plan::Refuse(refusal) => Err(Reject::Room(refusal)),
        }
    }

    /// The pod for a request that no room decides about.
    fn any(&self, head: &Parts, record: &mut Record) -> Result<Route, Reject> {
        record.source = RouteSource::Default;
        let upgrading = record.exchange == RequestKind::WebSocket;
        let choice = self.balancer.choose(head, upgrading, record.client())?;
        self.admit_stranger(&choice, record.client()).map_err(Reject::Admission)?;
        self.balancer.deposit();
        Ok(Route::Backend(choice))
    }

    /// Gives an unassigned room a pod. Whoever wins the race, the plan follows what then holds.
    async fn place(&self, room: &RoomId<'_>) -> Result<Plan, Reject> {
        let limits = self.config.routing.limits;
        let resolution = self.resolver.place(room, limits, fastrand::u64(..)).await.map_err(Reject::Placement)?;
        Ok(decision::plan(false, resolution, self.config.routing.on_unassigned))
    }

    /// An answer of the router's own to a request that cannot be served. The connection ends where the request's body
    /// has not been read (RFC 9112 section 9.3), and where the head is not to be trusted: what follows it may be meant
    /// for somebody else, as what follows a `CONNECT` is.
    fn refuse(&self, mut record: Box<Record>, reject: Reject, body: &Incoming) -> Response<ResponseBody> {
        self.refuse_with(&mut record, reject);
        let close = !body.is_end_stream() || matches!(reject, Reject::Head(_) | Reject::BehindTrailers);
        if close {
            record.linger();
        }
        let answer = reject.respond(record.request_id().to_str().unwrap_or_default(), close);
        self.answer(record, answer)
    }

    /// The same, after everybody else's turn.
    async fn refuse_in_turn(&self, record: Box<Record>, reject: Reject, body: &Incoming) -> Response<ResponseBody> {
        others_first(record.downstream()).await;
        self.refuse(record, reject, body)
    }

    /// An answer of the router's own that is no refusal. The connection ends where the request's body is unread. Whoever calls
    /// has given the others their turn.
    fn answer_by_itself(&self, record: Box<Record>, mut answer: Own, body: &Incoming) -> Response<ResponseBody> {
        if !body.is_end_stream() {
            record.linger();
            answer.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.answer(record, answer)
    }

    /// The answer to a request whose attempts came to nothing.
    fn give_up(&self, mut record: Box<Record>, given_up: &GivenUp) -> Response<ResponseBody> {
        self.refuse_with(&mut record, given_up.reject);
        if given_up.close {
            record.linger();
        }
        let answer = given_up.reject.respond(record.request_id().to_str().unwrap_or_default(), given_up.close);
        self.answer(record, answer)
    }

    /// Counts a rejection and notes it in the record.
    fn refuse_with(&self, record: &mut Record, reject: Reject) {
        record.error = Some(reject.code());
        self.metrics.rejected.with_label_values(&[reject.code()]).inc();
    }

    fn answer(&self, mut record: Box<Record>, answer: Own) -> Response<ResponseBody> {
        record.answer(answer.status);
        let (request_id, version) = (record.request_id().clone(), record.version());
        let mut response = Response::new(ResponseBody::own(answer.body, record));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        response.headers_mut().insert(X_REQUEST_ID, request_id);
        self.say_goodbye(response.headers_mut());
        adapt(&mut response, version);
        response
    }

    /// From the lame duck on, every answer asks the peer to take its next request elsewhere.
    fn say_goodbye(&self, headers: &mut http::HeaderMap) {
        if self.roster.phase() != Phase::Serving {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// Gives everybody else on the thread their turn, where this is not the only answer that the connection gets in its own. An
/// answer of the router's own waits for nobody: a connection full of requests for such would be served sixteen at a time
/// (hyper's measure), and some sixty times that before the runtime looks at sockets again, so that others would wait for
/// hundreds of its answers. A request that has come alone is answered at once: a turn costs a look at every socket.
async fn others_first(downstream: &Downstream) {
    if !downstream.is_first_own_answer() {
        tokio::task::yield_now().await;
    }
}

/// What routing came to.
enum Routed {
    To(Route),
    /// To this `Location`.
    Redirected(String),
}

/// Makes the response what hyper has to be given for a client of this version. To one of HTTP/1.0 that would keep the
/// connection it says `keep-alive` also where our `close` stands beside it, and where only the connection's end ends the
/// body; but not in an answer that is itself of that version, and does not ask for it.
fn adapt(response: &mut Response<ResponseBody>, version: Version) {
    let is_open_ended = |body: &ResponseBody| !body.is_end_stream() && body.size_hint().exact().is_none();
    let is_close = |option: &[u8]| option.eq_ignore_ascii_case(b"close");
    if version == Version::HTTP_10
        && (is_open_ended(response.body()) || connection_options(response.headers()).any(is_close))
    {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        *response.version_mut() = Version::HTTP_10;
    }
}

/// The id a trusted proxy gave the request, or a new one.
fn request_id(head: &Parts, trusted: bool) -> HeaderValue {
    let given = head.headers.get(X_REQUEST_ID).filter(|_| trusted);
    let usable =
        given.filter(|id| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic));
    usable.cloned().unwrap_or_else(canned::new_id)
}

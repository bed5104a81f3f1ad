//! Forwarding: attempts to reach the pod, until one is answered or there is no point in another.
//!
//! The policy is `core::decision::after_failure`; this file carries it out. Before a pod that was away is tried again the
//! directory is asked past the cache: the room may have moved meanwhile.

mod turn;

use std::io::ErrorKind;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, SET_COOKIE, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response};
use hyper::body::{Body, Incoming};
use hyper::ext::ReasonPhrase;

use self::turn::Turn;
use super::balance::{Another, Target};
use super::body::ResponseBody;
use super::doubt::Doubt;
use super::endpoint::Endpoint;
use super::exchange::{Exchange, Patience};
use super::queue::{Place, Precedence};
use super::record::Record;
use super::reject::{self, Reject};
use super::upgrade::{Agreed, Offer};
use super::upload::Upload;
use super::upstream::{Dial, Lease, NoLease};
use super::{Downstream, Proxy, Route, adapt};
use crate::config::UpstreamConfig;
use crate::core::assignment::Assignment;
use crate::core::decision::{self, DialLimits, Failure, Next, Plan, RoomRefusal, Stage};
use crate::core::head::{Kind, X_REQUEST_ID};
use crate::core::room::RoomId;
use crate::core::session::{AffinitySource, is_of_session};
use crate::core::wire::request::{self, Added, Framing};
use crate::core::wire::{Head, switch};
use crate::directory::Directory;

/// One request on its way to a pod.
pub(super) struct Forwarding<'a, D> {
    pub(super) proxy: &'a Rc<Proxy<D>>,
    pub(super) downstream: &'a Rc<Downstream>,
    pub(super) kind: Kind,
}

/// One attempt: to whom it goes, and how it is dialled.
struct Attempt<'a> {
    endpoint: &'a Rc<Endpoint>,
    /// When it begins.
    now: Instant,
    dial: Dial<'a>,
    place: Option<Place>,
    /// Whether the request comes from another pod, to which it could not be sent.
    rerouted: bool,
}

/// A failed attempt.
struct Unanswered {
    failure: Failure,
    /// Whether it is the request's own failure, to be held against the pod: see [`NoLease`].
    own: bool,
}

const UNSENT: &str = "what has been sent is not attempted again";

/// What Engine.IO answers to a `sid` it does not know, with other errors of a session's.
const SESSION_UNKNOWN: u16 = 400;

/// A pod's answer, as far as its head. Its fields have taken the place of the request's.
pub(super) struct Answered {
    head: Head,
    exchange: Box<Exchange>,
    /// The affinity cookie, for a client that has none for this pod.
    cookie: Option<HeaderValue>,
}

/// Why attempts ended without a response.
pub(super) struct GivenUp {
    /// What the client is told.
    pub(super) reject: Reject,
    /// Whether the connection has to end: the request's body may be partly unread.
    pub(super) close: bool,
}

impl GivenUp {
    /// Whether that is because nobody is left to be answered.
    pub(super) fn has_no_client(&self) -> bool {
        matches!(self.reject, Reject::Pod(Failure { stage: Stage::Gone, .. }))
    }
}

impl<D: Directory> Forwarding<'_, D> {
    /// Sends the request to its pod and waits for the response head, whose fields then stand in place of the request's.
    pub(super) async fn run(
        &self,
        head: &mut Parts,
        body: Incoming,
        route: Route,
        record: &mut Record,
    ) -> Result<Answered, GivenUp> {
        let close = !body.is_end_stream();
        // Lent to the attempts, and not handed from one to the next: a request's future would have room for every copy of it.
        let mut unsent = Some(self.upload(head, body, record));
        if let Some(upload) = unsent.as_mut().filter(|upload| upload.is_chunked()) {
            upload.doubt(Doubt::about(self.downstream).await);
        }
        record.upload = unsent.as_ref().and_then(Upload::progress);
        self.attempts(head, &mut unsent, route, record).await.map_err(|reject| GivenUp { reject, close })
    }

    /// The request as the pod gets it.
    fn upload(&self, head: &Parts, body: Incoming, record: &Record) -> Upload {
        let framing = match body.size_hint().exact() {
            Some(0) if !head.headers.contains_key(CONTENT_LENGTH) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let client = &self.downstream.client;
        let added = Added { client, request_id: record.request_id(), kind: self.kind, framing };
        let longest = self.proxy.config.downstream.max_body;
        let on_demand = head.headers.contains_key(EXPECT);
        Upload::new(request::head(head, &added), body, framing, longest, record.started()).on_demand(on_demand)
    }

    /// Attempts, for as long as they leave something `unsent` and it makes sense.
    async fn attempts(
        &self,
        head: &mut Parts,
        unsent: &mut Option<Upload>,
        mut route: Route,
        record: &mut Record,
    ) -> Result<Answered, Reject> {
        let UpstreamConfig { connect_timeout, pod_wait, queue_timeout, max_connections, .. } =
            self.proxy.config.upstream;
        let (mut rerouted, mut turn) = (false, Turn::new(queue_timeout));
        // Since when the pod is tried: what it took to get there, a lookup or others' turns, is not waited for the pod.
        let mut began = None;
        for attempt in 0.. {
            let (mut endpoint, precedence) = (self.endpoint(&route), self.precedence(&route, record));
            // Boxed, as everything that is rare on the request path: a request's future is as large as its largest branch.
            let place = match max_connections {
                Some(_) => {
                    let entering = self.enter((&mut route, &mut endpoint), (head, record), precedence, &mut turn);
                    Box::pin(entering).await.map(Some)
                }
                None => Ok(None),
            };
            if attempt == 0 || record.pod.as_ref() != Some(endpoint.name()) {
                endpoint.count_pick(source_of(&route));
            }
            record.pod = Some(endpoint.name().clone());
            let place = place.map_err(|reject| unanswered(&endpoint, reject))?;
            let room = match &route {
                Route::Pod(assignment) => record.room.as_ref().map(|room| (room, assignment)),
                Route::Backend(_) => None,
            };
            unsent.as_mut().expect(UNSENT).address(room);
            // The clock is read where time has passed since it was read last.
            let now = if attempt == 0 && place.is_none() { record.routed() } else { Instant::now() };
            let began = *began.get_or_insert((now, turn.left));
            let limits = match attempt {
                0 => DialLimits::first(connect_timeout, pod_wait),
                _ => DialLimits::further(connect_timeout, decision::waited(began, (now, turn.left)), pod_wait),
            };
            let dial = Dial { limits, youth: &self.downstream.youth };
            let this = Attempt { endpoint: &endpoint, now, dial, place, rerouted };
            let Unanswered { failure, own } = match self.attempt(head, unsent, this).await {
                Ok(Some((answer, exchange))) => return Ok(self.answered(answer, exchange, &head.headers, &mut route)),
                // The pod's line is another than the one that was entered.
                Ok(None) => {
                    rerouted = false;
                    continue;
                }
                Err(unanswered) => unanswered,
            };
            let elsewhere = match self.note_failure(&mut route, failure, own) {
                Ok(elsewhere) => elsewhere && unsent.is_some(),
                Err(reject) => return Err(unanswered(&endpoint, reject)),
            };
            let waited = decision::waited(began, (Instant::now(), turn.left));
            let next = decision::after_failure(failure, attempt, waited, pod_wait, elsewhere);
            if next == Next::GiveUp || unsent.is_none() {
                return Err(unanswered_by(&endpoint, failure));
            }
            rerouted = next == Next::Elsewhere;
            if let Next::Wait(pause) = next {
                let next = Box::pin(self.before_next_attempt(route, head, record, pause)).await;
                route = next.map_err(|reject| unanswered(&endpoint, reject))?;
            }
        }
        unreachable!("the attempts end by returning")
    }

    /// What an answer means for the pod that gave it, and for the client's affinity to it.
    fn answered(&self, head: Head, exchange: Box<Exchange>, fields: &HeaderMap, route: &mut Route) -> Answered {
        let balancer = &self.proxy.balancer;
        let cookie = match route {
            Route::Pod(_) => None,
            Route::Backend(choice) => {
                balancer.answered(choice, head.status);
                balancer.cookie_beside(choice, fields)
            }
        };
        Answered { head, exchange, cookie }
    }

    /// Holds a failure of the request's `own` against a pod of a backend, and looks for another one; whether there is one.
    ///
    /// # Errors
    ///
    /// A session's pod that refuses connections has lost its sessions: waiting for it would bring none back.
    fn note_failure(&self, route: &mut Route, failure: Failure, own: bool) -> Result<bool, Reject> {
        let Route::Backend(choice) = route else {
            return Ok(false);
        };
        let balancer = &self.proxy.balancer;
        if own && failure.is_held_against_pod(self.kind == Kind::WebSocket) {
            balancer.failed(choice);
        }
        if failure.sent || !failure.stage.is_on_the_way() {
            return Ok(false);
        }
        let another = balancer.elsewhere(choice, failure);
        if another == Another::None && choice.is_in_session() && failure.ends_sessions() {
            return Err(Reject::SessionUnknown);
        }
        Ok(another == Another::Chosen)
    }

    /// One attempt: a connection, and the exchange on it, which takes what is `unsent` and puts it back where it sent nothing.
    /// `None` where the request has to enter once more.
    async fn attempt(
        &self,
        head: &mut Parts,
        unsent: &mut Option<Upload>,
        Attempt { endpoint, now, dial, place, rerouted }: Attempt<'_>,
    ) -> Result<Option<(Head, Box<Exchange>)>, Unanswered> {
        let pool = &self.proxy.pool;
        let Some(lease) = self.tried(rerouted, pool.lease(endpoint, place, (now, dial)).await)? else {
            return Ok(None);
        };
        let upload = unsent.take().expect(UNSENT);
        let exchange = Exchange::new(lease, upload, self.patience());
        let reused = exchange.lease().was_reused();
        let answered = exchange.begin(&head.method, &mut head.headers, unsent, &self.downstream.youth).await;
        answered.map(Some).map_err(|mut failure| {
            let Failure { stage, timed_out, .. } = failure;
            // Not for a handshake that was closed without an answer, which any client can have done to it.
            if stage == Stage::Send || stage == Stage::Head && !timed_out && self.kind != Kind::WebSocket {
                pool.evict(endpoint);
            }
            if unsent.is_some() && !reused {
                // Accepted and closed at once, as a pod does that is going down: to be waited for like a refusal. But what
                // accepts may be a proxy of the pod's, or a pod that has too much to do: it has its sessions still.
                failure = Failure::of_connecting(ErrorKind::ConnectionAborted);
            }
            Unanswered { failure, own: true }
        })
    }

    /// The lease, counted as a retry where the request was `rerouted` to its pod.
    fn tried(&self, rerouted: bool, lease: Result<Option<Lease>, NoLease>) -> Result<Option<Lease>, Unanswered> {
        // A pod that somebody else has just found away has not been tried.
        let is_tried = lease.as_ref().err().is_none_or(|failed| failed.own);
        if rerouted && is_tried {
            self.proxy.metrics.retries.elsewhere.inc();
        }
        lease.map_err(|NoLease { failure, own }| Unanswered { failure, own })
    }

    /// Whether the request is a session's, which matters where places at a pod are limited.
    fn precedence(&self, route: &Route, record: &Record) -> Precedence {
        let is_in_session = match route {
            Route::Pod(_) => self.proxy.config.upstream.max_connections.is_some() && is_of_session(record.query()),
            Route::Backend(choice) => choice.is_in_session(),
        };
        if is_in_session { Precedence::Session } else { Precedence::Other }
    }

    fn patience(&self) -> Patience {
        let config = &self.proxy.config;
        Patience {
            response: config.upstream.response_timeout,
            request_body: config.downstream.request_body_idle,
            response_body: config.upstream.response_body_idle,
        }
    }

    fn endpoint(&self, route: &Route) -> Rc<Endpoint> {
        let Proxy { pool, config, .. } = &**self.proxy;
        match route {
            Route::Pod(Assignment { pod, .. }) => pool.pod(pod.as_str(), || config.routing.address_of(pod)),
            Route::Backend(choice) => self.endpoint_of(&choice.target),
        }
    }

    fn endpoint_of(&self, target: &Target) -> Rc<Endpoint> {
        let pool = &self.proxy.pool;
        match target {
            Target::Listed(member) if member.is_pod => pool.pod(&member.name, || member.address.clone()),
            Target::Listed(member) => pool.listed(&member.name, &member.address),
            Target::Unlisted { name, address } => pool.stranger(name, address),
        }
    }

    /// Asks the directory again, and waits where that has not changed anything.
    async fn before_next_attempt(
        &self,
        mut route: Route,
        head: &Parts,
        record: &mut Record,
        pause: Duration,
    ) -> Result<Route, Reject> {
        if let (Route::Pod(before), Some(room)) = (&route, record.room.clone())
            && let Some(now) = self.route_if_changed(&room, before, Some(Instant::now()), (head, record)).await?
        {
            return Ok(now);
        }
        tokio::time::sleep(pause).await;
        if let Route::Backend(choice) = &mut route {
            self.proxy.metrics.retries.waited.inc();
            self.proxy.balancer.after_pause(choice);
        }
        Ok(route)
    }

    /// Where the room is now, if that is not where it was `before`: as the directory says it, past the cache where that has to
    /// be `newer_than` something; that may be the same pod at another epoch. While it cannot be asked, or has lost the room and has no pod for it, nothing
    /// has changed.
    async fn route_if_changed(
        &self,
        room: &RoomId<'_>,
        before: &Assignment,
        newer_than: Option<Instant>,
        (head, record): (&Parts, &mut Record),
    ) -> Result<Option<Route>, Reject> {
        let resolution = self.proxy.resolver.resolve(room, Instant::now(), newer_than).await;
        let mut plan = decision::plan(false, resolution, self.proxy.config.routing.on_unassigned);
        if plan == Plan::Place {
            plan = match self.proxy.place(room).await {
                // Whoever comes next may be told so; this request has a pod, of which that says nothing.
                Err(Reject::Placement(_)) => return Ok(None),
                placed => placed?,
            };
        }
        if plan == Plan::Refuse(RoomRefusal::DirectoryUnavailable) {
            return Ok(None);
        }
        let now = self.proxy.route_of(plan, head, record)?;
        if matches!(&now, Route::Pod(now) if now == before) {
            return Ok(None);
        }
        tracing::debug!(room = room.as_str(), from = %before.pod, to = name_of(&now), "room moved while waiting");
        Ok(Some(now))
    }

    /// The response with this head and these fields; `None` where the connection is to become a tunnel.
    pub(super) fn respond(
        &self,
        answered: Answered,
        mut fields: HeaderMap,
        mut record: Box<Record>,
        offer: Option<Offer>,
    ) -> Option<Response<ResponseBody>> {
        let Answered { head, exchange, cookie } = answered;
        exchange.lease().endpoint().count(head.status);
        if head.status.as_u16() == SESSION_UNKNOWN && is_of_session(record.query()) {
            self.proxy.metrics.affinity_misses.inc();
        }
        fields.insert(X_REQUEST_ID, record.request_id().clone());
        if let Some(cookie) = cookie {
            fields.append(SET_COOKIE, cookie);
        }
        if reject::is_switch(head.status) {
            if !offer.is_some_and(|offer| head.websocket && offer.is_accepted_by(&fields)) {
                return Some(self.proxy.give_up(record, &GivenUp { reject: Reject::BadUpgrade, close: true }));
            }
            record.answer(head.status);
            let switch = switch::head(head.reason.as_deref(), &fields, SystemTime::now().into());
            self.downstream.agree(Agreed::new(self.proxy, exchange, switch, &record));
            record.complete();
            return None;
        }
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = fields;
        if let Some(reason) = head.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
            response.extensions_mut().insert(reason);
        }
        if self.downstream.doubts.takes_no_more() || exchange.turns_the_rest_away() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.proxy.say_goodbye(response.headers_mut());
        if response.headers().contains_key(UPGRADE) {
            response.headers_mut().append(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        record.answer(head.status);
        let version = record.version();
        let mut response = response.map(|()| ResponseBody::from_pod(exchange, record));
        adapt(&mut response, version);
        Some(response)
    }
}

/// How the attempts end where this was the last one, and counted for the pod.
fn unanswered_by(endpoint: &Endpoint, failure: Failure) -> Reject {
    if failure.stage.is_clients() {
        return Reject::Pod(failure);
    }
    unanswered(endpoint, Reject::Pod(failure))
}

/// The same for whatever reason, which was not the client's.
fn unanswered(endpoint: &Endpoint, reject: Reject) -> Reject {
    endpoint.count_unanswered();
    reject
}

fn name_of(route: &Route) -> &str {
    match route {
        Route::Pod(assignment) => assignment.pod.as_str(),
        Route::Backend(choice) => choice.target.name(),
    }
}

fn source_of(route: &Route) -> AffinitySource {
    match route {
        Route::Pod(_) => AffinitySource::Room,
        Route::Backend(choice) => choice.source,
    }
}

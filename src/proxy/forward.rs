//! Forwarding: attempts to reach the pod, until one is answered or there is no point in another.
//!
//! The policy is `core::decision::after_failure`; this file carries it out. Before every further attempt of a room's
//! request the directory is asked again past the cache: the room may have moved while its pod was away.

use std::rc::Rc;
use std::time::Instant;

use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Response};
use hyper::body::{Body, Incoming};
use hyper::ext::ReasonPhrase;

use super::body::ResponseBody;
use super::exchange::{Exchange, Patience, Unanswered};
use super::record::Record;
use super::reject::{self, Reject};
use super::upgrade::{self, Offer};
use super::upload::Upload;
use super::upstream::Endpoint;
use super::{Downstream, Proxy, Route};
use crate::core::assignment::{Assignment, PodId};
use crate::core::balance;
use crate::core::decision::{self, Next, Plan, RoomRefusal, Stage};
use crate::core::head::{Kind, X_REQUEST_ID};
use crate::core::room::RoomId;
use crate::core::wire::Head;
use crate::core::wire::request::{self, Added, Framing};
use crate::directory::Directory;

/// One request on its way to a pod.
pub(super) struct Forwarding<'a, D> {
    pub(super) proxy: &'a Rc<Proxy<D>>,
    pub(super) downstream: &'a Rc<Downstream>,
    pub(super) kind: Kind,
}

/// Why attempts ended without a response.
pub(super) struct GivenUp {
    /// What the client is told.
    pub(super) reject: Reject,
    /// Whether the connection has to end: the request's body may be partly unread.
    pub(super) close: bool,
}

impl<D: Directory> Forwarding<'_, D> {
    /// Sends the request to its pod and waits for the response head.
    pub(super) async fn run(
        &self,
        mut head: Parts,
        body: Incoming,
        route: Route,
        record: &mut Record,
    ) -> Result<(Head, Box<Exchange>), GivenUp> {
        let close = !body.is_end_stream();
        let upload = self.upload(&head, body, record);
        record.upload = upload.progress();
        // The request's fields are written; their map takes the response's.
        head.headers.clear();
        self.attempts(&mut head, upload, route, record).await.map_err(|reject| GivenUp { reject, close })
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
        Upload::new(request::head(head, &added), body, framing, longest, record.started())
    }

    async fn attempts(
        &self,
        head: &mut Parts,
        mut upload: Upload,
        mut route: Route,
        record: &mut Record,
    ) -> Result<(Head, Box<Exchange>), Reject> {
        let started = record.started();
        let turn = self.proxy.turn.replace(self.proxy.turn.get().wrapping_add(1));
        for attempt in 0.. {
            let endpoint = self.endpoint(&route, turn, attempt);
            record.pod = Some(endpoint.name().clone());
            upload.address(match &route {
                Route::Pod(assignment) => record.room.as_ref().map(|room| (room, assignment)),
                Route::Default => None,
            });
            let now = if attempt == 0 { started } else { Instant::now() };
            let Unanswered { failure, unsent } = match self.attempt(head, upload, &endpoint, now).await {
                Ok(answered) => return Ok(answered),
                Err(unanswered) => unanswered,
            };
            let pod_wait = self.proxy.config.upstream.pod_wait;
            let next = decision::after_failure(failure, attempt, started.elapsed(), pod_wait);
            let (Some(unsent), false) = (unsent, next == Next::GiveUp) else {
                endpoint.count_unanswered();
                return Err(Reject::Pod(failure));
            };
            upload = unsent;
            if let Next::Wait(pause) = next {
                route = Box::pin(self.before_next_attempt(route, record, pause)).await?;
            }
        }
        unreachable!("the attempts end by returning")
    }

    /// One attempt: a connection, and the exchange on it.
    async fn attempt(
        &self,
        head: &mut Parts,
        upload: Upload,
        endpoint: &Rc<Endpoint>,
        now: Instant,
    ) -> Result<(Head, Box<Exchange>), Unanswered> {
        let pool = &self.proxy.pool;
        let lease = match pool.lease(endpoint, now).await {
            Ok(lease) => lease,
            Err(failure) => return Err(Unanswered { failure, unsent: Some(upload) }),
        };
        let reused = lease.was_reused();
        let exchange = Exchange::new(lease, upload, self.patience());
        exchange.begin(&head.method, &mut head.headers, now).await.map_err(|mut unanswered| {
            if !unanswered.failure.timed_out && !unanswered.failure.stage.is_clients() {
                pool.evict(endpoint);
            }
            if unanswered.unsent.is_some() && !reused {
                // Accepted and closed at once, as a pod does that is going down: to be waited for like a refusal.
                unanswered.failure.stage = Stage::Connect;
            }
            unanswered
        })
    }

    fn patience(&self) -> Patience {
        let config = &self.proxy.config;
        Patience {
            response: config.upstream.response_timeout,
            request_body: config.downstream.request_body_idle,
            response_body: config.upstream.response_body_idle,
        }
    }

    fn endpoint(&self, route: &Route, turn: usize, attempt: u32) -> Rc<Endpoint> {
        match route {
            Route::Pod(Assignment { pod, .. }) => {
                self.proxy.pool.pod(pod.as_str(), || self.proxy.config.routing.address_of(pod))
            }
            Route::Default => {
                let backends = &self.proxy.default_backend;
                let chosen = balance::round_robin(turn, attempt as usize, backends.len())
                    .expect("a configuration has at least one default backend");
                Rc::clone(&backends[chosen])
            }
        }
    }

    /// Asks the directory again, and waits where that has not changed anything.
    async fn before_next_attempt(
        &self,
        route: Route,
        record: &mut Record,
        pause: std::time::Duration,
    ) -> Result<Route, Reject> {
        let unchanged = match (&route, record.room.clone()) {
            (Route::Pod(assignment), Some(room)) => match self.ask_again(&room).await? {
                Some(Route::Pod(now)) if now == *assignment => true,
                Some(moved) => {
                    record.source = moved.source();
                    tracing::debug!(room = room.as_str(), from = %assignment.pod, to = ?pod_of(&moved), "room moved while waiting");
                    return Ok(moved);
                }
                None => true,
            },
            (Route::Pod(_) | Route::Default, _) => true,
        };
        if unchanged {
            tokio::time::sleep(pause).await;
        }
        Ok(route)
    }

    /// The room's route by an answer that is newer than the failure; `None` while the directory cannot be asked.
    async fn ask_again(&self, room: &RoomId<'_>) -> Result<Option<Route>, Reject> {
        let now = Instant::now();
        let resolution = self.proxy.resolver.resolve(room, now, Some(now)).await;
        let mut plan = decision::plan(false, resolution, self.proxy.config.routing.on_unassigned);
        if plan == Plan::Place {
            plan = self.proxy.place(room).await?;
        }
        if plan == Plan::Refuse(RoomRefusal::DirectoryUnavailable) {
            return Ok(None);
        }
        Route::from_plan(plan).map(Some)
    }

    /// The response with this head, or the tunnel it begins.
    pub(super) fn respond(
        &self,
        head: Head,
        exchange: Box<Exchange>,
        mut record: Box<Record>,
        offer: Option<Box<Offer>>,
    ) -> Response<ResponseBody> {
        exchange.lease().endpoint().count(head.status);
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response.headers_mut().insert(X_REQUEST_ID, record.request_id().clone());
        if let Some(reason) = head.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
            response.extensions_mut().insert(reason);
        }
        if reject::is_switch(head.status) {
            let accepted = offer.filter(|offer| head.websocket && offer.is_accepted_by(response.headers()));
            let Some(on_client) = accepted.map(|offer| offer.on_client) else {
                return self.proxy.give_up(record, &GivenUp { reject: Reject::BadUpgrade, close: true });
            };
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            record.answer(head.status);
            upgrade::start(self.proxy, self.downstream, exchange, on_client, &record);
            return response.map(|()| ResponseBody::own(bytes::Bytes::new(), record));
        }
        self.proxy.say_goodbye(response.headers_mut());
        record.answer(head.status);
        response.map(|()| ResponseBody::from_pod(exchange, record))
    }
}

fn pod_of(route: &Route) -> Option<&PodId> {
    match route {
        Route::Pod(assignment) => Some(&assignment.pod),
        Route::Default => None,
    }
}

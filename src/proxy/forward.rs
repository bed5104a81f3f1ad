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
use hyper::upgrade::OnUpgrade;

use super::body::ResponseBody;
use super::exchange::{self, Exchange, Unanswered};
use super::record::Record;
use super::reject::{self, Reject};
use super::upgrade;
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
    pub(super) on_upgrade: Option<OnUpgrade>,
}

/// Why attempts ended without a response.
struct GivenUp {
    reject: Reject,
    /// Whether the request's body may be partly unread.
    body_unread: bool,
}

impl<D: Directory> Forwarding<'_, D> {
    /// Sends the request to its pod and makes the response.
    pub(super) async fn run(
        self,
        head: Parts,
        body: Incoming,
        route: Route,
        mut record: Record,
    ) -> Response<ResponseBody> {
        let has_body = !body.is_end_stream();
        let upload = self.upload(&head, body, &record);
        record.upload = upload.progress();
        match self.attempts(head, upload, route, &mut record).await {
            Ok((head, exchange)) => self.respond(head, exchange, record),
            Err(given_up) => {
                self.proxy.refuse_with(&mut record, given_up.reject);
                let close = has_body && given_up.body_unread;
                let answer = given_up.reject.answer(record.request_id().to_str().unwrap_or_default(), close);
                self.proxy.answer(record, answer)
            }
        }
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
        Upload::new(request::head(head, &added), body, framing, Instant::now())
    }

    async fn attempts(
        &self,
        mut head: Parts,
        mut upload: Upload,
        mut route: Route,
        record: &mut Record,
    ) -> Result<(Head, Exchange), GivenUp> {
        let config = &self.proxy.config.upstream;
        let started = Instant::now();
        let turn = self.proxy.turn.replace(self.proxy.turn.get().wrapping_add(1));
        // The request's fields are written; their map takes the response's.
        head.headers.clear();
        for attempt in 0.. {
            let endpoint = self.endpoint(&route, turn, attempt);
            record.pod = Some(endpoint.name().clone());
            upload.address(match &route {
                Route::Pod(assignment) => record.room.as_ref().map(|room| (room, assignment)),
                Route::Default => None,
            });
            let Unanswered { failure, unsent } = match self.attempt(&mut head, upload, &endpoint).await {
                Ok(answered) => return Ok(answered),
                Err(unanswered) => unanswered,
            };
            let next = decision::after_failure(failure, attempt, started.elapsed(), config.pod_wait);
            let (Some(unsent), false) = (unsent, next == Next::GiveUp) else {
                endpoint.metrics().count("none");
                return Err(GivenUp { reject: Reject::Pod(failure), body_unread: true });
            };
            upload = unsent;
            if let Next::Wait(pause) = next {
                route = self.before_next_attempt(route, record, pause).await?;
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
    ) -> Result<(Head, Exchange), Unanswered> {
        let pool = &self.proxy.pool;
        let lease = match pool.lease(endpoint).await {
            Ok(lease) => lease,
            Err(failure) => return Err(Unanswered { failure, unsent: Some(upload) }),
        };
        let reused = lease.was_reused();
        let timeout = self.proxy.config.upstream.response_timeout;
        let result = exchange::begin(lease, upload, &head.method, &mut head.headers, timeout).await;
        result.map_err(|mut unanswered| {
            if !unanswered.failure.timed_out && unanswered.failure.stage != Stage::Upload {
                pool.evict(endpoint);
            }
            if unanswered.unsent.is_some() && !reused {
                // Accepted and closed at once, as a pod does that is going down: to be waited for like a refusal.
                unanswered.failure.stage = Stage::Connect;
            }
            unanswered
        })
    }

    fn endpoint(&self, route: &Route, turn: usize, attempt: u32) -> Rc<Endpoint> {
        let routing = &self.proxy.config.routing;
        match route {
            Route::Pod(Assignment { pod, .. }) => self.proxy.pool.endpoint(pod.as_str(), || routing.address_of(pod)),
            Route::Default => {
                let backends = &routing.default_backend;
                let chosen = balance::round_robin(turn, attempt as usize, backends.len())
                    .expect("a configuration has at least one default backend");
                let address = &backends[chosen];
                self.proxy.pool.endpoint(&address.to_string(), || address.clone())
            }
        }
    }

    /// Asks the directory again, and waits where that has not changed anything.
    async fn before_next_attempt(
        &self,
        route: Route,
        record: &mut Record,
        pause: std::time::Duration,
    ) -> Result<Route, GivenUp> {
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
    async fn ask_again(&self, room: &RoomId<'_>) -> Result<Option<Route>, GivenUp> {
        let give_up = |reject| GivenUp { reject, body_unread: true };
        let resolution = self.proxy.resolver.resolve(room, Some(Instant::now())).await;
        let mut plan = decision::plan(false, resolution, self.proxy.config.routing.on_unassigned);
        if plan == Plan::Place {
            plan = self.proxy.place(room).await.map_err(give_up)?;
        }
        if plan == Plan::Refuse(RoomRefusal::DirectoryUnavailable) {
            return Ok(None);
        }
        Route::from_plan(plan).map(Some).map_err(give_up)
    }

    fn respond(self, head: Head, exchange: Exchange, mut record: Record) -> Response<ResponseBody> {
        exchange.lease().endpoint().metrics().count(head.status.as_str());
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response.headers_mut().insert(X_REQUEST_ID, record.request_id().clone());
        if let Some(reason) = head.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
            response.extensions_mut().insert(reason);
        }
        if reject::is_switch(head.status) {
            let Some(on_client) = self.on_upgrade.filter(|_| head.websocket) else {
                self.proxy.refuse_with(&mut record, Reject::BadUpgrade);
                let answer = Reject::BadUpgrade.answer(record.request_id().to_str().unwrap_or_default(), true);
                return self.proxy.answer(record, answer);
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

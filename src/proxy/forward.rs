//! Forwarding: attempts to reach the pod, until one is answered or there is no point in another.
//!
//! The policy is `core::decision::after_failure`; this file carries it out. Before every further attempt of a room's
//! request the directory is asked again past the cache: the room may have moved while its pod was away.

use std::rc::Rc;
use std::time::Instant;

use http::header::TRANSFER_ENCODING;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;

use super::body::{RequestBody, ResponseBody, Upload};
use super::record::Record;
use super::reject::{self, Reject};
use super::upgrade;
use super::upstream::{Endpoint, Lease, Unanswered};
use super::{Downstream, Proxy, Route};
use crate::core::assignment::{Assignment, PodId};
use crate::core::balance;
use crate::core::decision::{self, Next, Plan, RoomRefusal};
use crate::core::head::{Kind, offers_websocket};
use crate::core::headers::{self, Added};
use crate::core::room::RoomId;
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
        let (request, upload) = self.upstream_request(head, body, &record);
        record.upload = Some(Rc::clone(&upload));
        match self.attempts(request, &upload, route, &mut record).await {
            Ok((response, lease)) => self.respond(response, lease, record),
            Err(given_up) => {
                self.proxy.refuse_with(&mut record, given_up.reject);
                let close = has_body && given_up.body_unread;
                let answer = given_up.reject.answer(record.request_id().to_str().unwrap_or_default(), close);
                self.proxy.answer(record, answer)
            }
        }
    }

    fn upstream_request(&self, mut head: Parts, body: Incoming, record: &Record) -> (Request<RequestBody>, Rc<Upload>) {
        let added = Added { client: self.downstream.client, request_id: record.request_id(), kind: self.kind };
        headers::to_upstream(&mut head, &added);
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            // hyper's client sends no body with GET and HEAD unless the head says that there is one.
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let (body, upload) = RequestBody::new(body, Instant::now());
        (Request::from_parts(head, body), upload)
    }

    async fn attempts(
        &self,
        mut request: Request<RequestBody>,
        upload: &Upload,
        mut route: Route,
        record: &mut Record,
    ) -> Result<(Response<Incoming>, Lease), GivenUp> {
        let config = &self.proxy.config.upstream;
        let started = Instant::now();
        let turn = self.proxy.turn.replace(self.proxy.turn.get().wrapping_add(1));
        for attempt in 0.. {
            let endpoint = self.endpoint(&route, turn, attempt);
            record.pod = Some(Rc::clone(&endpoint).name().clone());
            self.name_room(&route, record.room.as_ref(), request.headers_mut());
            let Unanswered { failure, request: unsent } = match self.attempt(request, upload, &endpoint).await {
                Ok(answered) => return Ok(answered),
                Err(unanswered) => unanswered,
            };
            let next = decision::after_failure(failure, attempt, started.elapsed(), config.pod_wait);
            let (Some(unsent), false) = (unsent, next == Next::GiveUp) else {
                endpoint.metrics().count("none");
                return Err(GivenUp { reject: Reject::Pod(failure), body_unread: true });
            };
            request = unsent;
            if let Next::Wait(pause) = next {
                route = self.before_next_attempt(route, record, pause).await?;
            }
        }
        unreachable!("the attempts end by returning")
    }

    /// One attempt: a connection, and the exchange on it.
    async fn attempt(
        &self,
        request: Request<RequestBody>,
        upload: &Upload,
        endpoint: &Rc<Endpoint>,
    ) -> Result<(Response<Incoming>, Lease), Unanswered> {
        let pool = &self.proxy.pool;
        let lease = match pool.lease(endpoint).await {
            Ok(lease) => lease,
            Err(failure) => return Err(Unanswered { failure, request: Some(request) }),
        };
        let reused = lease.was_reused();
        let result = lease.exchange(request, upload, self.proxy.config.upstream.response_timeout).await;
        result.map_err(|mut unanswered| {
            if !unanswered.failure.timed_out {
                pool.evict(endpoint);
            }
            if unanswered.request.is_some() && !reused {
                // Accepted and closed at once, as a pod does that is going down: to be waited for like a refusal.
                unanswered.failure.stage = decision::Stage::Connect;
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

    fn name_room(&self, route: &Route, room: Option<&RoomId<'_>>, headers: &mut HeaderMap) {
        match (route, room) {
            (Route::Pod(assignment), Some(room)) => headers::name_room(headers, room, assignment),
            (Route::Pod(_) | Route::Default, _) => headers::unname_room(headers),
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

    fn respond(self, response: Response<Incoming>, lease: Lease, mut record: Record) -> Response<ResponseBody> {
        let (mut head, body) = response.into_parts();
        lease.endpoint().metrics().count(head.status.as_str());
        if reject::is_switch(head.status) {
            let asked_for = self.on_upgrade.filter(|_| offers_websocket(&head.headers));
            let Some(on_client) = asked_for else {
                self.proxy.refuse_with(&mut record, Reject::BadUpgrade);
                let answer = Reject::BadUpgrade.answer(record.request_id().to_str().unwrap_or_default(), true);
                return self.proxy.answer(record, answer);
            };
            let on_pod = head.extensions.remove::<OnUpgrade>();
            headers::switch_protocols(&mut head, record.request_id());
            record.answer(head.status);
            upgrade::start(self.proxy, self.downstream, lease, (on_client, on_pod), &record);
            return Response::from_parts(head, ResponseBody::own(bytes::Bytes::new(), record));
        }
        headers::to_downstream(&mut head, record.request_id());
        self.proxy.say_goodbye(&mut head.headers);
        head.version = Version::HTTP_11;
        record.answer(head.status);
        Response::from_parts(head, ResponseBody::from_pod(body, lease, record))
    }
}

fn pod_of(route: &Route) -> Option<&PodId> {
    match route {
        Route::Pod(assignment) => Some(&assignment.pod),
        Route::Default => None,
    }
}

//! A request's turn at a pod with `--pod-max-connections`.
//!
//! Whoever waits is not bound to where it began to wait: a request that any pod may answer goes to the one that has a place
//! first, and a room's goes where the room is by then. The directory is asked as for new requests, by way of the cache.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use prometheus::Histogram;

use super::Forwarding;
use crate::backends::Member;
use crate::core::assignment::Assignment;
use crate::core::decision::Failure;
use crate::directory::Directory;
use crate::metrics::seconds;
use crate::proxy::Route;
use crate::proxy::balance::{Choice, Target};
use crate::proxy::endpoint::Endpoint;
use crate::proxy::queue::{Place, Precedence, Ticket};
use crate::proxy::record::Record;
use crate::proxy::reject::Reject;
use crate::proxy::upstream::LOOK;

/// What a request keeps of its turn from one attempt to the next.
pub(super) struct Turn {
    /// What is left of `--pod-queue-timeout`.
    pub(super) left: Duration,
    /// Its [number](crate::proxy::queue::Queues::draw), once it has had to wait.
    number: Option<u64>,
}

/// How long a request has waited, counted when that ends: also where its client leaves first.
struct Wait<'a>(&'a Histogram, Instant);

/// How the wait of a room's request ends.
enum Waited {
    /// With a place; the room may have been assigned to its pod once more meanwhile, at another epoch.
    Entered(Place, Option<Route>),
    Moved(Route),
}

impl Turn {
    /// The turn of a request that has not waited yet.
    pub(super) fn new(left: Duration) -> Self {
        Self { left, number: None }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.observe(seconds(self.1.elapsed()));
    }
}

fn is_same(some: &[Arc<Member>], others: &[Arc<Member>]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(one, other)| Arc::ptr_eq(one, other))
}

/// Whether that is where the room was `before`, if perhaps at another epoch: no reason to give up a place in the line.
fn is_still_at(before: &Assignment, now: &Route) -> bool {
    matches!(now, Route::Pod(now) if now.pod == before.pod)
}

impl<D: Directory> Forwarding<'_, D> {
    /// A place at the request's pod, or where it may go as well; `route` and `endpoint` are that one then. What has to be
    /// waited is taken from what the turn has left, and counted as one wait, in however many lines it was.
    pub(super) async fn enter(
        &self,
        (route, endpoint): (&mut Route, &mut Rc<Endpoint>),
        (head, record): (&Parts, &mut Record),
        precedence: Precedence,
        turn: &mut Turn,
    ) -> Result<Place, Reject> {
        if let Some(entered) = self.proxy.pool.try_enter(endpoint) {
            return Ok(entered);
        }
        // Whoever leaves while it waits has waited there.
        record.pod.get_or_insert_with(|| Arc::clone(endpoint.name()));
        let number = *turn.number.get_or_insert_with(|| self.proxy.pool.draw());
        let (since, mut wait) = (Instant::now(), None);
        let (ticket, until) = (Ticket { precedence, number }, since + turn.left);
        let mut entering = pin!(self.enter_where_it_leads((route, endpoint), (head, record), ticket, until));
        let entered = poll_fn(|cx| {
            let polled = entering.as_mut().poll(cx);
            // Who is refused at once has not waited.
            if polled.is_pending() {
                wait.get_or_insert_with(|| Wait(&self.proxy.metrics.queue_duration, since));
            }
            polled
        });
        let entered = entered.await;
        if wait.is_some() {
            turn.left = until.saturating_duration_since(Instant::now());
        }
        entered
    }

    async fn enter_where_it_leads(
        &self,
        (route, endpoint): (&mut Route, &mut Rc<Endpoint>),
        (head, record): (&Parts, &mut Record),
        ticket: Ticket,
        until: Instant,
    ) -> Result<Place, Reject> {
        loop {
            // Who waits counts as well: where all are full, the shortest line is the least loaded pod's.
            let _waiting = Rc::clone(endpoint).load.begin();
            let before = match route {
                Route::Backend(choice) => {
                    return self.enter_any(choice, endpoint, ticket, until).await.map_err(Reject::Pod);
                }
                Route::Pod(before) => before,
            };
            match self.enter_or_move(before, endpoint, (head, &mut *record), ticket, until).await? {
                Waited::Entered(entered, renewed) => {
                    if let Some(renewed) = renewed {
                        *route = renewed;
                    }
                    return Ok(entered);
                }
                Waited::Moved(now) => {
                    *route = now;
                    *endpoint = self.endpoint(route);
                }
            }
        }
    }

    /// A place at whichever pod of the backend has one first, among those that would do at the time.
    async fn enter_any(
        &self,
        choice: &mut Choice,
        endpoint: &mut Rc<Endpoint>,
        ticket: Ticket,
        until: Instant,
    ) -> Result<Place, Failure> {
        let balancer = &self.proxy.balancer;
        loop {
            let others = balancer.alternatives(choice);
            let mut by_load = others.clone();
            by_load.sort_by_key(|member| member.load());
            let mut targets = vec![choice.target.clone()];
            targets.extend(by_load.into_iter().map(Target::Listed));
            let mut pods = vec![Rc::clone(endpoint)];
            pods.extend(targets[1..].iter().map(|other| self.endpoint_of(other)));
            let would_do = |number: usize| balancer.would_do(choice, &targets[number]);
            let changed = async {
                loop {
                    tokio::time::sleep(LOOK).await;
                    if !is_same(&others, &balancer.alternatives(choice)) {
                        return;
                    }
                }
            };
            let (first, place) = tokio::select! {
                biased;
                entered = self.proxy.pool.enter_first(&pods, would_do, ticket, until) => entered?,
                () = changed => continue,
            };
            if first != 0 {
                choice.settle(targets.swap_remove(first));
                *endpoint = pods.swap_remove(first);
            }
            return Ok(place);
        }
    }

    /// A place at the room's pod, or where the room has moved meanwhile.
    async fn enter_or_move(
        &self,
        before: &Assignment,
        endpoint: &Rc<Endpoint>,
        (head, record): (&Parts, &mut Record),
        ticket: Ticket,
        until: Instant,
    ) -> Result<Waited, Reject> {
        let entering = self.proxy.pool.enter_first(slice::from_ref(endpoint), |_| true, ticket, until);
        let Some(room) = record.room.clone() else {
            let entered = entering.await;
            return entered.map(|(_, entered)| Waited::Entered(entered, None)).map_err(Reject::Pod);
        };
        let entered = {
            let moved = async {
                loop {
                    tokio::time::sleep(LOOK).await;
                    let now = self.route_if_changed(&room, before, None, (head, &mut *record)).await?;
                    if let Some(now) = now.filter(|now| !is_still_at(before, now)) {
                        return Ok(now);
                    }
                }
            };
            tokio::select! {
                biased;
                entered = entering => Ok(entered),
                moved = moved => Err(moved),
            }
        };
        match entered {
            Err(moved) => moved.map(Waited::Moved),
            // Since the last look it may have moved as well, and a tunnel would stay where it is not.
            Ok(entered) => match self.route_if_changed(&room, before, None, (head, record)).await? {
                Some(now) if !is_still_at(before, &now) => Ok(Waited::Moved(now)),
                renewed => entered.map(|(_, entered)| Waited::Entered(entered, renewed)).map_err(Reject::Pod),
            },
        }
    }
}

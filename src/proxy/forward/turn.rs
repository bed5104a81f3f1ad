//! A request's turn at a pod with `--pod-max-connections`.
//!
//! Whoever waits is not bound to where it began to wait: a request that any pod may answer goes to the one that has a place
//! first, and a room's goes where the room is by then. The directory is asked as for new requests, by way of the cache.

use std::rc::Rc;
use std::slice;
use std::time::{Duration, Instant};

use http::request::Parts;

use super::Forwarding;
use crate::core::assignment::Assignment;
use crate::core::decision::Failure;
use crate::directory::Directory;
use crate::metrics::seconds;
use crate::proxy::Route;
use crate::proxy::endpoint::Endpoint;
use crate::proxy::queue::{Place, Precedence};
use crate::proxy::record::Record;
use crate::proxy::reject::Reject;

/// How often a room's request that waits for a place looks whether the room has moved.
const LOOK: Duration = Duration::from_millis(500);

/// How the wait of a room's request ends.
enum Waited {
    /// With a place; the room may have been assigned to its pod once more meanwhile, at another epoch.
    Entered(Place, Option<Route>),
    Moved(Route),
}

/// Whether that is where the room was `before`, if perhaps at another epoch: no reason to give up a place in the line.
fn is_still_at(before: &Assignment, now: &Route) -> bool {
    matches!(now, Route::Pod(now) if now.pod == before.pod)
}

impl<D: Directory> Forwarding<'_, D> {
    /// A place at the request's pod, or where it may go as well; `route` and `endpoint` are that one then. What has to be
    /// waited is taken from `left`, and counted as one wait, in however many lines it was.
    pub(super) async fn enter(
        &self,
        (route, endpoint): (&mut Route, &mut Rc<Endpoint>),
        (head, record): (&Parts, &mut Record),
        who: Precedence,
        left: &mut Duration,
    ) -> Result<Place, Reject> {
        let had = *left;
        let entered = self.enter_where_it_leads((route, endpoint), (head, record), who, left).await;
        if *left < had {
            self.proxy.metrics.queue_duration.observe(seconds(had - *left));
        }
        entered
    }

    async fn enter_where_it_leads(
        &self,
        (route, endpoint): (&mut Route, &mut Rc<Endpoint>),
        (head, record): (&Parts, &mut Record),
        who: Precedence,
        left: &mut Duration,
    ) -> Result<Place, Reject> {
        loop {
            if let Some(entered) = self.proxy.pool.try_enter(endpoint) {
                return Ok(entered);
            }
            // Who waits counts as well: where all are full, the shortest line is the least loaded pod's.
            let _waiting = Rc::clone(endpoint).load.begin();
            let Route::Pod(before) = route else {
                return self.enter_any(route, endpoint, who, left).await.map_err(Reject::Pod);
            };
            match self.enter_or_move(before, endpoint, (head, &mut *record), who, left).await? {
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

    /// A place at whichever pod of the backend has one first, among those that would do.
    async fn enter_any(
        &self,
        route: &mut Route,
        endpoint: &mut Rc<Endpoint>,
        who: Precedence,
        left: &mut Duration,
    ) -> Result<Place, Failure> {
        let balancer = &self.proxy.balancer;
        let Route::Backend(choice) = route else {
            let place = self.proxy.pool.enter_first(slice::from_ref(endpoint), |_| true, who, left).await;
            return place.map(|(_, place)| place);
        };
        let mut others = balancer.alternatives(choice);
        let mut pods = vec![Rc::clone(endpoint)];
        pods.extend(others.iter().map(|other| self.endpoint_of(other)));
        let target = |number: usize| number.checked_sub(1).map_or(&choice.target, |other| &others[other]);
        let would_do = |number| balancer.would_do(choice, target(number));
        let (first, place) = self.proxy.pool.enter_first(&pods, would_do, who, left).await?;
        if let Some(other) = first.checked_sub(1) {
            choice.settle(others.swap_remove(other));
            *endpoint = pods.swap_remove(first);
        }
        Ok(place)
    }

    /// A place at the room's pod, or where the room has moved meanwhile.
    async fn enter_or_move(
        &self,
        before: &Assignment,
        endpoint: &Rc<Endpoint>,
        (head, record): (&Parts, &mut Record),
        who: Precedence,
        left: &mut Duration,
    ) -> Result<Waited, Reject> {
        let Some(room) = record.room.clone() else {
            let entered = self.proxy.pool.enter_first(slice::from_ref(endpoint), |_| true, who, left).await;
            return entered.map(|(_, entered)| Waited::Entered(entered, None)).map_err(Reject::Pod);
        };
        let (since, had) = (Instant::now(), *left);
        let entered = {
            let moved = async {
                loop {
                    tokio::time::sleep(LOOK).await;
                    let now = self.moved(&room, before, None, (head, &mut *record)).await?;
                    if let Some(now) = now.filter(|now| !is_still_at(before, now)) {
                        return Ok(now);
                    }
                }
            };
            tokio::select! {
                biased;
                entered = self.proxy.pool.enter_first(slice::from_ref(endpoint), |_| true, who, left) => Ok(entered),
                moved = moved => Err(moved),
            }
        };
        match entered {
            Err(moved) => {
                *left = had.saturating_sub(since.elapsed());
                moved.map(Waited::Moved)
            }
            // Since the last look it may have moved as well, and a tunnel would stay where it is not.
            Ok(entered) => match self.moved(&room, before, None, (head, record)).await? {
                Some(now) if !is_still_at(before, &now) => Ok(Waited::Moved(now)),
                renewed => entered.map(|(_, entered)| Waited::Entered(entered, renewed)).map_err(Reject::Pod),
            },
        }
    }
}

//! What a request has to pass before it is routed: limits that are off unless somebody asked for them.

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use hyper::body::{Body, Incoming};

use super::Proxy;
use super::balance::{Choice, Target};
use super::record::Record;
use crate::core::admission::Refusal;
use crate::core::assignment::{Answer, Resolution};
use crate::core::head::Kind;
use crate::core::prefix::Prefix;
use crate::core::rate;
use crate::core::room::RoomId;
use crate::core::session::AffinitySource;
use crate::directory::Directory;
use crate::limits::Limiter;

impl<D: Directory> Proxy<D> {
    /// Whether the request of the client at this address may go on.
    pub(super) fn admit(&self, head: &Parts, client: IpAddr, kind: Kind, body: &Incoming) -> Result<(), Refusal> {
        self.take_turn(head, client)?;
        let limits = &self.config.downstream;
        if kind == Kind::WebSocket
            && let Some(origins) = &limits.allowed_origins
            && !origins.allow(&head.headers)
        {
            return Err(Refusal::Origin);
        }
        // A body that does not say how long it is is counted as it comes (`upload`).
        match limits.max_body {
            Some(longest) if body.size_hint().lower() > longest => Err(Refusal::BodyTooLarge),
            _ => Ok(()),
        }
    }

    /// Counts the request against each rate that applies to it, or, as nginx does, against none where one is used up.
    fn take_turn(&self, head: &Parts, client: IpAddr) -> Result<(), Refusal> {
        let rules = &self.limits.requests;
        if rules.is_empty() {
            return Ok(());
        }
        let client = Prefix::of(client);
        let mut taken = Vec::new();
        for index in rate::rules_for(head.uri.path(), rules.iter().map(|(scope, _)| scope.as_str())) {
            let limiter = &rules[index].1;
            match limiter.take(client) {
                Ok(turn) => taken.push((limiter, turn)),
                Err(exceeded) => {
                    taken.into_iter().for_each(|(limiter, turn)| limiter.give_back(turn));
                    return Err(Refusal::RateLimited(u32::try_from(index + 1).unwrap_or(u32::MAX), exceeded));
                }
            }
        }
        Ok(())
    }

    /// Counts a pod that only the client's `sid` speaks of as something it asks for and nobody knows: DNS is asked, and who
    /// makes names up could have it asked for all that there may be. Not one that has been reached lately, nor one that a
    /// cookie names: that was signed by a replica that listed the pod, so nobody without the key can make one up.
    pub(super) fn admit_stranger(&self, choice: &Choice, client: IpAddr) -> Result<(), Refusal> {
        match (&self.limits.lookups, &choice.target) {
            (Some(limiter), Target::Unlisted { name, .. })
                if choice.source == AffinitySource::Sid && !self.pool.knows(name) =>
            {
                limiter.take(Prefix::of(client)).map(drop).map_err(Refusal::UnknownRooms)
            }
            _ => Ok(()),
        }
    }

    /// The room's pod by the directory, as far as the client may ask it.
    pub(super) async fn look_up(&self, room: &RoomId<'_>, record: &mut Record) -> Result<Resolution, Refusal> {
        let resolution = match &self.limits.lookups {
            None => Ok(self.resolver.resolve(room, record.started(), None).await),
            Some(limiter) => self.look_up_sparingly(limiter, room, record).await,
        };
        record.route_awaited();
        resolution
    }

    /// The same for a client that may not ask for many rooms which the directory does not know. Only those count in the
    /// end: whoever has many rooms may ask for them all. While it is not known which it is, it counts, or as many as there
    /// are connections could be asked for at once. Which it is does not depend on the client's patience, so it is found out
    /// in a task of its own: who hangs up gets back what was not spent, and no more.
    async fn look_up_sparingly(
        &self,
        limiter: &Arc<Limiter>,
        room: &RoomId<'_>,
        record: &Record,
    ) -> Result<Resolution, Refusal> {
        let client = Prefix::of(record.client());
        let turn = match limiter.take(client) {
            Ok(turn) => turn,
            // A room that was known a moment ago is no guess: who shares an address with a guesser stays in it.
            Err(wait) => match self.resolver.last_known(room) {
                known @ Resolution::Stale(_) => return Ok(known),
                Resolution::Fresh(_) | Resolution::Unknown => return Err(Refusal::UnknownRooms(wait)),
            },
        };
        let (resolver, limiter) = (self.resolver.clone(), Arc::clone(limiter));
        let (room, started) = (room.clone().into_owned(), record.started());
        let asking = tokio::task::spawn_local(async move {
            let resolution = resolver.resolve(&room, started, None).await;
            if !matches!(resolution, Resolution::Fresh(Answer::Unassigned | Answer::Unusable(_))) {
                limiter.give_back(turn);
            }
            resolution
        });
        // It ends unanswered only with its thread.
        Ok(asking.await.unwrap_or(Resolution::Unknown))
    }
}

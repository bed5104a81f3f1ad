//! What a request has to pass before it is routed: limits that are off unless somebody asked for them.

use std::net::IpAddr;

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

    /// Counts the request against the rate that applies to it, if one does.
    fn take_turn(&self, head: &Parts, client: IpAddr) -> Result<(), Refusal> {
        let rules = &self.limits.requests;
        if rules.is_empty() {
            return Ok(());
        }
        let Some(index) = rate::scope_of(head.uri.path(), rules.iter().map(|(scope, _)| scope.as_str())) else {
            return Ok(());
        };
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        rules[index].1.take(Prefix::of(client)).map_err(|exceeded| Refusal::RateLimited(number, exceeded))
    }

    /// Counts a pod that only the client's `sid` speaks of as something it asks for and nobody knows: DNS is asked, and who
    /// makes names up could have it asked for all that there may be. Not one that has been reached lately.
    pub(super) fn admit_stranger(&self, choice: &Choice, client: IpAddr) -> Result<(), Refusal> {
        match (&self.limits.lookups, &choice.target) {
            (Some(limiter), Target::Unlisted { name, .. }) if !self.pool.knows(name) => {
                limiter.take(Prefix::of(client)).map_err(Refusal::UnknownRooms)
            }
            _ => Ok(()),
        }
    }

    /// The room's pod by the directory, which is not asked for a client that has asked for too many rooms it did not
    /// know. Only those count in the end: whoever has many rooms may ask for them all. While it is not known which it is,
    /// it counts, or as many as there are connections could be asked for at once.
    pub(super) async fn look_up_sparingly(
        &self,
        limiter: &Limiter,
        room: &RoomId<'_>,
        record: &Record,
    ) -> Result<Resolution, Refusal> {
        let client = Prefix::of(record.client());
        if let Err(wait) = limiter.take(client) {
            // A room that was known a moment ago is no guess: who shares an address with a guesser stays in it.
            return match self.resolver.last_known(room) {
                known @ Resolution::Stale(_) => Ok(known),
                Resolution::Fresh(_) | Resolution::Unknown => Err(Refusal::UnknownRooms(wait)),
            };
        }
        let resolution = self.resolver.resolve(room, record.started(), None).await;
        if !matches!(resolution, Resolution::Fresh(Answer::Unassigned | Answer::Unusable(_))) {
            limiter.give_back(client);
        }
        Ok(resolution)
    }
}

//! What a request has to pass before it is routed: limits that are off unless somebody asked for them.

use http::request::Parts;
use hyper::body::{Body, Incoming};

use super::Proxy;
use crate::core::admission::Refusal;
use crate::core::head::Kind;
use crate::directory::Directory;

impl<D: Directory> Proxy<D> {
    /// Whether the request may go on.
    pub(super) fn admit(&self, head: &Parts, kind: Kind, body: &Incoming) -> Result<(), Refusal> {
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
}

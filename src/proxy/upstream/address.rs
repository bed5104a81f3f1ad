//! Where the name of a pod leads: the load and the queue of the address that its connections reach, and which of them are good.
//!
//! A pod may come back at another address under its name while its connections to the old one live on. Whoever waits for a
//! place there must not wait for theirs to end: the name is looked up again, in DNS' own cache, only where there is none free.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Pool;
use crate::backends::Load;
use crate::proxy::endpoint::Endpoint;

impl Pool {
    /// Looks where the name leads, and who comes from now on waits there. No answer says nothing.
    pub(super) async fn follow(&self, endpoint: &Endpoint) {
        let Some(reached) = endpoint.reached.borrow().as_ref().map(|(address, _)| *address) else {
            return;
        };
        let Ok(addresses) = self.dns.resolve(&endpoint.address).await else {
            return;
        };
        endpoint.lead_to(Arc::clone(&addresses));
        if !addresses.contains(&reached)
            && let Some(next) =
                addresses.iter().find(|address| !endpoint.confined || self.config.may_dial(address.ip()))
        {
            self.count_by_address(endpoint, *next);
        }
    }

    /// Takes up what others have been told of where the name leads: who is served by kept connections never dials. Nobody is
    /// asked. A backend's own name is looked up all the time.
    pub(super) fn look_where_it_leads(&self, endpoint: &Endpoint) {
        if endpoint.counts_by_address()
            && let Some(addresses) = self.dns.known_addresses(&endpoint.address)
        {
            endpoint.lead_to(addresses);
        }
    }

    /// The load of the address that was reached: where a headless name lists it, the backends know the pod by nothing else.
    /// From now on who comes to the endpoint waits in that address' queue.
    pub(super) fn count_by_address(&self, endpoint: &Endpoint, reached: SocketAddr) -> Load {
        let mut last = endpoint.reached.borrow_mut();
        if let Some((_, load)) = last.as_ref().filter(|(address, _)| *address == reached) {
            return load.clone();
        }
        let name: Arc<str> = reached.to_string().into();
        if self.config.max_connections.is_some() {
            *endpoint.queue.borrow_mut() = self.queues.of(&name, &self.config);
        }
        let load = self.backends.load(&name);
        *last = Some((reached, load.clone()));
        load
    }
}

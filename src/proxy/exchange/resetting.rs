//! An exchange's hold on its connection, which says how that ends where the exchange is dropped.
//!
//! The socket is told when it is dropped and not when it might be: most requests with a body never need it.

use std::ops::{Deref, DerefMut};

use super::Lease;

/// A lease, until it is taken out.
#[derive(Debug)]
pub(super) struct Resetting {
    /// There until [`Self::into_lease`].
    lease: Option<Lease>,
    /// Whether dropping it resets the pod's connection, as amid a request's body: a FIN would wait behind what the pod does
    /// not take, and so tell it of a client that has gone when it reads on, if ever.
    pub(super) resets: bool,
}

const HELD: &str = "whoever takes the lease out gives up what it was in";

impl Resetting {
    pub(super) fn new(lease: Lease) -> Self {
        Self { lease: Some(lease), resets: false }
    }

    /// The lease, whose connection goes on.
    pub(super) fn into_lease(mut self) -> Lease {
        self.lease.take().expect(HELD)
    }
}

impl Deref for Resetting {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        self.lease.as_ref().expect(HELD)
    }
}

impl DerefMut for Resetting {
    fn deref_mut(&mut self) -> &mut Lease {
        self.lease.as_mut().expect(HELD)
    }
}

impl Drop for Resetting {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.as_ref().filter(|_| self.resets) {
            lease.reset_on_drop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use socket2::SockRef;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::proxy::upstream::tests::{lease, pool};

    #[tokio::test]
    async fn only_what_is_dropped_amid_a_request_is_reset() {
        let pod = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let (pool, address) = (pool(), pod.local_addr().expect("a bound socket").to_string());
        let endpoint = pool.listed("pod", &address.parse().expect("an address"));
        for (resets, end) in [(false, Ok(0)), (true, Err(ErrorKind::ConnectionReset))] {
            let mut held = Resetting::new(lease(&pool, &endpoint).await.expect("somebody listens"));
            let (mut on_pod, _) = pod.accept().await.expect("it was dialled");
            held.resets = resets;
            assert_eq!(SockRef::from(&*held.stream()).linger().expect("a live socket"), None);
            drop(held);
            assert_eq!(on_pod.read(&mut [0]).await.map_err(|error| error.kind()), end);
        }
    }
}

//! Through real peers: ingresses in front (Debian's nginx and HAProxy), servers behind (Node, aiohttp, uvicorn,
//! `websockets`, python-socketio), and Chromium as the client.
//!
//! What is expected is not written down: every exchange is made twice, straight to the peer behind and through the
//! router, and the two have to be alike ([`contract`]). What differs on purpose stands there in a short list, which the
//! documentation repeats (`src/conformance.rs`).

mod browser;
mod contract;
mod ingress;
mod servers;
mod streams;

use std::net::SocketAddr;

use crate::support::{RealPod, Redis, Router};

/// The room of all these tests, on `backend-0`.
const ROOM: &str = "room_a";

/// A real pod and a router in front of it.
struct Behind {
    router: Router,
    pod: RealPod,
    _redis: Redis,
}

impl Behind {
    /// Starts a program of `tests/node` or `tests/python`. The router believes nobody but 127.0.0.1, where the ingresses
    /// of these tests are.
    #[track_caller]
    fn start(program: &str) -> Self {
        let (redis, pod) = (Redis::start(), RealPod::start(program, "backend-0", &[]));
        redis.assign(ROOM, 0);
        let router = Router::builder()
            .redis(&redis)
            .arg("--pod", pod.flag())
            .arg("--default-backend", pod.addr().to_string())
            .arg("--trusted-proxies", "127.0.0.1/32")
            .start_ready();
        Self { router, pod, _redis: redis }
    }

    /// Straight to the pod, and through the router.
    fn ways(&self) -> [SocketAddr; 2] {
        [self.pod.addr(), self.router.addr()]
    }
}

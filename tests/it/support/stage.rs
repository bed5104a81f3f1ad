//! The usual arrangement: a Redis, two pods, a default backend and a router before them.

use super::{Client, Pod, Pods, Redis, Response, Router};

/// The room that a stage starts out with, on `backend-0`.
pub(crate) const ROOM: &str = "room_a";

/// `backend-0` and `backend-1` under their names, and a third pod, `any`, as the default backend.
pub(crate) struct Stage {
    // Declared, and so dropped, before what it talks to.
    pub(crate) router: Router,
    pub(crate) redis: Redis,
    pub(crate) pods: Pods,
    pub(crate) any: Pod,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With these arguments for the router; [`ROOM`] is assigned to `backend-0`.
    #[track_caller]
    pub(crate) fn with(args: &[&str]) -> Self {
        Self::with_env(args, &[])
    }

    /// The same, and with these variables.
    #[track_caller]
    pub(crate) fn with_env(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let (redis, pods, any) = (Redis::start(), Pods::start(2), Pod::start("any"));
        redis.assign(ROOM, 0);
        let builder = variables.iter().fold(Router::builder(), |builder, (name, value)| builder.env(name, *value));
        let router = builder.redis(&redis).pod(&pods[0]).pod(&pods[1]).default_backend([&any]).args(args).start_ready();
        Self { router, redis, pods, any }
    }

    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        self.router.client()
    }

    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Response {
        self.router.get(target)
    }

    /// These bytes on a connection of their own.
    #[track_caller]
    pub(crate) fn request(&self, bytes: impl AsRef<[u8]>) -> Response {
        self.router.request(bytes)
    }
}

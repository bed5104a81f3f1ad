//! One connection to Redis, or to a Sentinel: opened, asked whether it still answers, closed on drop.
//!
//! What becomes of whoever uses it when it ends is for them to say; how long an answer is waited for, and how soon the next
//! connection is tried, is the same for all.

use std::pin::pin;
use std::time::Duration;

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, ServerInterface};
use fred::types::ConnectHandle;
use fred::types::config::Options;
use tokio::time::{sleep, timeout};

use super::settings::Settings;
use super::words::in_words;
use crate::directory::DirectoryError;

/// One attempt to connect, over all Sentinels and primaries. Each step has a shorter deadline of its own.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two pings.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(500);

/// Parts that a time limit is waited for in, at most. A command takes a thread that is behind three turns: to write it, to read
/// what is answered, and to come back to whoever has asked. A question may have two.
const MOST_PARTS: u32 = 8;

/// The shortest such part: the runtime's clock counts milliseconds, and each part may be one longer.
const LEAST_PART: Duration = Duration::from_millis(10);

/// Between two attempts, doubling from the first to the second, less up to half of it at random. No longer,
/// so that a server that is back is asked again within a second or so.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A client with its one connection, closed on drop.
pub(super) struct Session {
    pub(super) client: Client,
    /// Ends with the connection.
    connection: ConnectHandle,
}

/// What lies between two attempts to connect: more while they fail.
#[derive(Default)]
pub(super) struct Pause {
    failures: u32,
}

// === impl Session ===

impl Session {
    /// Connects; the connection has answered a ping then.
    pub(super) async fn open(settings: &Settings, attempt: usize) -> Result<Self, String> {
        let client = settings.client(attempt);
        let connection = client.connect();
        let mut session = Self { client, connection };
        let patient = Options { timeout: Some(OPEN_TIMEOUT), ..Options::default() };
        let ping = session.client.with_options(&patient);
        // The ping waits in the client's queue until there is a connection. One that cannot be opened ends the
        // connection's task, which knows better why.
        let opened = tokio::select! {
            biased;
            why = session.ended() => Err(why),
            pong = ping.ping::<()>(None) => pong.map_err(|error| in_words(&error)),
        };
        opened.map(|()| session).map_err(|why| settings.comment(why))
    }

    /// Waits for the end of the connection, and says why it ended. Not to be called again then.
    pub(super) async fn ended(&mut self) -> String {
        match (&mut self.connection).await {
            Ok(Ok(())) => "the connection was closed".to_owned(),
            Ok(Err(error)) => in_words(&error),
            Err(error) => format!("fred's task ended: {error}"),
        }
    }

    /// The master that a Sentinel has led to, as `host:port` in its words; nothing without Sentinels.
    pub(super) fn master(&self) -> Option<String> {
        self.client.sentinel_primary().map(|server| format!("{}:{}", server.host, server.port))
    }

    /// Asks whether Redis still answers: in a Cluster, each of its primaries.
    pub(super) async fn ping(&self) -> Result<(), Error> {
        if !self.client.is_clustered() {
            return self.client.ping(None).await;
        }
        for server in self.client.active_connections() {
            let there = Options { cluster_node: Some(server), ..Options::default() };
            self.client.with_options(&there).ping::<()>(None).await?;
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

// === impl Pause ===

impl Pause {
    /// Waits for the next attempt after one that has succeeded or not.
    pub(super) async fn after(&mut self, has_succeeded: bool) {
        self.failures = if has_succeeded { 0 } else { self.failures + 1 };
        sleep(backoff(self.failures, fastrand::f64())).await;
    }
}

/// Waits for an answer, but for no longer than `limit` where the thread is on time. The limit is waited for in parts, and each
/// begins when the thread has come to the end of the one before: a thread that a storm of connections keeps busy, or that is
/// not let run for a while, hears late what Redis has said long ago, and would take its own lateness for Redis'.
pub(super) async fn within<T>(limit: Duration, answer: impl Future<Output = T>) -> Option<T> {
    let parts = u32::try_from(limit.as_millis() / LEAST_PART.as_millis()).unwrap_or(MOST_PARTS).clamp(1, MOST_PARTS);
    let mut answer = pin!(answer);
    for _ in 0..parts {
        if let Ok(answer) = timeout(limit / parts, answer.as_mut()).await {
            return Some(answer);
        }
    }
    None
}

/// What an error other than a timeout means: a connection that failed, or an answer that says no. In a Cluster a slot may
/// be on its way, which is no refusal.
pub(super) fn unanswered(error: &Error, clustered: bool) -> DirectoryError {
    let on_its_way = clustered && matches!(error.kind(), ErrorKind::Routing | ErrorKind::Cluster);
    if on_its_way || matches!(error.kind(), ErrorKind::IO | ErrorKind::Canceled) {
        DirectoryError::Unavailable(in_words(error))
    } else {
        DirectoryError::Refused(error.details().to_owned())
    }
}

/// How long to wait before the next attempt; `roll` is from 0 to 1.
fn backoff(failures: u32, roll: f64) -> Duration {
    let (least, most) = BACKOFF;
    let full = least.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most);
    full.mul_f64(1.0 - roll / 2.0)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::yield_now;

    use super::*;

    /// Each turn of the thread takes longer than there is time for an answer, which has come after two commands.
    #[tokio::test]
    async fn a_thread_that_is_late_has_its_turns_all_the_same() {
        let limit = 8 * LEAST_PART;
        let answer = async {
            for _ in 0..6 {
                std::thread::sleep(limit);
                yield_now().await;
            }
        };
        assert_eq!(within(limit, answer).await, Some(()));
        for limit in [Duration::ZERO, LEAST_PART / 10, limit] {
            assert_eq!(within(limit, pending::<()>()).await, None);
        }
    }

    #[test]
    fn attempts_come_slower_and_slower_but_never_slower_than_one_a_second() {
        let waits: Vec<u128> = (0..8).map(|failures| backoff(failures, 0.0).as_millis()).collect();
        assert_eq!(waits, [100, 100, 200, 400, 800, 1000, 1000, 1000]);
        assert_eq!(backoff(u32::MAX, 1.0), Duration::from_millis(500));
    }
}

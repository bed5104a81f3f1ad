//! One connection to Redis, or to a Sentinel: opened, asked whether it still answers, closed on drop.
//!
//! What becomes of whoever uses it when it ends, and what comes after it, is for them to say.

use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, ServerInterface};
use fred::types::ConnectHandle;
use fred::types::config::Options;

use super::settings::Settings;
use super::words::in_words;

/// One attempt to connect, over all Sentinels and primaries. Each step has a shorter deadline of its own.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A client with its one connection, closed on drop.
pub(super) struct Session {
    pub(super) client: Client,
    /// Ends with the connection.
    connection: ConnectHandle,
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

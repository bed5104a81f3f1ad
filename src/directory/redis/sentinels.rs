//! Which server the Sentinels take for the master, asked for as long as the process lives.
//!
//! A master that hung for some seconds, or that an operator has had replaced (`SENTINEL FAILOVER`), goes on answering
//! whoever is connected to it until Sentinel gets to make it a replica, some ten seconds later: then everything it was
//! told meanwhile is lost. It knows nothing of that, only the Sentinels do, and fred asks them when it connects and
//! never again. So each Sentinel of the URL is asked twice a second here, over a connection that all threads share, and
//! the links leave any server but the one that is known here.
//!
//! Sentinels differ for a moment after a failover, and one that is cut off from the others for as long as it is. Each
//! failover raises the configuration's epoch, so the answer with the highest one holds (Sentinel's documentation,
//! "Configuration epochs").

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::error::Error;
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand};
use tokio::sync::watch;
use tokio::time::sleep;

use super::consent::Consent;
use super::session::{PING_INTERVAL, Pause, Session, unanswered, within};
use super::settings::Settings;
use crate::directory::DirectoryError;

/// How long after it was last heard of a configuration gives way to one that is no later: that of Sentinels which
/// were set up anew and count from the beginning. A cut-off one hears of the later one long before, or is still cut off.
const FORGET: Duration = Duration::from_secs(10);

/// What the Sentinels have said, for all links.
pub(super) struct Sentinels {
    master: watch::Sender<Option<Master>>,
    /// Whether they may be asked: a user of theirs may lack the right.
    pub(super) consent: Consent,
}

/// The master, by the latest configuration that is known.
#[derive(Debug)]
struct Master {
    /// `host:port`, as the Sentinels announce it.
    server: String,
    /// The configuration's epoch.
    epoch: u64,
    heard: Instant,
}

// === impl Sentinels ===

impl Default for Sentinels {
    fn default() -> Self {
        Self { master: watch::Sender::default(), consent: Consent::new("sentinel") }
    }
}

impl Sentinels {
    /// Spawns a task for each Sentinel there is.
    pub(super) fn watch(self: &Arc<Self>, settings: &Settings) {
        if let Some((name, sentinels)) = settings.sentinels() {
            for sentinel in sentinels {
                tokio::spawn(Arc::clone(self).watch_one(sentinel, name.clone()));
            }
        }
    }

    /// The master, where it is known to be another than `server`.
    pub(super) fn master_instead_of(&self, server: &str) -> Option<String> {
        let known = self.master.borrow();
        known.as_ref().filter(|master| master.server != server).map(|master| master.server.clone())
    }

    /// Waits until the master is another than `server`, and says which: for ever where `server` was not found by Sentinels.
    pub(super) async fn replacement(&self, server: Option<&str>) -> String {
        let Some(server) = server else { return std::future::pending().await };
        let mut master = self.master.subscribe();
        loop {
            if let Some(other) = self.master_instead_of(server) {
                return other;
            }
            // The sender is ours, so the wait cannot fail.
            let _ = master.changed().await;
        }
    }

    /// Asks one Sentinel again and again, over one connection after the other.
    async fn watch_one(self: Arc<Self>, settings: Settings, name: String) {
        let mut pause = Pause::default();
        loop {
            let opened = Session::open(&settings, 0).await;
            let is_open = opened.is_ok();
            let why = match opened {
                Ok(session) => self.listen(&session, &settings, &name).await,
                Err(why) => why,
            };
            tracing::debug!(sentinel = settings.servers(), why, "a Sentinel does not say who is master");
            pause.after(is_open).await;
        }
    }

    /// Learns from an open connection, for as long as it answers; why it does not.
    async fn listen(&self, session: &Session, settings: &Settings, name: &str) -> String {
        loop {
            let Some(answer) = within(settings.timeout, master_of(session, name)).await else {
                return "no answer within --redis-timeout".to_owned();
            };
            match self.consent.note(answer.map_err(|error| unanswered(&error, false))) {
                Ok((server, epoch)) => self.learn(Master { server, epoch, heard: Instant::now() }),
                // It goes on being one that can be asked: whoever gives the right ends this.
                Err(DirectoryError::Refused(_)) => {}
                Err(error) => return error.to_string(),
            }
            sleep(PING_INTERVAL).await;
        }
    }

    /// Takes over what one Sentinel has said, where it is as late as what is known. Of two that name one configuration
    /// differently (`announce-hostnames` is not the same for both) the first is right, or the links would change sides all the
    /// time. They wake for another master only.
    fn learn(&self, said: Master) {
        self.master.send_if_modified(|known| {
            let is_other = known.as_ref().is_none_or(|known| known.server != said.server);
            let holds = |known: &Master| {
                let is_behind = said.epoch < known.epoch || said.epoch == known.epoch && is_other;
                is_behind && said.heard - known.heard < FORGET
            };
            if known.as_ref().is_some_and(holds) {
                return false;
            }
            *known = Some(said);
            is_other
        });
    }
}

/// The master's address and its configuration's epoch, by this Sentinel. Both are asked for at once, so that no failover
/// comes between them; the address by itself, because what `SENTINEL MASTER` has of it is the old one for as long as the other
/// replicas are being told of the new.
async fn master_of(session: &Session, name: &str) -> Result<(String, u64), Error> {
    let pipeline = session.client.pipeline();
    for question in ["MASTER", "GET-MASTER-ADDR-BY-NAME"] {
        let sentinel = CustomCommand::new_static("SENTINEL", ClusterHash::default(), false);
        // Only queued here.
        let () = pipeline.custom(sentinel, vec![question, name]).await?;
    }
    let (about, (host, port)): (HashMap<String, String>, (String, u16)) = pipeline.all().await?;
    // They begin at 0: one that cannot be read holds against none.
    let epoch = about.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Ok((format!("{host}:{port}"), epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_configuration_holds_until_nobody_has_it_any_more() {
        let sentinels = Sentinels::default();
        let start = Instant::now();
        let mut links = sentinels.master.subscribe();
        for (second, server, epoch, expected, wakes) in [
            (0, "a:1", 3, "a:1", true),
            (1, "b:1", 4, "b:1", true),
            (2, "a:1", 3, "b:1", false),
            (5, "b:1", 4, "b:1", false),
            (14, "a:1", 3, "b:1", false),
            (15, "a:1", 3, "a:1", true),
            (16, "a:1", 4, "a:1", false),
            (17, "b:1", 4, "a:1", false),
            (18, "b:1", 5, "b:1", true),
        ] {
            let heard = start + Duration::from_secs(second);
            sentinels.learn(Master { server: server.to_owned(), epoch, heard });
            for server in ["a:1", "b:1"] {
                let other = (server != expected).then(|| expected.to_owned());
                assert_eq!(sentinels.master_instead_of(server), other, "after {second} s");
            }
            assert_eq!(links.has_changed().expect("the sender is there"), wakes, "after {second} s");
            links.mark_unchanged();
        }
    }
}

//! The directory in Redis: what is asked of it, and how the answers are read.
//!
//! Only this module and its children name fred. `settings` makes fred's configuration of a URL, `session` is one
//! connection, `link` keeps a thread's and knows whether it is up, `sentinels` knows which server it has to lead to,
//! `outlook` sees all links, `words` says what went wrong; here are the three questions of [`Directory`]. Nothing is
//! cached, retried or decided here: the resolver does that, over any directory.
//!
//! # What Redis has to be
//!
//! Version 5 or later. All commands touch one key each, so they work in a Cluster as they do on one server.
//! A Redis user of the router's own needs `+getrange +get +exists +eval +set +time +ping` (and `+select` for a
//! database other than 0; `+cluster +client|id` in a Cluster; `+role` behind Sentinel) on `~room:*` and `~pod:*`.
//! A user of the Sentinels needs `+ping +sentinel|get-master-addr-by-name +sentinel|sentinels +sentinel|master`.
//! What it may not do is asked for all the same, and refused in Redis' own words (`consent`).
//!
//! `rediss` trusts the authorities the system trusts, or those in the file `SSL_CERT_FILE` names.
//!
//! The tests run Redis 7.0: one server with and without password, user and TLS; Sentinel with failovers; a
//! Cluster with a moving slot and a hanging primary. TLS to Sentinels and Clusters is not tested: there the
//! certificates have to be valid for the addresses Sentinels and nodes announce, usually IP addresses.
//!
//! # Threads
//!
//! A handle has a connection, on the runtime where it was started; [`Directory::attach`] makes one for another thread, so
//! that a lookup is written, answered and waited for on one core. (Asked across threads, through one connection, a lookup
//! cost a third more: each way is a task handed over and a thread woken by a system call.) What is known of Redis
//! beyond the connection, whether it refuses and what the log has said, all handles share.

mod consent;
mod link;
mod outlook;
mod sentinels;
mod session;
mod settings;
#[cfg(test)]
mod tests;
mod words;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{KeysInterface, LuaInterface};

use self::consent::Consent;
use self::link::Link;
use self::outlook::Outlook;
use self::sentinels::Sentinels;
use self::settings::Settings;
use super::{Directory, DirectoryError, nobodys_room};
use crate::config::{KeyTemplate, RedisConfig};
use crate::core::assignment::{Answer, Assignment, BadAssignment, Epoch, Heartbeat, MAX_VALUE_LEN, PodId, StatefulSet};
use crate::core::room::RoomId;

/// Heartbeats asked for at a time.
const HEARTBEAT_BATCH: u16 = 32;

/// Pods whose heartbeats are looked for, from ordinal 0 up. Behind the first batch an empty one ends the search earlier.
const MAX_PODS: u16 = 1024;

/// Between two lookups that only try whether they are still refused.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Gives a room to a pod unless its key exists, and returns what holds afterwards.
///
/// `KEYS[1]` is the room's key, `ARGV[1]` the value with the epoch 0, `ARGV[2]` the longest value that is
/// read, `ARGV[3]` the least epoch. The epoch is Redis' own clock in milliseconds, so that replicas with different clocks
/// agree on which assignment came later; the least one, where that clock has gone back since the room was last assigned.
/// (It is written as it came: as a number Lua has 53 bits of it, enough to compare it with a clock.) Run again it changes
/// nothing: what it wrote the first time holds.
///
/// Sent whole every time: a room is claimed once, and `EVALSHA` would need a fallback for every Redis that
/// has been restarted or failed over since. (`SET NX GET` does without a script, on Redis 7 and later, but not
/// without our clock.)
const CLAIM: &str = r#"
if redis.call('EXISTS', KEYS[1]) == 0 then
  local now = redis.call('TIME')
  local epoch = now[1] .. string.format('%03d', math.floor(now[2] / 1000))
  if tonumber(ARGV[3]) > tonumber(epoch) then epoch = ARGV[3] end
  redis.call('SET', KEYS[1], (string.gsub(ARGV[1], '"assignedAt":0', '"assignedAt":' .. epoch)))
end
return redis.call('GETRANGE', KEYS[1], 0, ARGV[2])
"#;

/// Asks for everything [`CLAIM`] asks for and changes nothing: `XX` sets what exists, and this does not. A script is
/// undivided, so nobody comes in between.
const TRY_CLAIMING: &str = r#"
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('TIME')
  redis.call('SET', KEYS[1], '', 'XX')
end
return redis.call('GETRANGE', KEYS[1], 0, 0)
"#;

/// Redis, shared by all replicas and the backends, over this handle's connection. Cheap to clone.
#[derive(Clone)]
pub struct RedisDirectory {
    link: Arc<Link>,
    common: Arc<Common>,
}

/// What the handles of all threads share.
struct Common {
    settings: Arc<Settings>,
    sentinels: Arc<Sentinels>,
    outlook: Arc<Outlook>,
    room_key: KeyTemplate,
    statefulset: StatefulSet,
    lookups: Consent,
    claims: Consent,
    beats: Consent,
    /// The pods whose heartbeat could not be read the last time.
    unreadable: Mutex<Vec<PodId>>,
}

impl RedisDirectory {
    /// A directory that has not connected yet; every question has to be answered within `timeout`.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the URL, without any part of it: it may hold a password.
    pub fn new(config: &RedisConfig, timeout: Duration, statefulset: StatefulSet) -> Result<Self, String> {
        let settings = Arc::new(Settings::new(config.url.reveal(), timeout)?);
        Ok(Self::over(Arc::new(Common {
            settings,
            sentinels: Arc::default(),
            outlook: Arc::default(),
            room_key: config.room_key.clone(),
            statefulset,
            lookups: Consent::new("lookup"),
            claims: Consent::new("claim"),
            beats: Consent::new("heartbeats"),
            unreadable: Mutex::default(),
        })))
    }

    /// A handle with a connection of its own, not started yet.
    fn over(common: Arc<Common>) -> Self {
        let Common { settings, sentinels, outlook, .. } = &*common;
        let link = Link::new(Arc::clone(settings), Arc::clone(sentinels), Arc::clone(outlook));
        Self { link: Arc::new(link), common }
    }

    /// Connects, and stays connected until the runtime this is called on ends; sees to it that a Redis that refuses lookups
    /// is noticed before a user meets it, and a master that is none any more before rooms are placed there. A second call
    /// does nothing.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or on one without a clock or sockets.
    pub fn start(&self) {
        if Link::start(&self.link) {
            self.common.sentinels.watch(&self.common.settings);
            tokio::spawn(self.clone().try_lookups());
        }
    }

    /// Looks for a room that nobody has: at first, so that a refusal is known before a user meets it, and while lookups
    /// are refused, so that the end of that is known without one. What they say is noted where they are made.
    async fn try_lookups(self) {
        self.first_contact().await;
        let room = &nobodys_room();
        drop(self.lookup(room).await);
        loop {
            self.common.lookups.refusal().await;
            while self.common.lookups.is_refused() {
                tokio::time::sleep(TRY_AGAIN).await;
                drop(self.lookup(room).await);
            }
        }
    }
}

impl Directory for RedisDirectory {
    fn attach(&self) -> Self {
        let attached = Self::over(Arc::clone(&self.common));
        Link::start(&attached.link);
        attached
    }

    async fn lookup(&self, room: &RoomId<'_>) -> Result<Answer, DirectoryError> {
        let key = &self.common.room_key.key(room);
        let question = |client| async move { self.common.read(value_of(&client, key).await) };
        self.common.lookups.note(self.link.ask(question).await)
    }

    async fn claim(&self, room: &RoomId<'_>, pod: &PodId, least: Epoch) -> Result<Answer, DirectoryError> {
        let key = &self.common.room_key.key(room);
        let value = &Assignment { pod: pod.clone(), epoch: Epoch(0) }.encode();
        let question = |client: Client| async move {
            let (longest, least) = (MAX_VALUE_LEN.to_string(), least.to_string());
            self.common.read(client.eval(CLAIM, key, vec![value, &longest, &least]).await.map(Some))
        };
        self.common.claims.note(self.link.ask(question).await)
    }

    async fn try_claiming(&self) -> Result<(), DirectoryError> {
        let key = &self.common.room_key.key(&nobodys_room());
        let question = |client: Client| async move { client.eval(TRY_CLAIMING, key, "").await };
        self.common.claims.note(self.link.ask::<Bytes, _>(question).await).map(drop)
    }

    async fn heartbeats(&self) -> Result<Vec<(PodId, Heartbeat)>, DirectoryError> {
        let question = |client| async move { heartbeats(&client, &self.common.statefulset).await };
        let (found, unreadable) = self.common.beats.note(self.link.ask(question).await)?;
        self.common.tell_unreadable(unreadable);
        Ok(found)
    }

    fn is_up(&self) -> bool {
        self.link.is_up()
    }

    fn answers(&self) -> bool {
        self.is_up() && self.common.outlook.is_clear() && !self.common.lookups.is_refused()
    }

    async fn first_contact(&self) {
        self.link.first_contact().await;
    }
}

impl Common {
    /// What a room's value means; `None` is no value.
    fn read(&self, value: Result<Option<Bytes>, Error>) -> Result<Answer, Error> {
        match value {
            Ok(Some(value)) => Ok(Answer::decode(&value, &self.statefulset)),
            Ok(None) => Ok(Answer::Unassigned),
            Err(error) if is_wrong_type(&error) => Ok(Answer::Unusable(BadAssignment::WrongType)),
            Err(error) => Err(error),
        }
    }

    /// Warns of heartbeats that cannot be read, when they become others than the last time: such a pod counts as none.
    fn tell_unreadable(&self, pods: Vec<PodId>) {
        let mut last = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if !pods.is_empty() && *last != pods {
            let names: Vec<_> = pods.iter().map(PodId::as_str).collect();
            tracing::warn!(pods = names.join(","), "unreadable heartbeat");
        }
        *last = pods;
    }
}

/// The value of a key, cut off one byte past the longest usable one.
///
/// `GETRANGE` rather than `GET`, so that a megabyte somebody wrote there never travels. It says "" for a key
/// that is missing as well as for one that is empty; only then a `GET` tells them apart (and is right by
/// itself if the room was assigned in between). A room that is assigned costs one round trip.
async fn value_of(client: &Client, key: &str) -> Result<Option<Bytes>, Error> {
    let value: Bytes = client.getrange(key, 0, MAX_VALUE_LEN).await?;
    if value.is_empty() { client.get(key).await } else { Ok(Some(value)) }
}

/// The heartbeats of the pods 0, 1, 2…, a batch at a time while the last batch had any; and the pods whose heartbeat is no
/// JSON object, or has a number that is none.
///
/// The ordinals are known, so the keys are: no `SCAN`, which would walk through every room's key. Scaling
/// down leaves gaps only at the end, and a pod that is down keeps its last heartbeat. Where the first batch has none, the
/// StatefulSet may begin further up (`spec.ordinals.start`): then all others are asked for in one round trip, because one
/// for each batch would take longer than a question may.
async fn heartbeats(
    client: &Client,
    statefulset: &StatefulSet,
) -> Result<(Vec<(PodId, Heartbeat)>, Vec<PodId>), Error> {
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    let mut ordinals = 0..HEARTBEAT_BATCH;
    while !ordinals.is_empty() {
        let pods: Vec<PodId> = ordinals.clone().map(|ordinal| statefulset.nth(ordinal)).collect();
        let values = values_of(client, pods.iter().map(|pod| format!("pod:{pod}:metrics"))).await?;
        let is_empty = values.iter().all(|value| value.as_ref().is_some_and(Bytes::is_empty));
        for (pod, value) in pods.into_iter().zip(values) {
            match value.as_deref().map(|value| (value, decode_heartbeat(value))) {
                Some((b"", _)) => {}
                Some((_, Some(beat))) => found.push((pod, beat)),
                Some((_, None)) | None => unreadable.push(pod),
            }
        }
        let next = ordinals.end;
        ordinals = match (is_empty, ordinals.start) {
            (false, _) => next..(next + HEARTBEAT_BATCH).min(MAX_PODS),
            (true, 0) => next..MAX_PODS,
            (true, _) => break,
        };
    }
    Ok((found, unreadable))
}

/// The values of several keys in one round trip: "" for a missing one, `None` for one of another type.
async fn values_of(client: &Client, keys: impl Iterator<Item = String>) -> Result<Vec<Option<Bytes>>, Error> {
    let pipeline = client.pipeline();
    for key in keys {
        // Only queued here; cut off as rooms' values are.
        let () = pipeline.getrange(key, 0, MAX_VALUE_LEN).await?;
    }
    let values = pipeline.try_all::<Bytes>().await.into_iter();
    values
        .map(|value| match value {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_wrong_type(&error) => Ok(None),
            Err(error) => Err(error),
        })
        .collect()
}

/// A pod's heartbeat; nothing if it is not the JSON object it should be.
fn decode_heartbeat(value: &[u8]) -> Option<Heartbeat> {
    // serde would also read a struct from an array of its fields' values.
    let is_object = value.trim_ascii_start().first() == Some(&b'{');
    is_object.then(|| serde_json::from_slice(value).ok()).flatten()
}

/// Whether the key holds a list, a hash or the like. A script's error has the code further inside (Redis 6).
fn is_wrong_type(error: &Error) -> bool {
    error.details().contains("WRONGTYPE")
}

//! The directory as the request path sees it: cached, bounded, never waited for longer than allowed.
//!
//! Rules, from the contract:
//! - An assignment is used for `--cache-ttl` without asking again; "unassigned" and "unusable" for
//!   `--cache-negative`.
//! - However many requests want a room at once, the directory is asked once (single flight). The question outlives
//!   whoever asked first: a client that hangs up must not fail the others.
//! - While the directory cannot be asked, the last assignment is used until `--cache-ttl` + `--cache-stale` after it
//!   was last confirmed; then the answer is that nothing is known, never a guess.
//! - Heartbeats, too, are asked for once, whoever needs them: a directory that hangs holds up nobody for longer than
//!   `--redis-timeout`, the deadline that each answer of a [`Directory`] keeps by itself.
//! - For one room an epoch is never followed by a lower one while the higher one is remembered: a replica of Redis
//!   that lags, or a raced reply, must not send a room back to its old pod; nor must they by way of "unassigned".

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use quick_cache::sync::Cache;

use super::heartbeats::Heartbeats;
use super::memory::now_ms;
use super::{Directory, DirectoryError, SKEW_MS};
use crate::config::DirectoryConfig;
use crate::core::assignment::{Answer, Assignment, Epoch, Heartbeat, PodId, Resolution};
use crate::core::placement::Limits;
use crate::core::room::RoomId;
use crate::metrics::{Metrics, seconds};
use crate::single_flight::{Joined, SingleFlight};

/// The resolver, as one thread has it: a way of its own to the directory, and what all threads know. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Resolver<D> {
    directory: D,
    known: Arc<Known>,
}

/// What all threads share.
#[derive(Debug)]
struct Known {
    policy: DirectoryConfig,
    cache: Cache<RoomId<'static>, Entry>,
    /// Held by whoever remembers an answer, so that nothing comes between the look at the last one and the insertion.
    learning: Mutex<()>,
    lookups: SingleFlight<Key, Resolution>,
    placements: SingleFlight<Key, Result<Resolution, PlacementError>>,
    heartbeats: Heartbeats,
    /// One at a time, for all placements and `/health/cluster`.
    beats_asked: SingleFlight<(), Result<(), DirectoryError>>,
    metrics: Arc<Metrics>,
}

/// A room that is asked about: shared by all that have to do with the question.
type Key = Arc<RoomId<'static>>;

/// What is remembered of a room.
#[derive(Clone, Debug)]
struct Entry {
    answer: Answer,
    /// When the directory was last asked: decides freshness.
    asked: Instant,
    /// When it last said this: decides how long it may be used stale.
    confirmed: Instant,
    /// For an answer that is no assignment: the last one before it, and when that was confirmed.
    before: Option<Box<(Assignment, Instant)>>,
    /// The lower epoch that the directory last went back to from the last assignment, if it has. Boxed: few ever do.
    below: Option<Box<Epoch>>,
}

/// What an answer brings that the log may have to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// Nothing: the epoch is known, or a later answer is.
    None,
    /// It is new as a whole.
    Answer,
    /// It goes back to a lower epoch, and is not followed.
    Regression,
    /// It is still there, or once more.
    SameRegression,
}

/// Why a new room could not be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacementError {
    /// Every pod is at a limit, or none has been heard of.
    NoCapacity,
    /// The directory cannot be asked.
    DirectoryUnavailable,
}

// === impl Entry ===

impl Entry {
    /// The last assignment this tells of, and when it was confirmed.
    fn last_assignment(&self) -> Option<(Assignment, Instant)> {
        match &self.answer {
            Answer::Assigned(assignment) => Some((assignment.clone(), self.confirmed)),
            Answer::Unassigned | Answer::Unusable(_) => self.before.as_deref().cloned(),
        }
    }

    /// What a lower `epoch` is after this: news only where the directory had been up to date until now, and not where it has
    /// been at that one before, as where one replica lags and another does not.
    fn regression(&self, epoch: Epoch) -> News {
        let is_at_one = self.confirmed != self.asked;
        if is_at_one || self.below.as_deref() == Some(&epoch) { News::SameRegression } else { News::Regression }
    }
}

// === impl Resolver ===

impl<D: Directory> Resolver<D> {
    /// A resolver that asks `directory` from this thread.
    pub fn new(directory: D, policy: DirectoryConfig, metrics: Arc<Metrics>) -> Self {
        let known = Arc::new(Known {
            cache: Cache::new(policy.capacity),
            learning: Mutex::default(),
            policy,
            lookups: SingleFlight::default(),
            placements: SingleFlight::default(),
            heartbeats: Heartbeats::default(),
            beats_asked: SingleFlight::default(),
            metrics,
        });
        Self { directory, known }
    }

    /// The same, for the thread this is called on and its runtime: what others have learnt it knows, what it asks it asks
    /// from here.
    pub fn attach(&self) -> Self {
        Self { directory: self.directory.attach(), known: Arc::clone(&self.known) }
    }

    /// The directory behind it.
    pub fn directory(&self) -> &D {
        &self.directory
    }

    /// How many rooms are remembered.
    pub fn cached_rooms(&self) -> usize {
        self.known.cache.len()
    }

    /// The room's pod as far as it can be known now. With `newer_than`, only an answer to a question asked after that
    /// moment will do: how a failed connection asks past the cache.
    pub async fn resolve(&self, room: &RoomId<'_>, now: Instant, newer_than: Option<Instant>) -> Resolution {
        if let Some(known) = self.counted(room, now, newer_than) {
            return known;
        }
        // Boxed: most requests do not come here, and the future of a request is as large as its largest branch.
        Box::pin(self.ask(room, newer_than)).await
    }

    /// The room's pod, where the directory need not be asked for it.
    pub fn recall(&self, room: &RoomId<'_>, now: Instant) -> Option<Resolution> {
        self.counted(room, now, None)
    }

    /// The room's last assignment, as it may be used while the directory cannot be asked.
    pub fn last_known(&self, room: &RoomId<'_>) -> Resolution {
        let known = self.known.without_directory(room, Instant::now());
        if matches!(known, Resolution::Stale(_)) {
            self.known.metrics.lookups.stale.inc();
        }
        known
    }

    /// The remembered answer, where it is still fresh: counted as such.
    fn counted(&self, room: &RoomId<'_>, now: Instant, newer_than: Option<Instant>) -> Option<Resolution> {
        let lookups = &self.known.metrics.lookups;
        let answer = self.known.remembered(room, now, newer_than)?;
        let result = if matches!(answer, Answer::Assigned(_)) { &lookups.hit } else { &lookups.negative };
        result.inc();
        Some(Resolution::Fresh(answer))
    }

    /// Joins the question under way, or asks; counted by what came of it, and by the cache where that has got an answer since.
    async fn ask(&self, room: &RoomId<'_>, newer_than: Option<Instant>) -> Resolution {
        let key = Key::new(room.clone().into_owned());
        loop {
            if !self.directory.is_up() {
                return self.counted_miss(self.known.without_directory(room, Instant::now()));
            }
            let known = || self.counted(room, Instant::now(), newer_than);
            let joined = self.known.lookups.join(&key, known, |room| {
                let resolver = self.clone();
                // Boxed where it begins: it would be moved several times, and a question to Redis is large.
                async move { Box::pin(resolver.look_up(&room)).await }
            });
            match joined {
                Joined::Known(resolution) => return resolution,
                Joined::Begun(leading) => return self.counted_miss(leading.await.unwrap_or(Resolution::Unknown)),
                Joined::UnderWay(mut flight) => {
                    let landed = flight.land().await;
                    if let Some(resolution) = landed
                        && newer_than.is_none_or(|moment| flight.started() > moment)
                    {
                        return self.counted_miss(resolution);
                    }
                }
            }
        }
    }

    /// What the cache had no answer for: a question to the directory came to this, whoever put it, or could not be put.
    fn counted_miss(&self, resolution: Resolution) -> Resolution {
        let lookups = &self.known.metrics.lookups;
        match resolution {
            Resolution::Fresh(_) => lookups.miss.inc(),
            Resolution::Stale(_) => lookups.stale.inc(),
            Resolution::Unknown => lookups.error.inc(),
        }
        resolution
    }

    /// Places an unassigned room: chooses a pod by the heartbeats and claims the room for it. Whoever wins a race, what
    /// holds afterwards is the answer.
    ///
    /// # Errors
    ///
    /// No pod has space, or the directory cannot be asked.
    pub async fn place(&self, room: &RoomId<'_>, limits: Limits, roll: u64) -> Result<Resolution, PlacementError> {
        let key = Key::new(room.clone().into_owned());
        let known = || {
            let answer = self.known.remembered(room, Instant::now(), None)?;
            matches!(answer, Answer::Assigned(_)).then_some(Ok(Resolution::Fresh(answer)))
        };
        let question = |room: Key| {
            let resolver = self.clone();
            async move { resolver.choose_and_claim(&room, limits, roll).await }
        };
        let placed = self.known.placements.answer(&key, known, question).await;
        placed.unwrap_or(Err(PlacementError::DirectoryUnavailable))
    }

    /// The pods' heartbeats, at most a second old.
    ///
    /// # Errors
    ///
    /// The directory cannot be asked.
    pub async fn heartbeats(&self) -> Result<Vec<(PodId, Heartbeat)>, DirectoryError> {
        self.refresh().await?;
        Ok(self.known.heartbeats.last())
    }

    /// Sees to it that the heartbeats are fresh. Whoever comes while they are asked for waits for that answer, however it
    /// turns out, and so for no longer than `--redis-timeout`.
    async fn refresh(&self) -> Result<(), DirectoryError> {
        let known = || self.known.heartbeats.are_fresh().then_some(Ok(()));
        let question = |()| {
            let Self { directory, known } = self.clone();
            async move {
                let pods = directory.heartbeats().await?;
                known.heartbeats.learn(pods, now_ms(), Instant::now());
                Ok(())
            }
        };
        self.known.beats_asked.answer(&(), known, question).await.unwrap_or(Err(DirectoryError::Timeout))
    }

    async fn look_up(&self, room: &RoomId<'_>) -> Resolution {
        let asked = Instant::now();
        let answer = self.directory.lookup(room).await;
        self.known.metrics.directory_duration.observe(seconds(asked.elapsed()));
        match answer {
            Ok(answer) => Resolution::Fresh(self.known.learn(room, answer, asked)),
            Err(error) => {
                tracing::debug!(room = room.as_str(), %error, "lookup failed");
                self.known.without_directory(room, Instant::now())
            }
        }
    }

    async fn choose_and_claim(
        &self,
        room: &RoomId<'_>,
        limits: Limits,
        roll: u64,
    ) -> Result<Resolution, PlacementError> {
        self.refresh().await.map_err(|_| PlacementError::DirectoryUnavailable)?;
        let heartbeats = &self.known.heartbeats;
        let pod = heartbeats.choose(limits, now_ms(), roll).ok_or(PlacementError::NoCapacity)?;
        let asked = Instant::now();
        // A claim without an answer may have been heard all the same, and counts.
        let claimed = self.directory.claim(room, &pod, self.known.next_epoch(room)).await;
        let answer = claimed.map_err(|_| PlacementError::DirectoryUnavailable)?;
        if !matches!(&answer, Answer::Assigned(assignment) if assignment.pod == pod) {
            heartbeats.undo(&pod);
        }
        Ok(Resolution::Fresh(self.known.learn(room, answer, asked)))
    }
}

// === impl Known ===

impl Known {
    /// The remembered answer, where it is still fresh.
    fn remembered(&self, room: &RoomId<'_>, now: Instant, newer_than: Option<Instant>) -> Option<Answer> {
        let entry = self.cache.get(room.as_str())?;
        let lifetime = match entry.answer {
            Answer::Assigned(_) => self.policy.ttl,
            Answer::Unassigned | Answer::Unusable(_) => self.policy.negative,
        };
        let new_enough = newer_than.is_none_or(|moment| entry.asked > moment);
        (new_enough && now.saturating_duration_since(entry.asked) < lifetime).then_some(entry.answer)
    }

    /// What is left to go by while the directory cannot be asked.
    fn without_directory(&self, room: &RoomId<'_>, now: Instant) -> Resolution {
        match self.cache.get(room.as_str()) {
            Some(Entry { answer: Answer::Assigned(assignment), confirmed, .. })
                if self.may_be_stale(confirmed, now) =>
            {
                Resolution::Stale(assignment)
            }
            _ => Resolution::Unknown,
        }
    }

    /// The least epoch that this room's next assignment can have, and be followed. One that is ahead by mistake is not gone
    /// above: it would be there for good, where it is forgotten once nobody remembers it.
    fn next_epoch(&self, room: &RoomId<'_>) -> Epoch {
        let last = self.cache.get(room.as_str()).and_then(|entry| entry.last_assignment());
        let last = last.filter(|(last, _)| last.epoch.0.saturating_sub(now_ms()) <= SKEW_MS);
        last.map_or(Epoch(0), |(last, _)| Epoch(last.epoch.0.saturating_add(1)))
    }

    fn may_be_stale(&self, confirmed: Instant, now: Instant) -> bool {
        now.saturating_duration_since(confirmed) < self.policy.ttl + self.policy.stale
    }

    /// Remembers an answer, unless it goes back in time; returns what is to be used.
    fn learn(&self, room: &RoomId<'_>, answer: Answer, asked: Instant) -> Answer {
        let (answer, news) = self.remember(room, answer, asked);
        // The log is told with the lock free: other rooms' answers need not wait for it. And here it is told, not for each
        // request that an answer refuses.
        if matches!(news, News::Regression | News::SameRegression) {
            self.metrics.epoch_regressions.inc();
        }
        match (news, &answer) {
            (News::SameRegression, Answer::Assigned(Assignment { pod, epoch })) => {
                tracing::debug!(room = room.as_str(), %pod, %epoch, "the directory is still at a lower epoch");
            }
            (News::Regression, Answer::Assigned(Assignment { pod, epoch })) => {
                tracing::warn!(room = room.as_str(), %pod, %epoch, "the directory went back to a lower epoch; keeping the higher one");
            }
            (News::Answer, Answer::Assigned(Assignment { pod, epoch }))
                if epoch.0.saturating_sub(now_ms()) > SKEW_MS =>
            {
                tracing::warn!(room = room.as_str(), %pod, assigned_at = epoch.0, "assignedAt is more than a day ahead: nothing lower is followed while it is remembered");
            }
            (News::Answer, Answer::Unusable(why)) => {
                let (reason, why) = (why.as_str(), why.sentence());
                tracing::warn!(room = room.as_str(), reason, why, "unusable directory value");
            }
            (News::Answer | News::Regression | News::SameRegression | News::None, _) => {}
        }
        answer
    }

    /// The part of it that is under the lock: what is to be used, and what is new about it.
    fn remember(&self, room: &RoomId<'_>, answer: Answer, asked: Instant) -> (Answer, News) {
        let _learning = self.learning.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.cache.get(room.as_str());
        let last = held.as_ref().and_then(Entry::last_assignment);
        let seen = last.as_ref().map(|(last, _)| last.epoch);
        let last = last.filter(|(_, confirmed)| self.may_be_stale(*confirmed, asked));
        let mut news = News::Answer;
        let mut entry = Entry { answer, asked, confirmed: asked, before: None, below: None };
        match (&entry.answer, last, &held) {
            (Answer::Assigned(new), Some((last, confirmed)), Some(held)) if last.epoch > new.epoch => {
                (entry.below, news) = (Some(Box::new(new.epoch)), held.regression(new.epoch));
                (entry.answer, entry.confirmed) = (Answer::Assigned(last), confirmed);
            }
            (Answer::Assigned(new), Some((last, _)), _) if last.epoch < new.epoch => {}
            // A claim, say, was answered while this question was under way.
            (_, _, Some(held)) if held.asked > asked => return (held.answer.clone(), News::None),
            (Answer::Assigned(new), _, _) if seen == Some(new.epoch) => news = News::None,
            (Answer::Assigned(_), _, _) => {}
            (Answer::Unassigned | Answer::Unusable(_), last, _) => entry.before = last.map(Box::new),
        }
        let told = held.and_then(|held| held.below).filter(|_| entry.below.is_none());
        if told.is_some() && entry.last_assignment().map(|(last, _)| last.epoch) == seen {
            entry.below = told;
        }
        let answer = entry.answer.clone();
        self.cache.insert(room.clone().into_owned(), entry);
        (answer, news)
    }
}

#[cfg(test)]
mod tests;

//! Time is never waited for here: a lifetime of zero has always passed, one of an hour never.

mod placing;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::Semaphore;

use super::*;
use crate::config::DirectoryKind;
use crate::core::assignment::{BadAssignment, Epoch, StatefulSet};

const HOUR: Duration = Duration::from_secs(3600);

/// A directory that says what the test wants, and counts how often it was asked.
#[derive(Clone, Debug)]
struct Scripted(Arc<Script>);

#[derive(Debug)]
struct Script {
    answer: Mutex<Result<Answer, DirectoryError>>,
    asked: AtomicUsize,
    up: AtomicBool,
    /// Each lookup, and each question for heartbeats, takes a permit: with none left it hangs, until its deadline.
    gate: Semaphore,
}

impl Script {
    async fn pass(&self) -> Result<(), DirectoryError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let permit = tokio::time::timeout(Duration::from_millis(50), self.gate.acquire()).await;
        permit.map_err(|_| DirectoryError::Timeout)?.expect("never closed").forget();
        Ok(())
    }
}

impl Directory for Scripted {
    fn attach(&self) -> Self {
        self.clone()
    }

    async fn lookup(&self, _: &RoomId<'_>) -> Result<Answer, DirectoryError> {
        self.0.pass().await?;
        self.0.answer.lock().expect("no panic").clone()
    }

    async fn claim(&self, _: &RoomId<'_>, pod: &PodId, least: Epoch) -> Result<Answer, DirectoryError> {
        let mut answer = self.0.answer.lock().expect("no panic");
        if *answer == Ok(Answer::Unassigned) {
            *answer = Ok(Answer::Assigned(Assignment { pod: pod.clone(), epoch: Epoch(1).max(least) }));
        }
        answer.clone()
    }

    async fn heartbeats(&self) -> Result<Vec<(PodId, Heartbeat)>, DirectoryError> {
        self.0.pass().await?;
        let beat = Heartbeat { last_update: now_ms(), ..Heartbeat::default() };
        Ok((0..3).map(|ordinal| (pod(ordinal), beat)).collect())
    }

    fn is_up(&self) -> bool {
        self.0.up.load(Ordering::SeqCst)
    }

    async fn first_contact(&self) {}
}

fn pod(ordinal: u16) -> PodId {
    StatefulSet::parse("backend").expect("a name").nth(ordinal)
}

fn assigned(ordinal: u16, epoch: u64) -> Answer {
    Answer::Assigned(Assignment { pod: pod(ordinal), epoch: Epoch(epoch) })
}

fn room(name: &str) -> RoomId<'_> {
    RoomId::parse(name).expect("a room")
}

struct Case {
    script: Arc<Script>,
    resolver: Resolver<Scripted>,
    metrics: Arc<Metrics>,
}

impl Case {
    fn new(ttl: Duration, stale: Duration, negative: Duration, first: Answer) -> Self {
        let script = Arc::new(Script {
            answer: Mutex::new(Ok(first)),
            asked: AtomicUsize::new(0),
            up: AtomicBool::new(true),
            gate: Semaphore::new(1000),
        });
        let kind = DirectoryKind::Memory;
        let policy = DirectoryConfig { kind, timeout: Duration::from_millis(50), ttl, stale, negative, capacity: 100 };
        let metrics = Arc::new(Metrics::new());
        let resolver = Resolver::new(Scripted(Arc::clone(&script)), policy, Arc::clone(&metrics));
        Self { script, resolver, metrics }
    }

    fn says(&self, answer: Result<Answer, DirectoryError>) {
        *self.script.answer.lock().expect("no panic") = answer;
    }

    async fn resolves(&self) -> Resolution {
        self.resolver.resolve(&room("room_a"), Instant::now(), None).await
    }

    fn asked(&self) -> usize {
        self.script.asked.load(Ordering::SeqCst)
    }
}

fn away() -> Result<Answer, DirectoryError> {
    Err(DirectoryError::Unavailable("gone".to_owned()))
}

#[tokio::test]
async fn a_fresh_assignment_is_not_asked_for_again() {
    let case = Case::new(HOUR, HOUR, Duration::ZERO, assigned(1, 10));
    for _ in 0..3 {
        assert_eq!(case.resolves().await, Resolution::Fresh(assigned(1, 10)));
    }
    assert_eq!(case.asked(), 1);
    assert_eq!((case.metrics.lookups.miss.get(), case.metrics.lookups.hit.get()), (1, 2));
}

#[tokio::test]
async fn an_expired_assignment_is_asked_for_again() {
    let case = Case::new(Duration::ZERO, HOUR, Duration::ZERO, assigned(1, 10));
    case.resolves().await;
    case.says(Ok(assigned(2, 11)));
    assert_eq!(case.resolves().await, Resolution::Fresh(assigned(2, 11)));
    assert_eq!(case.asked(), 2);
}

#[tokio::test]
async fn unassigned_and_unusable_are_remembered_for_their_own_time() {
    for answer in [Answer::Unassigned, Answer::Unusable(BadAssignment::ForeignPod)] {
        let remembering = Case::new(Duration::ZERO, HOUR, HOUR, answer.clone());
        remembering.resolves().await;
        assert_eq!(remembering.resolves().await, Resolution::Fresh(answer.clone()));
        assert_eq!((remembering.asked(), remembering.metrics.lookups.negative.get()), (1, 1));
        let forgetful = Case::new(HOUR, HOUR, Duration::ZERO, answer);
        forgetful.resolves().await;
        forgetful.resolves().await;
        assert_eq!(forgetful.asked(), 2);
    }
}

#[tokio::test]
async fn however_many_ask_the_directory_is_asked_once() {
    let case = Case::new(HOUR, HOUR, HOUR, assigned(1, 10));
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let resolver = case.resolver.clone();
            tokio::spawn(async move { resolver.resolve(&room("room_a"), Instant::now(), None).await })
        })
        .collect();
    for asking in asking {
        assert_eq!(asking.await.expect("no panic"), Resolution::Fresh(assigned(1, 10)));
    }
    assert_eq!(case.asked(), 1);
    assert!(case.resolver.known.lookups.is_idle());
}

/// The hit rate is by requests: who waits for another's question has found nothing in the cache either.
#[tokio::test]
async fn who_waits_for_a_question_has_missed_and_who_finds_its_answer_has_not() {
    for (answer, is_hit) in [(assigned(1, 10), true), (Answer::Unassigned, false)] {
        let case = Case::new(HOUR, HOUR, HOUR, answer.clone());
        case.script.gate.forget_permits(1000);
        let opens = async { case.script.gate.add_permits(1) };
        let (first, second, ()) = tokio::join!(case.resolves(), case.resolves(), opens);
        let fresh = Resolution::Fresh(answer);
        assert_eq!((&first, &second, case.asked()), (&fresh, &fresh, 1));
        // As one that looked before the answer came, and asks after it.
        assert_eq!(case.resolver.ask(&room("room_a"), None).await, fresh);
        let lookups = &case.metrics.lookups;
        let counts = [&lookups.miss, &lookups.hit, &lookups.negative].map(IntCounter::get);
        assert_eq!((counts, case.asked()), ([2, u64::from(is_hit), u64::from(!is_hit)], 1));
    }
}

#[tokio::test]
async fn the_first_askers_death_does_not_fail_the_others() {
    let case = Case::new(HOUR, HOUR, HOUR, assigned(1, 10));
    case.script.gate.forget_permits(1000);
    let resolver = case.resolver.clone();
    let first = tokio::spawn(async move { resolver.resolve(&room("room_a"), Instant::now(), None).await });
    while case.asked() == 0 {
        tokio::task::yield_now().await;
    }
    let resolver = case.resolver.clone();
    let second = tokio::spawn(async move { resolver.resolve(&room("room_a"), Instant::now(), None).await });
    first.abort();
    case.script.gate.add_permits(1);
    assert_eq!(second.await.expect("no panic"), Resolution::Fresh(assigned(1, 10)));
    assert_eq!(case.asked(), 1);
}

#[tokio::test]
async fn a_directory_that_is_away_leaves_the_last_assignment_for_a_while() {
    let case = Case::new(Duration::ZERO, HOUR, Duration::ZERO, assigned(1, 10));
    case.resolves().await;
    case.says(away());
    assert_eq!(case.resolves().await, Resolution::Stale(Assignment { pod: pod(1), epoch: Epoch(10) }));
    assert_eq!(case.resolver.resolve(&room("room_b"), Instant::now(), None).await, Resolution::Unknown);
    assert_eq!((case.metrics.lookups.stale.get(), case.metrics.lookups.error.get()), (1, 1));

    let case = Case::new(Duration::ZERO, Duration::ZERO, Duration::ZERO, assigned(1, 10));
    case.resolves().await;
    case.says(away());
    assert_eq!(case.resolves().await, Resolution::Unknown, "--cache-stale is over");
}

#[tokio::test]
async fn a_directory_known_to_be_away_is_not_asked() {
    let case = Case::new(Duration::ZERO, HOUR, Duration::ZERO, assigned(1, 10));
    case.resolves().await;
    case.script.up.store(false, Ordering::SeqCst);
    assert_eq!(case.resolves().await, Resolution::Stale(Assignment { pod: pod(1), epoch: Epoch(10) }));
    assert_eq!(case.asked(), 1);
}

#[tokio::test]
async fn a_directory_that_hangs_until_its_deadline_is_not_asked_on() {
    let case = Case::new(HOUR, HOUR, HOUR, assigned(1, 10));
    case.script.gate.forget_permits(1000);
    assert_eq!(case.resolves().await, Resolution::Unknown);
    assert!(case.resolver.known.lookups.is_idle(), "the question is over too");
}

#[tokio::test]
async fn an_answer_from_before_the_failure_will_not_do() {
    let case = Case::new(HOUR, HOUR, HOUR, assigned(1, 10));
    case.resolves().await;
    case.says(Ok(assigned(2, 11)));
    let failed_at = Instant::now();
    let again = case.resolver.resolve(&room("room_a"), Instant::now(), Some(failed_at)).await;
    assert_eq!(again, Resolution::Fresh(assigned(2, 11)));
    assert_eq!(
        case.resolver.resolve(&room("room_a"), Instant::now(), Some(failed_at)).await,
        again,
        "one answer serves all that failed"
    );
    assert_eq!(case.asked(), 2);
}

#[tokio::test]
async fn a_lower_epoch_is_not_followed_while_the_higher_one_is_remembered() {
    let case = Case::new(Duration::ZERO, HOUR, Duration::ZERO, assigned(2, 11));
    case.resolves().await;
    case.says(Ok(assigned(1, 10)));
    assert_eq!(case.resolves().await, Resolution::Fresh(assigned(2, 11)));
    assert_eq!(case.metrics.epoch_regressions.get(), 1);
    case.says(Ok(assigned(3, 11)));
    assert_eq!(
        case.resolves().await,
        Resolution::Fresh(assigned(3, 11)),
        "an equal epoch is the directory's to decide"
    );

    let case = Case::new(Duration::ZERO, Duration::ZERO, Duration::ZERO, assigned(2, 11));
    case.resolves().await;
    case.says(Ok(assigned(1, 10)));
    assert_eq!(case.resolves().await, Resolution::Fresh(assigned(1, 10)), "nothing is held for ever");
}

#[tokio::test]
async fn what_is_no_assignment_does_not_make_a_lower_epoch_good() {
    for between in [Answer::Unassigned, Answer::Unusable(BadAssignment::Malformed)] {
        let case = Case::new(Duration::ZERO, HOUR, Duration::ZERO, assigned(2, 11));
        case.resolves().await;
        for _ in 0..2 {
            case.says(Ok(between.clone()));
            assert_eq!(case.resolves().await, Resolution::Fresh(between.clone()), "the directory's word holds");
        }
        case.says(Ok(assigned(1, 10)));
        assert_eq!(case.resolves().await, Resolution::Fresh(assigned(2, 11)));
        assert_eq!(case.metrics.epoch_regressions.get(), 1);
        case.says(Ok(between));
        case.resolves().await;
        case.says(Ok(assigned(1, 12)));
        assert_eq!(case.resolves().await, Resolution::Fresh(assigned(1, 12)));
    }
    let case = Case::new(Duration::ZERO, Duration::ZERO, Duration::ZERO, assigned(2, 11));
    for answer in [assigned(2, 11), Answer::Unassigned, assigned(1, 10)] {
        case.says(Ok(answer.clone()));
        assert_eq!(case.resolves().await, Resolution::Fresh(answer), "nothing is held for ever");
    }
}

/// A lookup that began before a claim may end after it.
#[tokio::test]
async fn an_answer_to_an_older_question_overwrites_nothing() {
    let case = Case::new(HOUR, HOUR, HOUR, Answer::Unassigned);
    let (inner, room) = (&case.resolver.known, room("room_a"));
    let older = Instant::now();
    let newer = older + Duration::from_millis(1);
    assert_eq!(inner.learn(&room, assigned(1, 10), newer), assigned(1, 10));
    for late in [Answer::Unassigned, assigned(2, 10)] {
        assert_eq!(inner.learn(&room, late, older), assigned(1, 10));
        assert_eq!(inner.remembered(&room, newer, None), Some(assigned(1, 10)));
    }
    assert_eq!(inner.learn(&room, assigned(2, 11), older), assigned(2, 11), "a higher epoch is later all the same");
}

/// Whoever writes the log may be slow; that is no reason for other rooms' answers to wait.
#[tokio::test]
async fn the_log_is_told_with_the_lock_free() {
    let case = Case::new(HOUR, HOUR, HOUR, Answer::Unassigned);
    let (known, lines) = (Arc::clone(&case.resolver.known), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&lines);
    let log = tracing_subscriber::fmt().with_writer(move || {
        assert!(known.learning.try_lock().is_ok(), "the lock is held");
        counted.fetch_add(1, Ordering::SeqCst);
        std::io::sink()
    });
    let ahead = now_ms() + 2 * SKEW_MS;
    let answers = [assigned(1, ahead), assigned(1, ahead), assigned(1, 1), Answer::Unusable(BadAssignment::Malformed)];
    tracing::subscriber::with_default(log.finish(), || {
        for (answer, told) in answers.into_iter().zip([1, 1, 2, 3]) {
            case.resolver.known.learn(&room("room_a"), answer, Instant::now());
            assert_eq!(lines.load(Ordering::SeqCst), told);
        }
    });
}

/// A replica of Redis that lags says the same at each question, and another one in between does not.
#[tokio::test]
async fn of_a_regression_the_log_hears_when_it_begins() {
    let case = Case::new(HOUR, HOUR, HOUR, Answer::Unassigned);
    let lines = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lines);
    let log = tracing_subscriber::fmt().with_writer(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        std::io::sink()
    });
    let steps = [
        (assigned(2, 11), 0, 0, "the assignment"),
        (assigned(1, 10), 1, 1, "a lower epoch"),
        (assigned(1, 10), 1, 2, "still"),
        (assigned(1, 9), 1, 3, "it has not been up to date since"),
        (assigned(2, 11), 1, 3, "it has now"),
        (assigned(1, 9), 1, 4, "the same once more"),
        (Answer::Unassigned, 1, 4, "the room's last assignment is known all the same"),
        (assigned(1, 9), 1, 5, "and the regression"),
        (assigned(2, 11), 1, 5, "up to date"),
        (assigned(1, 10), 2, 6, "another one"),
        (assigned(2, 12), 2, 6, "a new assignment"),
        (assigned(1, 10), 3, 7, "below that"),
    ];
    tracing::subscriber::with_default(log.finish(), || {
        for (answer, warned, counted, what) in steps {
            case.resolver.known.learn(&room("room_a"), answer, Instant::now());
            assert_eq!(
                (lines.load(Ordering::SeqCst), case.metrics.epoch_regressions.get()),
                (warned, counted),
                "{what}"
            );
        }
    });
}

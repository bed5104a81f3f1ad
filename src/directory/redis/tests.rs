//! The directory against real Redis servers: what it reads and writes, and what it does when one goes away.

mod frozen;
mod server;
mod tls;
mod topologies;

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use self::server::{PATIENCE, Server, free_port, until};
use super::*;
use crate::config::Secret;

/// Long enough for a busy machine, short enough to tell a timeout from an answer.
const TIMEOUT: Duration = Duration::from_millis(250);

fn backend() -> StatefulSet {
    StatefulSet::parse("backend").expect("a name")
}

fn room(id: &str) -> RoomId<'_> {
    RoomId::parse(id).expect("a room")
}

fn assigned(ordinal: u16, epoch: u64) -> Answer {
    Answer::Assigned(Assignment { pod: backend().nth(ordinal), epoch: Epoch(epoch) })
}

fn started_with(url: &str, timeout: Duration) -> RedisDirectory {
    let room_key = KeyTemplate::new("room:{room}:pod").expect("it names the room");
    let config = RedisConfig { url: Secret::new(url.to_owned()), room_key };
    let directory = RedisDirectory::new(&config, timeout, backend()).expect("a URL");
    directory.start();
    directory
}

fn started(url: &str) -> RedisDirectory {
    started_with(url, TIMEOUT)
}

async fn connected(url: &str) -> RedisDirectory {
    let directory = started(url);
    directory.first_contact().await;
    directory
}

/// The reason of an answer that has to be "unavailable".
fn unavailable(answer: Result<Answer, DirectoryError>) -> String {
    match answer {
        Err(DirectoryError::Unavailable(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// The words of an answer that has to be a refusal.
fn refused<T: std::fmt::Debug>(answer: Result<T, DirectoryError>) -> String {
    match answer {
        Err(DirectoryError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Each of them at once: had they waited for their timeouts, it would be for longer.
async fn hundred_lookups_fail(directory: &RedisDirectory) {
    const { assert!(100 * TIMEOUT.as_millis() > PATIENCE.as_millis()) };
    let all = async {
        for _ in 0..100 {
            unavailable(directory.lookup(&room("room_a")).await);
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("none waits");
}

#[tokio::test]
async fn every_kind_of_value_is_read() {
    let redis = Server::start(&[]);
    let directory = connected(&redis.url()).await;
    assert!(directory.is_up());
    assert_eq!(directory.lookup(&room("room_a")).await, Ok(Answer::Unassigned));

    redis.set("room:room_a:pod", r#"{"podId":"backend-1","participantCount":4,"assignedAt":1634567890123}"#);
    assert_eq!(directory.lookup(&room("room_a")).await, Ok(assigned(1, 1_634_567_890_123)));

    redis.cli(&["rpush", "room:room_list:pod", "backend-1"]);
    for (id, value, bad) in [
        ("room_empty", "", BadAssignment::Malformed),
        ("room_text", "backend-1", BadAssignment::Malformed),
        ("room_foreign", r#"{"podId":"evil.com","assignedAt":1}"#, BadAssignment::ForeignPod),
    ] {
        redis.set(&format!("room:{id}:pod"), value);
        assert_eq!(directory.lookup(&room(id)).await, Ok(Answer::Unusable(bad)), "{id}");
    }
    let list = directory.lookup(&room("room_list")).await;
    assert_eq!(list, Ok(Answer::Unusable(BadAssignment::WrongType)));
}

#[tokio::test]
async fn a_huge_value_does_not_travel() {
    let redis = Server::start(&[]);
    let directory = connected(&redis.url()).await;
    redis.cli(&["setrange", "room:room_a:pod", "1000000", "x"]);
    let sent = || -> u64 {
        let stats = redis.cli(&["info", "stats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).expect("a counter");
        line.trim().parse().expect("a number")
    };
    let before = sent();
    assert_eq!(directory.lookup(&room("room_a")).await, Ok(Answer::Unusable(BadAssignment::TooLarge)));
    assert_eq!(
        directory.claim(&room("room_a"), &backend().nth(1), Epoch(0)).await,
        Ok(Answer::Unusable(BadAssignment::TooLarge))
    );
    assert!(sent() - before < 50_000);
}

#[tokio::test]
async fn of_fifty_claims_one_wins_and_all_learn_which() {
    let redis = Server::start(&[]);
    let directory = connected(&redis.url()).await;
    let mut claims = JoinSet::new();
    for ordinal in 0..50 {
        let directory = directory.clone();
        claims.spawn(async move { directory.claim(&room("room_a"), &backend().nth(ordinal), Epoch(0)).await });
    }
    let answers = claims.join_all().await;
    let winner = answers[0].clone().expect("Redis is there");
    assert!(answers.iter().all(|answer| answer.as_ref() == Ok(&winner)), "{answers:?}");
    assert_eq!(directory.lookup(&room("room_a")).await, Ok(winner.clone()));

    let Answer::Assigned(assignment) = winner else { panic!("{winner:?}") };
    assert_eq!(redis.cli(&["get", "room:room_a:pod"]), assignment.encode());
    assert!(crate::directory::memory::now_ms().abs_diff(assignment.epoch.0) < 60_000);
}

/// Its clock may have gone back, and what it had be lost.
#[tokio::test]
async fn a_claim_has_the_least_epoch_where_the_clock_is_behind() {
    let redis = Server::start(&[]);
    let directory = connected(&redis.url()).await;
    let year = 365 * 24 * 3600 * 1000;
    let ahead = crate::directory::memory::now_ms() + year;
    for (id, least) in [("room_a", ahead), ("room_b", u64::MAX)] {
        let claimed = directory.claim(&room(id), &backend().nth(1), Epoch(least)).await;
        assert_eq!(claimed, Ok(assigned(1, least)));
    }
    let claimed = directory.claim(&room("room_c"), &backend().nth(1), Epoch(ahead - 2 * year)).await;
    let Ok(Answer::Assigned(assignment)) = claimed else { panic!("{claimed:?}") };
    assert!(assignment.epoch.0.abs_diff(ahead - year) < 60_000, "the clock is ahead of it");
}

#[tokio::test]
async fn a_claim_changes_nothing_that_is_there() {
    let redis = Server::start(&[]);
    let directory = connected(&redis.url()).await;
    redis.cli(&["rpush", "room:room_list:pod", "x"]);
    for (id, value, held) in [
        ("room_a", r#"{"podId":"backend-1","assignedAt":7}"#, assigned(1, 7)),
        ("room_empty", "", Answer::Unusable(BadAssignment::Malformed)),
        ("room_text", "?", Answer::Unusable(BadAssignment::Malformed)),
    ] {
        let key = format!("room:{id}:pod");
        redis.set(&key, value);
        assert_eq!(directory.claim(&room(id), &backend().nth(2), Epoch(0)).await, Ok(held), "{id}");
        assert_eq!(redis.cli(&["get", &key]), value);
    }
    let list = directory.claim(&room("room_list"), &backend().nth(2), Epoch(0)).await;
    assert_eq!(list, Ok(Answer::Unusable(BadAssignment::WrongType)));
}

#[tokio::test]
async fn heartbeats_are_found_over_gaps_and_batches() {
    let redis = Server::start(&[]);
    let directory = connected(&redis.url()).await;
    assert_eq!(directory.heartbeats().await, Ok(Vec::new()));

    let beat =
        r#"{"activeRooms":3,"totalParticipants":12,"cpuUsage":45.2,"memoryUsage":512,"lastUpdate":1634567890123}"#;
    // The fourth batch is empty, which hides the fifth.
    for ordinal in [0, 5, 31, 40, 95, 130] {
        redis.set(&format!("pod:backend-{ordinal}:metrics"), beat);
    }
    for (ordinal, broken) in [(1, "{"), (2, "[3,12,1]"), (3, r#"{"activeRooms":-1}"#)] {
        redis.set(&format!("pod:backend-{ordinal}:metrics"), broken);
    }
    redis.cli(&["rpush", "pod:backend-4:metrics", "x"]);

    let expected = Heartbeat { active_rooms: 3, total_participants: 12, last_update: 1_634_567_890_123 };
    let found = directory.heartbeats().await.expect("Redis is there");
    assert_eq!(found, [0, 5, 31, 40, 95].map(|ordinal| (backend().nth(ordinal), expected)));
}

/// A StatefulSet with `spec.ordinals.start`.
#[tokio::test]
async fn heartbeats_are_found_where_the_ordinals_begin_further_up() {
    let redis = Server::start(&[]);
    let directory = connected(&redis.url()).await;
    for ordinal in [100, 101, 700, 1023, 1024] {
        redis.set(&format!("pod:backend-{ordinal}:metrics"), "{}");
    }
    redis.set("pod:backend-102:metrics", "{");
    let found = directory.heartbeats().await.expect("Redis is there");
    assert_eq!(found, [100, 101, 700, 1023].map(|ordinal| (backend().nth(ordinal), Heartbeat::default())));
    assert_eq!(*directory.common.unreadable.lock().expect("no panic"), [backend().nth(102)]);
}

#[tokio::test]
async fn lookups_come_from_any_runtime() {
    let redis = Server::start(&[]);
    redis.set("room:room_a:pod", r#"{"podId":"backend-1","assignedAt":7}"#);
    let directory = connected(&redis.url()).await;
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let directory = directory.clone();
            std::thread::spawn(move || {
                let mut builder = tokio::runtime::Builder::new_current_thread();
                let runtime = builder.enable_all().build_local(Default::default()).expect("a runtime");
                runtime.block_on(async move {
                    // Not Send, as a worker's tasks are.
                    let answers = std::rc::Rc::new(std::cell::Cell::new(0));
                    let tasks: Vec<_> = (0..500)
                        .map(|_| {
                            let (directory, answers) = (directory.clone(), answers.clone());
                            tokio::task::spawn_local(async move {
                                assert_eq!(directory.lookup(&room("room_a")).await, Ok(assigned(1, 7)));
                                answers.set(answers.get() + 1);
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await.expect("it does not panic");
                    }
                    answers.get()
                })
            })
        })
        .collect();
    until("the threads", async || threads.iter().all(std::thread::JoinHandle::is_finished)).await;
    for thread in threads {
        assert_eq!(thread.join().expect("it does not panic"), 500);
    }
}

#[tokio::test]
async fn a_dead_server_fails_lookups_at_once_and_is_back_when_it_is_back() {
    let mut redis = Server::start(&[]);
    let directory = started_with(&redis.url(), 3 * PATIENCE);
    directory.first_contact().await;
    redis.kill();
    until("down", async || !directory.is_up()).await;
    hundred_lookups_fail(&directory).await;
    assert!(unavailable(directory.claim(&room("room_a"), &backend().nth(1), Epoch(0)).await).contains("onnection"));

    redis.restart();
    until("up again", async || directory.lookup(&room("room_a")).await == Ok(Answer::Unassigned)).await;
}

#[tokio::test]
async fn a_lookup_in_flight_fails_with_its_connection() {
    let mut redis = Server::start(&[]);
    let directory = started_with(&redis.url(), 3 * PATIENCE);
    directory.first_contact().await;
    redis.signal("STOP");
    let asking = tokio::spawn({
        let directory = directory.clone();
        async move { directory.lookup(&room("room_a")).await }
    });
    tokio::task::yield_now().await;
    redis.kill();
    let answer = tokio::time::timeout(PATIENCE, asking).await.expect("long before its own time is over");
    unavailable(answer.expect("it does not panic"));
}

/// Its time is over before the thread has come to writing the question.
#[tokio::test]
async fn that_the_thread_was_late_is_not_taken_for_redis_being_away() {
    let redis = Server::start(&[]);
    let directory = connected(&redis.url()).await;
    let room = room("room_a");
    let (answer, ()) = tokio::join!(directory.lookup(&room), async { std::thread::sleep(5 * TIMEOUT) });
    assert_eq!(answer, Ok(Answer::Unassigned));
    assert!(directory.is_up());
}

#[tokio::test]
async fn a_router_may_start_before_redis() {
    let port = free_port();
    let directory = started(&format!("redis://127.0.0.1:{port}"));
    assert_eq!(unavailable(directory.lookup(&room("room_a")).await), "not connected yet");
    until("a reason", async || unavailable(directory.lookup(&room("room_a")).await).contains("refused")).await;
    let early = tokio::time::timeout(Duration::from_millis(50), directory.first_contact()).await;
    assert!(early.is_err() && !directory.is_up());

    let _redis = Server::start_on(port, &[]);
    directory.first_contact().await;
    assert_eq!(directory.lookup(&room("room_a")).await, Ok(Answer::Unassigned));
}

/// The numbers of all connections but that of whoever asks, oldest first.
fn connections(redis: &Server, password: &[&str]) -> Vec<u32> {
    let list = redis.cli(&[password, &["client", "list"]].concat());
    let others = list.lines().filter(|line| !line.contains("cmd=client|list"));
    others.filter_map(|line| line.strip_prefix("id=")?.split(' ').next()?.parse().ok()).collect()
}

#[tokio::test]
async fn each_thread_has_a_connection_and_that_one_is_down_is_seen_from_all() {
    let redis = Server::start(&[]);
    let directory = connected(&redis.url()).await;
    let attached = directory.attach();
    attached.first_contact().await;
    assert!(directory.answers() && attached.answers());
    let connections = connections(&redis, &[]);
    let [_, second] = connections[..] else { panic!("{connections:?}") };

    // Whoever is connected stays so; the second cannot come back.
    redis.cli(&["config", "set", "requirepass", "hunter2"]);
    let known = ["-a", "hunter2", "--no-auth-warning"];
    redis.cli(&[&known[..], &["client", "kill", "id", &second.to_string()]].concat());
    until("the second's fall", async || !attached.is_up()).await;
    assert!(directory.is_up() && !directory.answers());
    assert_eq!(directory.lookup(&room("room_a")).await, Ok(Answer::Unassigned));
    unavailable(attached.lookup(&room("room_a")).await);

    redis.cli(&[&known[..], &["config", "set", "requirepass", ""]].concat());
    until("its return", async || directory.answers()).await;
    assert_eq!(attached.lookup(&room("room_a")).await, Ok(Answer::Unassigned));
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_down() {
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let directory = started(&format!("redis://{}", silent.local_addr().expect("it is bound")));
    until("a reason", async || unavailable(directory.lookup(&room("room_a")).await).contains("Timeout")).await;
    assert!(!directory.is_up());
}

#[tokio::test]
async fn tls_towards_a_port_without_it_is_named_as_a_cause() {
    let redis = Server::start(&[]);
    let directory = started(&format!("rediss://127.0.0.1:{}", redis.port));
    until("a reason", async || unavailable(directory.lookup(&room("room_a")).await).contains("redis://")).await;
    let plain = started(&format!("redis://127.0.0.1:{}", free_port()));
    until("a reason", async || unavailable(plain.lookup(&room("room_a")).await).contains("refused")).await;
    assert!(!unavailable(plain.lookup(&room("room_a")).await).contains("TLS"));
}

#[tokio::test]
async fn questions_beyond_the_bound_are_refused_and_the_others_answered() {
    let redis = Server::start(&[]);
    let directory = started_with(&redis.url(), Duration::from_secs(20));
    directory.first_contact().await;
    until("the directory's own first lookup", async || {
        redis.cli(&["info", "commandstats"]).contains("cmdstat_getrange")
            && directory.link.in_flight.available_permits() == super::link::MAX_IN_FLIGHT
    })
    .await;
    redis.signal("STOP");
    let mut asked = JoinSet::new();
    for _ in 0..=super::link::MAX_IN_FLIGHT {
        let directory = directory.clone();
        asked.spawn(async move { directory.lookup(&room("room_a")).await });
    }
    let first = asked.join_next().await.expect("there are some").expect("it does not panic");
    assert!(unavailable(first).contains("already waiting"));
    redis.signal("CONT");
    assert!(asked.join_all().await.iter().all(|answer| *answer == Ok(Answer::Unassigned)));
}

#[tokio::test]
async fn a_password_opens_the_door_and_is_not_repeated() {
    let redis = Server::start(&["--requirepass", "hunter2"]);
    let directory = connected(&format!("redis://:hunter2@127.0.0.1:{}/3", redis.port)).await;
    let claimed = directory.claim(&room("room_a"), &backend().nth(1), Epoch(0)).await.expect("Redis is there");
    assert_eq!(directory.lookup(&room("room_a")).await, Ok(claimed));
    let third = redis.cli(&["-a", "hunter2", "--no-auth-warning", "-n", "3", "exists", "room:room_a:pod"]);
    assert_eq!(third, "1");

    for (url, code) in [
        (format!("redis://:hunter3@127.0.0.1:{}", redis.port), "WRONGPASS"),
        (format!("redis://127.0.0.1:{}", redis.port), "NOAUTH"),
    ] {
        let directory = started(&url);
        until(code, async || unavailable(directory.lookup(&room("room_a")).await).contains(code)).await;
        assert!(!unavailable(directory.lookup(&room("room_a")).await).contains("hunter3"));
    }
}

/// A user with these rights, on the keys that the router needs unless they say others.
fn allow(redis: &Server, rights: &str) {
    let words = ["acl", "setuser", "router", "reset", "on", ">s3cret", "resetchannels", "-@all"];
    let args: Vec<&str> = words.into_iter().chain(rights.split(' ')).collect();
    assert_eq!(redis.cli(&args), "OK");
}

const RIGHTS: &str = "+getrange +get +exists +eval +set +time +ping";

/// With the URL that is the default, which names database 0, and without one.
#[tokio::test]
async fn the_documented_permissions_are_enough() {
    let readme = include_str!("../../../README.md");
    assert!(
        readme.contains(&format!("`{RIGHTS}` on the keys of `--room-key` (`~room:*`) and the heartbeats (`~pod:*`)"))
    );
    let redis = Server::start(&[]);
    allow(&redis, &format!("~room:* ~pod:* {RIGHTS}"));
    for (id, database) in [("room_a", ""), ("room_b", "/0")] {
        let url = format!("redis://router:s3cret@127.0.0.1:{}{database}", redis.port);
        let directory = connected(&url).await;
        assert_eq!(directory.lookup(&room(id)).await, Ok(Answer::Unassigned), "{url}");
        let claimed = directory.claim(&room(id), &backend().nth(1), Epoch(0)).await.expect("it is allowed");
        assert_eq!(directory.lookup(&room(id)).await, Ok(claimed));
        assert_eq!(directory.heartbeats().await, Ok(Vec::new()));
        assert!(directory.answers());
    }

    // Another database takes the right to select it.
    let third = format!("redis://router:s3cret@127.0.0.1:{}/3", redis.port);
    let directory = started(&third);
    until("a reason", async || unavailable(directory.lookup(&room("room_a")).await).contains("'select'")).await;
    allow(&redis, &format!("~room:* ~pod:* {RIGHTS} +select"));
    directory.first_contact().await;
    assert_eq!(directory.lookup(&room("room_a")).await, Ok(Answer::Unassigned));
}

/// A refusal is an answer: no reason to think Redis away and ask no more, but none to say that all is well either.
#[tokio::test]
async fn a_redis_that_refuses_lookups_is_not_one_that_answers() {
    let redis = Server::start(&[]);
    for missing in ["~room:* ~pod:* +get +ping", "~other:* ~pod:* +getrange +get +ping"] {
        allow(&redis, missing);
        let directory = connected(&format!("redis://router:s3cret@127.0.0.1:{}/0", redis.port)).await;
        until("the first try", async || !directory.answers()).await;
        assert!(refused(directory.lookup(&room("room_a")).await).contains("NOPERM"), "{missing}");
        assert!(directory.is_up());

        // Nobody asks: it is noticed all the same.
        allow(&redis, &format!("~room:* ~pod:* {RIGHTS}"));
        until("another try", async || directory.answers()).await;
        assert_eq!(directory.lookup(&room("room_a")).await, Ok(Answer::Unassigned));

        // What else is refused does not keep known rooms from being found.
        allow(&redis, "~room:* +getrange +get +ping");
        assert!(refused(directory.heartbeats().await).contains("NOPERM"));
        assert!(refused(directory.claim(&room("room_a"), &backend().nth(1), Epoch(0)).await).contains("'eval'"));
        assert!(directory.answers());
    }
}

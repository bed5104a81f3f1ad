use super::*;
use crate::backends::InFlight;
use crate::config::{Command, parse};
use crate::core::check::Verdict;
use crate::core::decision::Stage;
use crate::metrics::Metrics;

pub(super) const KEY: &str = "0123456789abcdef0123456789abcdef";
pub(super) const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";
pub(super) const POLL: &str = "/socket.io/?EIO=4&transport=polling&sid=x";
pub(super) const REFUSED: Failure = Failure { stage: Stage::Connect, sent: false, timed_out: false };
pub(super) const SILENT: Failure = Failure { timed_out: true, ..REFUSED };

pub(super) fn of(args: &[&str]) -> Rc<Balancer> {
    let words = ["pod-router"].iter().chain(args);
    let Ok(Command::Serve(config)) = parse(words.map(Into::into), std::iter::empty(), false) else {
        panic!("{args:?} are settings");
    };
    let config = Arc::from(config);
    Balancer::new(Arc::clone(&config), Arc::new(Backends::new(config, Arc::new(Metrics::new()))))
}

fn balancer(args: &[&str]) -> Rc<Balancer> {
    of(&[&["--default-backend", "10.0.0.1:1,10.0.0.2:1,10.0.0.3:1"], args].concat())
}

pub(super) fn choose_with(balancer: &Balancer, target: &str, client: [u8; 4], cookie: &str) -> Box<Choice> {
    let head = http::Request::get(target).header("cookie", cookie).body(()).expect("a request").into_parts().0;
    balancer.choose(&head, false, client.into()).expect("there are pods")
}

pub(super) fn choose(balancer: &Balancer, target: &str, client: [u8; 4]) -> Box<Choice> {
    choose_with(balancer, target, client, "")
}

pub(super) fn name(choice: &Choice) -> Arc<str> {
    Arc::clone(choice.target.name())
}

fn member(balancer: &Balancer, pod: &str) -> Arc<Member> {
    Arc::clone(balancer.backends.backend(0).set().named(pod).expect("one of the set"))
}

fn busy(balancer: &Balancer, pod: &str, requests: usize) -> Vec<InFlight> {
    (0..requests).map(|_| balancer.backends.load(&pod.into()).begin()).collect()
}

fn fail(balancer: &Balancer, member: &Member, times: usize) {
    (0..times).for_each(|_| balancer.backends.failed(balancer.backends.backend(0), member));
}

fn availability(member: &Member) -> Availability {
    member.availability(Instant::now())
}

/// A pod that has failed until it was ejected, and whose trial is due: by its health check it has been away and is back.
/// (A `--fail-timeout` that is over soon would be that of the trial, too.)
fn on_probation(balancer: &Balancer, pod: &str) -> Arc<Member> {
    let member = member(balancer, pod);
    fail(balancer, &member, 3);
    member.checked(Verdict::Bad, 1, 1);
    member.checked(Verdict::Good, 1, 1);
    assert_eq!(availability(&member), Availability::Probation);
    member
}

#[test]
fn one_request_tries_a_pod_that_was_ejected() {
    let balancer = balancer(&[]);
    let member = on_probation(&balancer, "10.0.0.2:1");
    let mut picks: Vec<_> = (0..9).map(|_| choose(&balancer, "/", [1; 4])).collect();
    assert_eq!(picks.iter().filter(|choice| name(choice) == member.name).count(), 1);
    assert_eq!(name(&picks[0]), member.name, "the first that comes");
    balancer.answered(&mut picks[0], StatusCode::OK);
    assert_eq!(availability(&member), Availability::Open);
}

#[test]
fn a_trial_that_fails_keeps_the_pod_out() {
    let balancer = balancer(&[]);
    let member = on_probation(&balancer, "10.0.0.2:1");
    let mut trial = choose(&balancer, "/", [1; 4]);
    balancer.failed(&mut trial);
    assert!(member.is_ejected());
    assert_eq!(member.metrics().ejections.get(), 1, "it has not been back in between");
}

/// Its client went away, it waited for a place in vain, its body broke off: nothing is known of the pod.
#[test]
fn a_trial_that_decides_nothing_leaves_it_to_the_next() {
    let balancer = balancer(&[]);
    let member = on_probation(&balancer, "10.0.0.2:1");
    for _ in 0..9 {
        let trial = choose(&balancer, "/", [1; 4]);
        assert_eq!((name(&trial), availability(&member)), (Arc::clone(&member.name), Availability::Ejected));
        drop(trial);
        assert_eq!(availability(&member), Availability::Probation);
    }
}

#[test]
fn a_sessions_request_is_no_trial() {
    let balancer = balancer(&[]);
    let member = on_probation(&balancer, "10.0.0.2:1");
    for n in 0..50 {
        assert!(choose(&balancer, POLL, [9, 9, 9, n]).trial.is_none());
    }
    assert_eq!(availability(&member), Availability::Probation);
}

#[test]
fn of_those_with_its_cookie_one_tries_a_pod_and_sessions_go_on() {
    let cookies = ["--affinity-cookie", "c", "--affinity-key", KEY, "--session-affinity", "sid"];
    let balancer = balancer(&cookies);
    let member = on_probation(&balancer, "10.0.0.2:1");
    let cookie = format!("c={}", member.cookie.as_deref().expect("a cookie"));
    for target in ["/", HANDSHAKE] {
        let picks: Vec<_> = (0..50).map(|n| choose_with(&balancer, target, [9, 9, 9, n], &cookie)).collect();
        let there = picks.iter().filter(|choice| name(choice) == member.name);
        assert_eq!(there.map(|choice| choice.trial.is_some()).collect::<Vec<_>>(), [true], "{target}");
        let session = choose_with(&balancer, POLL, [1; 4], &cookie);
        assert_eq!((name(&session), session.trial.is_some()), (Arc::clone(&member.name), false));
    }
}

#[test]
fn a_full_pod_is_not_tried() {
    let cookies = ["--affinity-cookie", "c", "--affinity-key", KEY, "--pod-max-connections", "1"];
    let balancer = balancer(&cookies);
    let member = on_probation(&balancer, "10.0.0.2:1");
    let cookie = format!("c={}", member.cookie.as_deref().expect("a cookie"));
    let tunnel = busy(&balancer, &member.name, 1);
    for cookie in [&*cookie, ""] {
        assert!((0..9).all(|_| name(&choose_with(&balancer, "/", [1; 4], cookie)) != member.name), "{cookie}");
    }
    drop(tunnel);
    for cookie in [&*cookie, ""] {
        assert!(choose_with(&balancer, "/", [1; 4], cookie).trial.is_some(), "{cookie}");
    }
}

#[test]
fn a_draining_pod_gets_what_its_sessions_send() {
    let cookies = ["--affinity-cookie", "c", "--affinity-key", KEY, "--session-affinity", "sid"];
    let balancer = balancer(&cookies);
    let member = member(&balancer, "10.0.0.2:1");
    let cookie = format!("c={}", member.cookie.as_deref().expect("a cookie"));
    member.checked(Verdict::Drain, 1, 1);
    let at = |target| choose_with(&balancer, target, [1; 4], &cookie);
    assert_eq!(name(&at(POLL)), member.name);
    assert!(name(&at("/")) != member.name && balancer.cookie(&at("/")).is_none(), "a session may live on there");
    assert!(name(&at(HANDSHAKE)) != member.name && balancer.cookie(&at(HANDSHAKE)).is_some());
}

/// What another pod answers while the cookie's is silent, full or ejected moves none of the client's later requests: a
/// session of its own may live on there.
#[test]
fn a_cookie_outlasts_requests_that_went_past_its_pod() {
    let cookies = ["--affinity-cookie", "c", "--affinity-key", KEY, "--session-affinity", "off"];
    let balancer = balancer(&[&cookies[..], &["--pod-max-connections", "1"]].concat());
    let member = member(&balancer, "10.0.0.2:1");
    let cookie = format!("c={}", member.cookie.as_deref().expect("a cookie"));
    let at = |target| choose_with(&balancer, target, [1; 4], &cookie);
    assert!(name(&at("/")) == member.name && balancer.cookie(&at("/")).is_none());
    let is_silent = |choice: &mut Choice| assert_eq!(balancer.elsewhere(choice, SILENT), Another::Chosen);
    let is_full = |choice: &mut Choice| choice.settle(Target::Listed(balancer.alternatives(choice).swap_remove(0)));
    for pass_it in [&is_silent as &dyn Fn(&mut Choice), &is_full] {
        let mut passing = at("/");
        pass_it(&mut passing);
        assert!(name(&passing) != member.name && balancer.cookie(&passing).is_none());
        // It begins a session, whose requests have nothing else to go by.
        let mut first = at(HANDSHAKE);
        pass_it(&mut first);
        assert!(name(&first) != member.name && balancer.cookie(&first).is_some());
    }
    fail(&balancer, &member, 3);
    assert!(name(&at("/")) != member.name && balancer.cookie(&at("/")).is_none());
    assert!(name(&at(POLL)) == member.name && balancer.cookie(&at(POLL)).is_none());
}

#[test]
fn a_pod_that_refuses_has_lost_its_cookie_until_it_answers() {
    let balancer = balancer(&["--affinity-cookie", "c", "--affinity-key", KEY]);
    let member = member(&balancer, "10.0.0.2:1");
    let cookie = format!("c={}", member.cookie.as_deref().expect("a cookie"));
    let mut passing = choose_with(&balancer, "/", [1; 4], &cookie);
    assert_eq!(balancer.elsewhere(&mut passing, REFUSED), Another::Chosen);
    assert!(balancer.cookie(&passing).is_some());
    fail(&balancer, &member, 3);
    for _ in 0..20 {
        let choice = choose_with(&balancer, "/", [1; 4], &cookie);
        assert!(name(&choice) != member.name && balancer.cookie(&choice).is_some(), "it gets another cookie");
    }
    balancer.answered(&mut choose_with(&balancer, POLL, [1; 4], &cookie), StatusCode::OK);
    assert!(balancer.cookie(&choose_with(&balancer, "/", [1; 4], &cookie)).is_none(), "it has memory again");
}

/// Whatever decides: a client that has the cookie of the pod it reached needs no other.
#[test]
fn a_sid_and_a_cookie_may_name_the_same_pod() {
    let balancer = of(&["--default-backend", "a:1,b:1", "--affinity-cookie", "c", "--affinity-key", KEY]);
    let cookie = format!("c={}", member(&balancer, "b:1").cookie.as_deref().expect("a cookie"));
    let choice = choose_with(&balancer, "/socket.io/?EIO=4&sid=b~x", [1; 4], &cookie);
    assert_eq!((&*name(&choice), choice.source, balancer.cookie(&choice)), ("b:1", AffinitySource::Sid, None));
}

/// The first request of a session by the client's address goes where all that follow it will go.
#[test]
fn only_a_pods_own_clients_try_it() {
    let balancer = balancer(&[]);
    let clients: Vec<_> = (0..50).map(|n| [9, 9, 9, n]).collect();
    let homes: Vec<_> = clients.iter().map(|client| name(&choose(&balancer, HANDSHAKE, *client))).collect();
    let member = on_probation(&balancer, "10.0.0.2:1");
    for (client, home) in clients.iter().zip(&homes).filter(|(_, home)| **home != member.name) {
        assert_eq!(name(&choose(&balancer, HANDSHAKE, *client)), *home);
    }
    assert_eq!(availability(&member), Availability::Probation);
    let of_its_own = clients.iter().zip(&homes).find(|(_, home)| **home == member.name).expect("one in three");
    let mut tried = choose(&balancer, HANDSHAKE, *of_its_own.0);
    assert_eq!(name(&tried), member.name);
    balancer.answered(&mut tried, StatusCode::OK);
    assert_eq!(name(&choose(&balancer, POLL, *of_its_own.0)), member.name);
}

#[test]
fn only_its_trial_brings_a_pod_back() {
    let balancer = balancer(&[]);
    let mut begun = choose(&balancer, "/", [1; 4]);
    let member = member(&balancer, &name(&begun));
    // Two failures, an answer, one more: successes in between wipe nothing out.
    fail(&balancer, &member, 2);
    balancer.answered(&mut choose_at(&balancer, &member), StatusCode::OK);
    assert!(!member.is_ejected());
    fail(&balancer, &member, 1);
    assert!(member.is_ejected());
    balancer.answered(&mut begun, StatusCode::OK);
    assert!(member.is_ejected(), "what was sent before the ejection does not undo it");
}

/// A choice that the policy makes of this pod.
fn choose_at(balancer: &Balancer, member: &Arc<Member>) -> Box<Choice> {
    (0..9).map(|_| choose(balancer, "/", [1; 4])).find(|choice| name(choice) == member.name).expect("in its turn")
}

#[test]
fn a_sessions_request_waits_at_its_full_pod() {
    let balancer = balancer(&["--pod-max-connections", "2"]);
    let home = name(&choose(&balancer, HANDSHAKE, [1; 4]));
    let _two = busy(&balancer, &home, 2);
    for target in [HANDSHAKE, POLL] {
        let choice = choose(&balancer, target, [1; 4]);
        assert_eq!(name(&choice), home);
        assert!(balancer.alternatives(&choice).is_empty(), "nor when the queue is full");
    }
    assert!((0..9).all(|_| name(&choose(&balancer, "/", [1; 4])) != home), "but others go where there is room");
}

#[test]
fn without_budget_there_is_no_other_pod() {
    let balancer = balancer(&["--retry-budget", "0"]);
    let mut choice = choose(&balancer, "/", [1; 4]);
    let before = name(&choice);
    for _ in 0..9 {
        balancer.deposit();
        assert_eq!(balancer.elsewhere(&mut choice, REFUSED), Another::NoBudget);
        balancer.after_pause(&mut choice);
        assert_eq!(name(&choice), before);
    }
}

/// Whether it is ejected or has to stay because too many others are.
#[test]
fn to_leave_a_pod_that_has_been_given_up_costs_nothing() {
    let balancer = balancer(&["--retry-budget", "0"]);
    for pod in ["10.0.0.1:1", "10.0.0.2:1"] {
        let mut choice = choose(&balancer, "/", [1; 4]);
        while *name(&choice) != *pod {
            choice = choose(&balancer, "/", [1; 4]);
        }
        assert_eq!(balancer.elsewhere(&mut choice, REFUSED), Another::NoBudget, "{pod}");
        fail(&balancer, &member(&balancer, pod), 3);
        assert_eq!(balancer.elsewhere(&mut choice, REFUSED), Another::Chosen, "{pod}");
    }
    assert_ne!(availability(&member(&balancer, "10.0.0.2:1")), Availability::Ejected, "half of the set stays");
}

#[test]
fn each_move_is_withdrawn() {
    let balancer = balancer(&["--retry-budget", "1"]);
    let mut moves = 0;
    // Only so many as the reserve.
    for _ in 0..50 {
        let mut choice = choose(&balancer, "/", [1; 4]);
        let before = name(&choice);
        moves += usize::from(balancer.elsewhere(&mut choice, REFUSED) == Another::Chosen);
        let between = name(&choice);
        balancer.after_pause(&mut choice);
        moves += usize::from(name(&choice) != between);
        assert!(moves > 0 || name(&choice) == before);
    }
    assert_eq!(moves, 10);
}

#[test]
fn a_request_meets_each_pod_once_before_it_waits() {
    let balancer = balancer(&["--affinity-cookie", "c", "--affinity-key", KEY]);
    let cookie = format!("c={}", member(&balancer, "10.0.0.2:1").cookie.as_deref().expect("a cookie"));
    let mut choice = choose_with(&balancer, "/", [1; 4], &cookie);
    let mut met = vec![(name(&choice).to_string(), choice.source.as_str())];
    while balancer.elsewhere(&mut choice, REFUSED) == Another::Chosen {
        met.push((name(&choice).to_string(), choice.source.as_str()));
    }
    met[1..].sort();
    let expected = [("10.0.0.2:1", "cookie"), ("10.0.0.1:1", "none"), ("10.0.0.3:1", "none")];
    assert_eq!(met, expected.map(|(pod, source)| (pod.to_owned(), source)));
}

#[test]
fn a_sessions_request_does_not_leave_a_pod_that_something_names() {
    let balancer = of(&["--default-backend", "a:1,b:1", "--session-affinity", "sid"]);
    let mut choice = choose(&balancer, "/socket.io/?EIO=4&sid=b~x", [1; 4]);
    assert_eq!((&*name(&choice), balancer.elsewhere(&mut choice, REFUSED)), ("b:1", Another::None));
    balancer.after_pause(&mut choice);
    assert_eq!(&*name(&choice), "b:1");
}

/// Of three pods two are dead, of which one may be ejected: by the client's address the requests of a session end where
/// its first one did.
#[test]
fn polls_follow_their_handshake_past_dead_pods() {
    let balancer = balancer(&["--retry-budget", "100"]);
    let dead = ["10.0.0.1:1", "10.0.0.2:1"];
    dead.iter().for_each(|pod| fail(&balancer, &member(&balancer, pod), 9));
    let mut tried_both = 0;
    let mut ends_at = |target, client| {
        let mut choice = choose(&balancer, target, client);
        while dead.contains(&&**choice.target.name()) {
            tried_both += 1;
            balancer.failed(&mut choice);
            balancer.deposit();
            assert_eq!(balancer.elsewhere(&mut choice, REFUSED), Another::Chosen);
        }
        name(&choice)
    };
    for n in 0..=255 {
        assert_eq!(ends_at(HANDSHAKE, [9, 9, 9, n]), ends_at(POLL, [9, 9, 9, n]));
    }
    assert!(tried_both > 100, "{tried_both}: half of them belong to the dead pod that stays");
}

/// Many pods, so that counting takes its time; all of them fail, and each thread has some.
#[test]
fn never_more_than_half_is_ejected_whoever_counts() {
    const THREADS: usize = 4;
    let pods: Vec<_> = (1..=128).map(|n| format!("10.0.0.{n}:1")).collect();
    for round in 0..50 {
        let balancer = of(&["--default-backend", &pods.join(","), "--max-fails", "1"]);
        let (backends, barrier) = (&balancer.backends, std::sync::Barrier::new(THREADS));
        let set = backends.backend(0).set();
        std::thread::scope(|scope| {
            for members in set.members.chunks(pods.len() / THREADS) {
                let (backends, barrier) = (Arc::clone(backends), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    members.iter().for_each(|member| backends.failed(backends.backend(0), member));
                });
            }
        });
        let ejected = set.members.iter().filter(|member| member.is_ejected()).count();
        assert_eq!(ejected, 64, "of 128, in round {round}");
    }
}

#[test]
fn slow_start_gives_little_and_not_nothing() {
    for policy in ["round_robin", "least_conn", "p2c"] {
        let args = ["--slow-start", "1h", "--balance", policy];
        let balancer = balancer(&args);
        let member = on_probation(&balancer, "10.0.0.2:1");
        balancer.answered(&mut choose(&balancer, "/", [1; 4]), StatusCode::OK);
        assert_eq!(availability(&member), Availability::Open);
        let count = (0..2100).filter(|_| name(&choose(&balancer, "/", [1; 4])) == member.name).count();
        // A tenth of a share to 2 whole ones: 100, and by chance (p2c) five standard deviations around it.
        assert!((50..=150).contains(&count), "{policy}: {count}");
        // Where the others are at work as well, it gets what is left of its share.
        let at_work = busy(&balancer, &member.name, 1);
        let both = [busy(&balancer, "10.0.0.1:1", 9), busy(&balancer, "10.0.0.3:1", 9)];
        let more = (0..300).any(|_| name(&choose(&balancer, "/", [1; 4])) == member.name);
        assert_eq!(more, policy == "round_robin", "{policy}: ten times as much is full");
        drop((at_work, both));
    }
}

#[test]
fn between_idle_pods_least_conn_is_even() {
    let balancer = balancer(&["--balance", "least_conn"]);
    let _tunnel = busy(&balancer, "10.0.0.2:1", 1);
    let first = (0..300).filter(|_| &*name(&choose(&balancer, "/", [1; 4])) == "10.0.0.1:1").count();
    assert!((149..=151).contains(&first), "{first} of 300 between two idle pods");
}

use super::*;
use crate::config::{Command, parse};
use crate::metrics::Metrics;

fn balancer(args: &[&str]) -> Rc<Balancer> {
    let words = ["pod-router", "--default-backend", "10.0.0.1:1,10.0.0.2:1,10.0.0.3:1"].iter().chain(args);
    let Ok(Command::Serve(config)) = parse(words.map(Into::into), std::iter::empty(), false) else {
        panic!("{args:?} are settings");
    };
    let config = Arc::from(config);
    Balancer::new(Arc::clone(&config), Arc::new(Backends::new(config, Arc::new(Metrics::new()))))
}

fn choose(balancer: &Balancer, target: &str, client: [u8; 4]) -> Box<Choice> {
    let head = http::Request::get(target).body(()).expect("a request").into_parts().0;
    balancer.choose(&head, false, client.into()).expect("there are pods")
}

/// Lets the pod fail until it is ejected, and waits until its trial is due.
fn eject(balancer: &Balancer, pod: &str) -> Arc<Member> {
    let backend = balancer.backends.backend(0);
    let member = Arc::clone(backend.set().named(pod).expect("one of the set"));
    (0..3).for_each(|_| balancer.backends.failed(backend, &member));
    assert!(member.is_ejected());
    while member.availability(Instant::now()) != Availability::OnTrial {
        std::thread::yield_now();
    }
    member
}

const POLL: &str = "/socket.io/?EIO=4&transport=polling&sid=x";

#[test]
fn one_request_tries_a_pod_that_was_ejected() {
    let balancer = balancer(&["--fail-timeout", "300ms"]);
    let member = eject(&balancer, "10.0.0.2:1");
    let picks: Vec<_> = (0..5).map(|_| choose(&balancer, "/", [1; 4])).collect();
    assert_eq!(picks.iter().filter(|choice| choice.name == member.name).count(), 1);
    assert_eq!(picks[0].name, member.name, "the first that comes");
    balancer.answered(&picks[0], StatusCode::OK);
    assert_eq!(member.availability(Instant::now()), Availability::Open);
}

#[test]
fn a_sessions_request_is_no_trial() {
    let balancer = balancer(&["--fail-timeout", "300ms"]);
    let member = eject(&balancer, "10.0.0.2:1");
    for n in 0..50 {
        assert_ne!(choose(&balancer, POLL, [9, 9, 9, n]).name, member.name);
    }
    assert_eq!(member.availability(Instant::now()), Availability::OnTrial);
}

/// The first request of a session by the client's address goes where all that follow it will go.
#[test]
fn only_a_pods_own_clients_try_it() {
    let balancer = balancer(&["--fail-timeout", "300ms"]);
    let handshake = "/socket.io/?EIO=4&transport=polling";
    let clients: Vec<_> = (0..50).map(|n| [9, 9, 9, n]).collect();
    let homes: Vec<_> = clients.iter().map(|client| choose(&balancer, handshake, *client).name).collect();
    let member = eject(&balancer, "10.0.0.2:1");
    for (client, home) in clients.iter().zip(&homes).filter(|(_, home)| **home != member.name) {
        assert_eq!(choose(&balancer, handshake, *client).name, *home);
    }
    assert_eq!(member.availability(Instant::now()), Availability::OnTrial);
    let of_its_own = clients.iter().zip(&homes).find(|(_, home)| **home == member.name).expect("one in three");
    let tried = choose(&balancer, handshake, *of_its_own.0);
    assert_eq!(tried.name, member.name);
    balancer.answered(&tried, StatusCode::OK);
    assert_eq!(choose(&balancer, POLL, *of_its_own.0).name, member.name);
}

#[test]
fn a_session_stays_and_others_go_elsewhere_within_the_budget() {
    let balancer = balancer(&["--retry-budget", "0"]);
    let mut session = choose(&balancer, POLL, [1; 4]);
    let before = Arc::clone(&session.name);
    assert!(!balancer.elsewhere(&mut session));
    balancer.anew(&mut session);
    assert_eq!(session.name, before);
    assert!(!balancer.elsewhere(&mut choose(&balancer, "/", [1; 4])), "no budget");

    let balancer = self::balancer(&[]);
    let mut choice = choose(&balancer, "/", [1; 4]);
    let mut met = vec![Arc::clone(&choice.name)];
    while balancer.elsewhere(&mut choice) {
        met.push(Arc::clone(&choice.name));
    }
    met.sort();
    assert_eq!(met.iter().map(|name| &**name).collect::<Vec<_>>(), ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
    balancer.anew(&mut choice);
    assert!(choice.tried.is_empty() && choice.member.is_some());
}

use super::*;
use crate::config::{Command, parse};

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn backends(args: &[&str]) -> Backends {
    let words = ["pod-router", "--affinity-cookie", "c", "--affinity-key", KEY];
    let words = words.iter().chain(args).map(Into::into);
    let Ok(Command::Serve(config)) = parse(words, [], false) else { panic!("{args:?} are settings") };
    Backends::new(Arc::from(config), Arc::new(Metrics::new()))
}

/// A pod at this address.
fn found(address: &str, weight: u32) -> Found {
    Found::new(address.into(), address.parse().expect("an address"), false, weight)
}

/// A name while it leads to one address.
fn alone(name: &str, origin: &str) -> Found {
    Found { origin: origin.into(), at: origin.into(), ..found(name, 1) }
}

fn names(backend: &Backend) -> Vec<Arc<str>> {
    backend.set().members.iter().map(|member| Arc::clone(&member.name)).collect()
}

/// CoreDNS gives each of N pods the weight 100 / N. From one pod to three.
#[test]
fn weights_follow_the_srv_record() {
    let backends = backends(&["--default-backend", "_http._tcp.x"]);
    backends.learn((0, 0), vec![found("a:1", 100)]);
    backends.learn((0, 0), vec![found("a:1", 33), found("b:1", 33), found("c:1", 33)]);
    let weights = || {
        let set = backends.backend(0).set();
        let candidates = set.members.iter().map(|member| member.candidate(0, Instant::now()));
        candidates.map(|candidate| candidate.weight).collect::<Vec<_>>()
    };
    assert_eq!(weights(), [33.0; 3]);
    let version = backends.backend(0).set().version;
    backends.learn((0, 0), vec![found("a:1", 20), found("b:1", 30), found("c:1", 50)]);
    assert_eq!(weights(), [20.0, 30.0, 50.0]);
    assert_eq!(backends.backend(0).set().version, version, "the same pods");
}

/// A rollout passes through one address, and a service begins with one.
#[test]
fn a_pod_stays_known_whatever_the_number_of_addresses() {
    let backends = backends(&["--default-backend", "headless:1", "--slow-start", "10s"]);
    let backend = backends.backend(0);
    let limits = backends.ejection().expect("on by default");
    let pod = |address: &str| {
        let cookie = backends.signer.as_ref().expect("cookies are on").value("", address);
        backend.set().with_cookie(&cookie).map(|member| Arc::clone(&member.name))
    };
    backends.learn((0, 0), vec![alone("headless:1", "10.0.0.1:1")]);
    assert_eq!((pod("10.0.0.1:1"), pod("10.0.0.2:1")), (Some("headless:1".into()), None));
    for _ in 0..limits.fails {
        backend.set().members[0].failed(limits, Instant::now(), true);
    }
    let ejected = |name: &str| backend.set().named(name).expect("it is there").is_ejected();
    assert!(ejected("headless:1"));

    backends.learn((0, 0), vec![found("10.0.0.1:1", 1), found("10.0.0.2:1", 1)]);
    assert_eq!((pod("10.0.0.1:1"), pod("10.0.0.2:1")), (Some("10.0.0.1:1".into()), Some("10.0.0.2:1".into())));
    assert!(ejected("10.0.0.1:1") && !ejected("10.0.0.2:1"), "what is held against it stays");

    backends.learn((0, 0), vec![alone("headless:1", "10.0.0.2:1")]);
    assert_eq!((pod("10.0.0.1:1"), pod("10.0.0.2:1")), (None, Some("headless:1".into())));
    assert!(!ejected("headless:1"), "it is the other one now");
    assert_eq!(backend.set().members[0].address.to_string(), "headless:1", "dialled wherever it leads");
}

/// Whoever is behind an address is found out a moment later, or by another replica.
#[test]
fn a_pod_stays_itself_when_its_own_name_becomes_known() {
    let backends = backends(&["--default-backend", "headless:1"]);
    let (backend, limits) = (backends.backend(0), backends.ejection().expect("on by default"));
    let pod = |name: &str, at: &str| Found { name: name.into(), origin: name.into(), is_pod: true, ..found(at, 1) };
    let cookie = |name: &str| backend.set().named(name).and_then(|member| member.cookie.clone()).expect("it has one");
    let who_has = |cookie: &str| backend.set().with_cookie(cookie).map(|member| Arc::clone(&member.name));
    let hashed =
        || backend.set().members.iter().map(|member| member.candidate(0, Instant::now()).id).collect::<Vec<_>>();
    let is_ejected = |name: &str| backend.set().named(name).expect("it is there").is_ejected();

    backends.learn((0, 0), vec![found("10.0.0.1:1", 1), found("10.0.0.2:1", 1)]);
    let (by_address, ids) = (cookie("10.0.0.1:1"), hashed());
    for _ in 0..limits.fails {
        backends.failed(backend, &Arc::clone(&backend.set().members[0]));
    }
    assert!(is_ejected("10.0.0.1:1"));
    let at_address = backends.load(&"10.0.0.1:1".into());
    let _tunnel = at_address.begin();

    backends.learn((0, 0), vec![pod("backend-0", "10.0.0.1:1"), pod("backend-1", "10.0.0.2:1")]);
    assert!(is_ejected("backend-0") && !is_ejected("backend-1"), "what is held against it stays");
    let by_name = cookie("backend-0");
    assert!(by_name.starts_with("backend-0.") && who_has(&by_address) == who_has(&by_name), "{by_name}");
    assert_eq!(hashed(), ids, "nor do the clients move that are sent there by their address");
    assert_eq!(backend.set().named("10.0.0.1:1").map(|member| member.load()), Some(1), "nor is its tunnel forgotten");

    backends.learn((0, 0), vec![pod("backend-0", "10.0.0.3:1"), pod("backend-1", "10.0.0.1:1")]);
    assert!(is_ejected("backend-0") && !is_ejected("backend-1"), "what is held against a pod is that pod's");
    assert_eq!((who_has(&by_address), who_has(&by_name)), (Some("backend-1".into()), Some("backend-0".into())));
    backends.learn((0, 0), vec![found("10.0.0.1:1", 1), found("10.0.0.3:1", 1)]);
    assert!(is_ejected("10.0.0.3:1"), "nor does it end where nobody knows the name any more");
}

#[test]
fn a_name_that_leads_elsewhere_has_another_cookie() {
    let backends = backends(&["--default-backend", "service:1"]);
    let cookie = |origin: &str| {
        backends.learn((0, 0), vec![alone("service:1", origin)]);
        backends.backend(0).set().members[0].cookie.clone().expect("cookies are on")
    };
    let first = cookie("10.0.0.1:1");
    assert_ne!(cookie("10.0.0.2:1"), first);
    assert!(backends.backend(0).set().with_cookie(&first).is_none());
    assert_eq!(cookie("10.0.0.1:1"), first);
}

#[test]
fn each_source_is_waited_for_and_kept_by_itself() {
    let backends = backends(&["--default-backend", "headless:1,missing:1,10.0.0.9:1"]);
    assert!(!backends.are_known());
    assert_eq!(names(backends.backend(0)), ["headless:1", "missing:1", "10.0.0.9:1"].map(Arc::from));
    backends.learn((0, 0), vec![found("10.0.0.1:1", 1), found("10.0.0.2:1", 1)]);
    let known = ["10.0.0.1:1", "10.0.0.2:1", "missing:1", "10.0.0.9:1"].map(Arc::from);
    assert_eq!(names(backends.backend(0)), known);
    backends.no_longer_await_one();
    assert!(!backends.are_known());
    backends.no_longer_await_one();
    assert!(backends.are_known(), "the third is an address");
}

#[test]
fn a_pod_that_has_left_is_forgotten_after_a_while() {
    let backends = backends(&["--default-backend", "headless:1"]);
    let of = |n: u8| found(&format!("10.0.0.{n}:1"), 1);
    let counted = || backends.metrics.pods().iter().map(|pod| pod.name().to_owned()).collect::<Vec<_>>();
    backends.learn((0, 0), vec![of(1), of(2), of(3)]);
    let busy = Arc::clone(&backends.backend(0).set().members[1]);
    busy.metrics().connections.inc();
    backends.learn((0, 0), vec![of(3)]);
    let later = Instant::now() + FORGOTTEN;
    backends.forget_departed(Instant::now());
    assert!(counted().contains(&"10.0.0.1:1".to_owned()), "not yet");
    backends.forget_departed(later + Duration::from_secs(1));
    assert_eq!(counted(), ["10.0.0.2:1", "10.0.0.3:1"], "not who has connections, nor who is there");
    busy.metrics().connections.dec();
    backends.forget_departed(later + Duration::from_secs(2));
    assert_eq!(counted(), ["10.0.0.3:1"]);
    assert!(backends.departed().is_empty());
}

#[test]
fn one_that_comes_back_is_not_forgotten() {
    let backends = backends(&["--default-backend", "headless:1"]);
    let of = |n: u8| found(&format!("10.0.0.{n}:1"), 1);
    backends.learn((0, 0), vec![of(1), of(2)]);
    backends.learn((0, 0), vec![of(2)]);
    backends.learn((0, 0), vec![of(1), of(2)]);
    backends.forget_departed(Instant::now() + 2 * FORGOTTEN);
    assert!(backends.metrics.pods().iter().any(|pod| pod.name() == "10.0.0.1:1"));
}

#[test]
fn a_sid_may_name_a_pod_by_its_first_label_where_only_one_has_it() {
    let own = "backend-0.backend.default.svc.cluster.local:3000";
    for (list, alias, expected) in [
        ("api-1.api:1,api-2.api:1", "api-1", Some("api-1.api:1")),
        ("api-1.api:1,api-1.other:1", "api-1", None),
        ("api-1.api:1,api-1.api:2", "api-1", None),
        ("api-1.api:1,api-1.other:1", "api-1.other:1", Some("api-1.other:1")),
        // The name of a pod is that pod's, in whatever order.
        (&format!("{own},backend-0.other:3000"), "backend-0", Some("backend-0")),
        (&format!("backend-0.other:3000,{own}"), "backend-0", Some("backend-0")),
        ("10.0.0.1:1,10.0.0.2:1", "10", None),
    ] {
        let backends = backends(&["--default-backend", list]);
        let set = backends.backend(0).set();
        let named = set.named(alias);
        assert_eq!(named.map(|member| &*member.name), expected, "{alias} of {list}");
        assert!(alias != "backend-0" || named.is_some_and(|member| member.is_pod), "{list}");
    }
}

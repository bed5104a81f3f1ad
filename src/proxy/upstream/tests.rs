use socket2::{Domain, Socket, Type};

use super::*;
use crate::backends::Backends;
use crate::config::{Command, parse};
use crate::core::decision::{DialLimits, Stage};
use crate::limits::{Files, LEAST_KEPT, Places};
use crate::proxy::nursery::Youth;

/// A pool with the default settings.
pub(in crate::proxy) fn pool() -> Rc<Pool> {
    within(Files::default(), &Places::new(1000))
}

/// The same with so many open files, some of which the clients take.
fn within(files: Files, clients: &Arc<Places>) -> Rc<Pool> {
    let Ok(Command::Serve(config)) = parse(["pod-router".into()], [], false) else { panic!("no settings will do") };
    let (config, metrics): (Arc<crate::config::Config>, _) = (Arc::from(config), Arc::new(Metrics::new()));
    let commons = Commons {
        dns: Dns::default(),
        backends: Arc::new(Backends::new(Arc::clone(&config), Arc::clone(&metrics))),
        queues: Queues::default(),
        reach: Reach::default(),
        limits: crate::limits::Limits::default(),
        clients: Arc::clone(clients),
        files,
        metrics,
    };
    Pool::new(config.upstream.clone(), commons)
}

/// A connection for a request that needs no place.
pub(in crate::proxy) async fn lease(pool: &Pool, endpoint: &Rc<Endpoint>) -> Result<Lease, NoLease> {
    let dial = Dial { limits: DialLimits::first(Duration::from_secs(20), Duration::ZERO), youth: &Youth::over() };
    let lease = pool.lease(endpoint, None, (Instant::now(), dial)).await?;
    Ok(lease.expect("who has entered nowhere has not entered the wrong line"))
}

/// Whoever is told of another's failed dial has none of its own.
#[tokio::test]
async fn a_dial_fails_once() {
    let pool = pool();
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr());
    let endpoint = pool.listed("gone", &free.expect("loopback has a free port").to_string().parse().expect("one"));
    let mut failures = [0, 0];
    for _ in 0..1000 {
        let failed = lease(&pool, &endpoint).await.expect_err("nobody there");
        assert_eq!((failed.failure.stage, failed.failure.sent), (Stage::Connect, false));
        failures[usize::from(failed.own)] += 1;
    }
    assert_eq!(endpoint.metrics().connect_failures.get(), failures[1]);
    assert!(failures[0] > 0, "each was dialled");
}

/// Clients and their requests come first.
#[tokio::test]
async fn what_clients_have_no_files_for_is_not_kept() {
    let files = Files::of(2 * LEAST_KEPT + 20, 0, 1);
    let clients = Places::new(files.most_clients());
    let pool = within(files, &clients);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket").to_string().parse().expect("an address");
    let pods = ["one", "other"].map(|name| pool.listed(name, &address));
    let kept = || pods.iter().map(|pod| pod.idle.borrow().len()).collect::<Vec<_>>();
    let leased = async |pod, count| {
        let mut leases = Vec::new();
        while leases.len() < count {
            leases.push(lease(&pool, pod).await.expect("it listens"));
        }
        leases
    };
    for (pod, count) in pods.iter().zip([LEAST_KEPT, 100]) {
        leased(pod, count).await.into_iter().for_each(Lease::give_back);
    }
    assert_eq!(kept(), [LEAST_KEPT, LEAST_KEPT + 20], "all files that there are");
    let _taken: Vec<_> = std::iter::from_fn(|| clients.take()).take(10).collect();
    pool.sweep();
    assert_eq!(kept().iter().sum::<usize>(), 2 * LEAST_KEPT, "two less for each client");
    let _taken: Vec<_> = std::iter::from_fn(|| clients.take()).collect();
    // All that are kept, of one of them, and one more.
    let count = kept()[0] + 1;
    let leases = leased(&pods[0], count).await;
    assert_eq!(kept().iter().sum::<usize>(), LEAST_KEPT, "a dial makes room");
    leases.into_iter().for_each(Lease::give_back);
    assert_eq!(kept().iter().sum::<usize>(), LEAST_KEPT);
}

/// A dial that takes its time may fail when others have long reached the pod, which has come back at another address.
#[tokio::test]
async fn a_late_failure_says_nothing_of_connections_made_since() {
    // A machine that stands still for a second in between lets the first one through.
    for _ in 0..5 {
        let pool = pool();
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        full.bind(&any.into()).and_then(|()| full.listen(0)).expect("loopback has a free port");
        let address = full.local_addr().expect("a bound socket").as_socket().expect("of IP");
        let endpoint = pool.listed("pod", &address.to_string().parse().expect("an address"));
        let first = std::net::TcpStream::connect(address).expect("the backlog takes one");
        let late = lease(&pool, &endpoint);
        tokio::pin!(late);
        tokio::select! {
            biased;
            _ = &mut late => panic!("the backlog takes no other"),
            () = tokio::task::yield_now() => {}
        }
        let (_accepted, _) = full.accept().expect("the first");
        lease(&pool, &endpoint).await.expect("there is room again").give_back();
        let _accepted = full.accept().expect("the other");
        drop((full, first));
        if let Err(failed) = late.await {
            assert_eq!((failed.own, endpoint.metrics().connect_failures.get()), (true, 1));
            assert!(lease(&pool, &endpoint).await.expect("it is kept").was_reused());
            return;
        }
    }
    panic!("it has reached a pod that does not listen any more");
}

//! The policies, against the theory and against nginx's own.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;

use super::tunnel;
use crate::support::{Client, Conn, Gate, Pods, Process, Redis, Router, eventually, script};

/// One in a thousand million fair distributions over three pods has more (two degrees of freedom: `exp(-FAIR / 2)`). The pods'
/// ports are others in each run, and so are their hashes: a bound that chance passes once in a thousand runs would be passed.
const FAIR: f64 = 41.4;

/// By their addresses, as nginx knows them, and on as many threads as there are.
fn router(redis: &Redis, pods: &Pods, args: &[&str]) -> Router {
    Router::builder().redis(redis).default_backend(pods.iter()).args(args).start_ready()
}

/// Which pod each of `count` clients gets, by the address that the ingress names.
fn pods_of(router: &Router, count: usize) -> Vec<String> {
    clients_pods(&mut router.client(), count)
}

fn clients_pods(client: &mut Client, count: usize) -> Vec<String> {
    let of = |n| {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {}\r\n\r\n", address(n));
        client.request(request).pod().to_owned()
    };
    (0..count).map(of).collect()
}

fn address(n: usize) -> String {
    format!("198.{}.{}.{}", 18 + n / 65536, n / 256 % 256, n % 256)
}

fn chi_squared(picks: &[String], pods: usize) -> f64 {
    let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
    picks.iter().for_each(|pod| *counts.entry(pod).or_default() += 1.0);
    assert_eq!(counts.len(), pods, "{counts:?}");
    let expected = picks.len() as f64 / pods as f64;
    counts.values().map(|count| (count - expected).powi(2) / expected).sum()
}

#[test]
fn client_ip_is_the_same_on_every_replica_and_fair() {
    let (redis, pods) = (Redis::start(), Pods::start(3));
    let routers = [(); 2].map(|()| router(&redis, &pods, &["--balance", "client_ip"]));
    let picks = pods_of(&routers[0], 3000);
    assert_eq!(picks, pods_of(&routers[1], 3000));
    let ours = chi_squared(&picks, 3);
    assert!(ours < FAIR, "{ours}");

    let nginx = Nginx::start("hash $http_x_forwarded_for consistent;", &pods);
    let mut client = Client::connect(nginx.addr());
    let theirs = chi_squared(&clients_pods(&mut client, 3000), 3);
    eprintln!("client_ip over 3000 clients: chi squared {ours:.1}, nginx's consistent hash {theirs:.1}");
}

#[test]
fn when_a_pod_leaves_only_its_clients_move() {
    let (redis, pods) = (Redis::start(), Pods::start(3));
    let all = router(&redis, &pods, &["--balance", "client_ip"]);
    let left = Router::builder()
        .redis(&redis)
        .default_backend([&pods[0], &pods[2]])
        .args(&["--balance", "client_ip"])
        .start_ready();
    let (before, after) = (pods_of(&all, 3000), pods_of(&left, 3000));
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || before == "backend-1"));
    eprintln!("a pod of three leaves: {:.1} % of clients move", moved as f64 / 30.0);
    assert!((850..1150).contains(&moved), "{moved}: a third, and five standard deviations around it");
}

#[test]
fn least_conn_counts_requests_and_tunnels() {
    let (redis, pods) = (Redis::start(), Pods::start(3));
    let gate = Gate::shared();
    for pod in pods.iter() {
        let gate = std::sync::Arc::clone(&gate);
        pod.play(move |mut conn: Conn| {
            let head = conn.request()?;
            if head.second_word() == "/slow" {
                gate.wait();
            }
            if head.has("upgrade") {
                conn.send(script::switching_protocols(&head))?;
                return conn.until_closed();
            }
            conn.send(format!("HTTP/1.1 200 OK\r\nX-Pod: {}\r\nContent-Length: 0\r\n\r\n", conn.pod_name()))?;
            conn.until_closed()
        });
    }
    let router = router(&redis, &pods, &["--balance", "least_conn", "--threads", "2"]);
    let in_flight = || pods.iter().map(|pod| pod.received().len()).collect::<Vec<_>>();
    // Six requests that are not answered: two at each pod, whichever thread takes them.
    let slow: Vec<_> = (0..6)
        .map(|n| {
            let client = router.client();
            client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
            eventually("it is at a pod", || in_flight().iter().sum::<usize>() == n + 1);
            client
        })
        .collect();
    assert_eq!(in_flight(), [2, 2, 2]);
    // And as many tunnels on top.
    let tunnels = [(); 3].map(|()| tunnel(&router, "/live"));
    assert_eq!(in_flight(), [3, 3, 3]);
    gate.open();
    drop((slow, tunnels));
}

/// One of three pods does not answer. Who goes by load gives it one request; chance would give it a third of them.
#[test]
fn who_goes_by_load_leaves_a_slow_pod_alone_as_nginx_does() {
    const REQUESTS: usize = 90;
    let spread = |connect: &dyn Fn(&Pods) -> Box<dyn Fn() -> Client>| {
        let (pods, gate) = (Pods::start(3), Gate::shared());
        let slow = std::sync::Arc::clone(&gate);
        pods[1].play(move |mut conn| {
            conn.request()?;
            slow.wait();
            conn.until_closed()
        });
        let (connect, received) = (connect(&pods), |n: usize| pods[n].received().len());
        let mut waiting = Vec::new();
        for n in 0..REQUESTS {
            let mut client = connect();
            client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            eventually("it is at a pod", || (0..3).map(received).sum::<usize>() == n + 1);
            if received(1) > waiting.len() {
                waiting.push(client);
            } else {
                assert_eq!(client.read_response().status(), 200);
                client.expect_end();
            }
        }
        gate.open();
        [0, 1, 2].map(received)
    };
    let nginx = std::cell::RefCell::new(None);
    let theirs = spread(&|pods| {
        let addr = nginx.borrow_mut().insert(Nginx::start("least_conn;", pods)).addr();
        Box::new(move || Client::connect(addr))
    });
    for (policy, slow) in [("least_conn", 1..=1), ("p2c", 0..=3), ("round_robin", 30..=30)] {
        let redis = Redis::start();
        let ours = spread(&|pods| {
            let router = router(&redis, pods, &["--balance", policy, "--threads", "1"]);
            Box::new(move || router.client())
        });
        eprintln!("{policy} over {REQUESTS} requests: {ours:?}, nginx's least_conn {theirs:?}");
        assert!(slow.contains(&ours[1]), "{policy}: {ours:?}");
        let (first, third) = (ours[0] as f64, ours[2] as f64);
        // 99.9 % of fair shares between the two others have less (one degree of freedom).
        assert!((first - third).powi(2) / (first + third) < 10.83, "{policy}: {ours:?}");
    }
    assert_eq!(theirs[1], 1, "nginx");
}

#[test]
fn weights_are_shares() {
    let (redis, pods) = (Redis::start(), Pods::start(2));
    let backends = format!("{};weight=3,{}", pods[0].addr(), pods[1].addr());
    let router =
        Router::builder().redis(&redis).arg("--default-backend", backends).args(&["--threads", "1"]).start_ready();
    let picks: Vec<_> = (0..40).map(|_| router.get("/").pod().to_owned()).collect();
    assert_eq!(picks.iter().filter(|pod| *pod == "backend-0").count(), 30);
}

/// A real nginx in front of the same pods.
struct Nginx {
    _process: Process,
    addr: std::net::SocketAddr,
    folder: std::path::PathBuf,
}

impl Nginx {
    fn start(policy: &str, pods: &Pods) -> Self {
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        let folder = std::env::temp_dir().join(format!("pod-router-nginx-{}", addr.port()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let servers: String = pods.iter().map(|pod| format!("server {};", pod.addr())).collect();
        let text = format!(
            "daemon off; master_process off; pid {0}/pid; error_log {0}/error; events {{}}
             http {{ access_log off; keepalive_requests 100000; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};
             uwsgi_temp_path {0}; scgi_temp_path {0};
             upstream pods {{ {policy} {servers} }}
             server {{ listen {addr}; location / {{ proxy_pass http://pods; proxy_http_version 1.1; }} }} }}",
            folder.display()
        );
        let config = folder.join("nginx.conf");
        fs::write(&config, text).expect("the temporary folder is writable");
        let process = Process::start("nginx", "/usr/sbin/nginx", |command| {
            command.arg("-e").arg(folder.join("error")).arg("-c").arg(&config);
        });
        eventually("nginx listens", || Client::try_connect(addr).is_ok());
        Self { _process: process, addr, folder }
    }

    fn addr(&self) -> std::net::SocketAddr {
        self.addr
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

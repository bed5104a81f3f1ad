//! The demo of `deploy/compose`, its topology run as plain processes: two people in a real browser, through HAProxy,
//! two routers and three Socket.IO backends. `tests/run docker` does the same with containers. What the application
//! itself makes of odd requests, killed pods and a lost Redis is in `demo`.

mod demo;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::support::{Client, Process, StopOnDrop, own_ip};

/// The first port of `deploy/compose/run-local`, and how many it takes.
const PORT: u16 = 8080;
const PORTS: u16 = 10;

/// Where among them the admin listeners of the routers are.
const ADMIN: [u16; 2] = [4, 6];

/// The running demo, on an address of its own.
struct Demo {
    process: Process,
    output: Arc<Mutex<String>>,
    collecting: JoinHandle<()>,
    ip: IpAddr,
    /// A folder with a file for each program, its process id in it.
    pids: PathBuf,
}

// === impl Demo ===

impl Demo {
    fn start() -> Self {
        let ip = own_ip();
        let pids = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-{ip}"));
        fs::create_dir_all(&pids).expect("a folder for temporary files is writable");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/compose/run-local");
        let mut process = Process::start("deploy/compose/run-local", script, |command| {
            command.env("HOST", ip.to_string()).env("PORT", PORT.to_string());
            command.env("POD_ROUTER", env!("CARGO_BIN_EXE_pod-router")).env("PIDS", &pids);
        });
        let mut lines = BufReader::new(process.take_stdout()).lines().map_while(Result::ok);
        let output = Arc::<Mutex<String>>::default();
        let keep = |line: &str| *output.lock().unwrap_or_else(PoisonError::into_inner) += &format!("{line}\n");
        let ready = lines.by_ref().inspect(|line| keep(line)).any(|line| line.starts_with("Open http://"));
        if !ready {
            let mut errors = String::new();
            let _ = process.take_stderr().read_to_string(&mut errors);
            panic!("the demo does not come up: {}{errors}", output.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let sink = Arc::clone(&output);
        let collecting = std::thread::spawn(move || {
            lines.for_each(|line| *sink.lock().unwrap_or_else(PoisonError::into_inner) += &format!("{line}\n"));
        });
        Self { process, output, collecting, ip, pids }
    }

    fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn addr(&self, offset: u16) -> SocketAddr {
        (self.ip, PORT + offset).into()
    }

    fn url(&self) -> String {
        format!("http://{}/", self.addr(0))
    }

    /// A command for the shell that ends the pod whose name follows it, as Kubernetes would.
    fn stop_command(&self) -> String {
        format!("sh -c 'kill \"$(cat \"{}/$0\")\"'", self.pids.display())
    }

    /// A command for the shell that ends a router, and waits until it has gone.
    fn stop_router_command(&self, router: &str) -> String {
        let file = self.pids.join(router);
        format!("pid=$(cat '{}'); kill $pid; while kill -0 $pid; do sleep 0.05; done", file.display())
    }

    /// The pods that this router has sent requests to, by its metrics.
    fn pods_served(&self, router: usize) -> BTreeSet<String> {
        let mut client = Client::connect(self.addr(ADMIN[router]));
        client.send("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let metrics = client.read_response().text();
        let lines = metrics.lines().filter_map(|line| line.strip_prefix("pod_router_upstream_requests_total{"));
        lines.filter_map(|line| line.split("pod=\"").nth(1)?.split('"').next()).map(str::to_owned).collect()
    }

    /// Ends it as Ctrl-C does.
    fn end(mut self) {
        self.process.signal("TERM");
        assert!(self.process.wait_exit().success(), "{}", self.output());
        // Every program holds the output open through its `sed`: they have all ended when it does.
        self.collecting.join().expect("collecting does not panic");
        for offset in 0..PORTS {
            let addr = (self.ip, PORT + offset);
            assert!(std::net::TcpListener::bind(addr).is_ok(), "something is left at port {}", addr.1);
        }
        fs::remove_dir_all(&self.pids).expect("the folder is ours");
    }
}

/// With `SCREENSHOTS=FOLDER` (an absolute one) what they see is kept.
#[test]
fn two_people_share_a_room_that_survives_its_pod() {
    let demo = Demo::start();
    let screenshots = std::env::var("SCREENSHOTS").unwrap_or_default();
    let mut browser = Process::start("the browser", "node", |command| {
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node"));
        command.args(["compose.mjs", "--url", &demo.url(), "--deadline", "150"]);
        command.args(["--stop", &demo.stop_command(), "--stop-router", &demo.stop_router_command("router-1")]);
        if !screenshots.is_empty() {
            command.args(["--screenshots", &screenshots]);
        }
    });
    let (mut text, mut errors) = (String::new(), String::new());
    browser.take_stdout().read_to_string(&mut text).expect("the output can be read");
    browser.take_stderr().read_to_string(&mut errors).expect("the errors can be read");
    assert!(browser.wait_exit().success(), "{text}{errors}{}", demo.output());

    let seen: Value = serde_json::from_str(&text).expect("what they saw as JSON");
    assert_eq!(seen["steps"].as_array().map(Vec::len), Some(9), "{seen}");
    let pod = seen["pod"].as_str().expect("a pod").to_owned();
    // One has ended before; nothing in front of them is sticky.
    let served = demo.pods_served(1);
    assert!(served.contains(&pod), "router 2 has not served {pod}: {served:?}");
    let by_first = |line: &str| line.starts_with("router-1 | ") && line.contains(r#""source":"room""#);
    assert!(demo.output().lines().any(by_first), "router 1 has served nobody");
    // The README sorts such lines by their beginning, without the prefix.
    let output = demo.output();
    let lines: Vec<_> = output.lines().filter_map(|line| line.strip_prefix("router-1 | ")).collect();
    assert!(lines.len() > 10 && lines.iter().all(|line| line.starts_with(r#"{"timestamp":"20"#)), "{lines:?}");
    demo.end();
}

/// A rolling update of the routers, as whoever is in front of them sees it: each ends while requests come.
#[test]
fn a_router_that_ends_fails_no_request() {
    const AFTERWARDS: usize = 100;
    let demo = Demo::start();
    let target = "/api/room/room_a/state";
    let has_gone = AtomicBool::new(false);
    let ask = |is_kept: bool| {
        let (mut kept, mut afterwards) = (Client::connect(demo.addr(0)), 0);
        while afterwards < AFTERWARDS {
            if !is_kept {
                kept = Client::connect(demo.addr(0));
            }
            let answer = kept.get(target);
            assert_eq!(answer.status(), 200, "{}{}", answer.text(), demo.output());
            afterwards += usize::from(has_gone.load(Ordering::Relaxed));
        }
    };
    std::thread::scope(|scope| {
        let ask = &ask;
        for is_kept in [true, false] {
            scope.spawn(move || ask(is_kept));
        }
        let _end = StopOnDrop(&has_gone);
        let stop = demo.stop_router_command("router-2");
        let stopped = Command::new("sh").args(["-c", &stop]).output().expect("sh is there");
        assert!(stopped.status.success(), "{stopped:?}");
    });
    let ended = |line: &str| line.starts_with("router-2 | ") && line.contains(r#""message":"drained""#);
    assert!(demo.output().lines().any(ended), "{}", demo.output());
    demo.end();
}

/// The router serves for at least three health checks of whoever is in front of it, after it has begun to end.
#[test]
fn routers_serve_until_nobody_sends_them_anything() {
    let milliseconds = |text: &str| humantime::parse_duration(text).expect("a duration").as_millis();
    let number = |text: &str, before: &str| between(text, before, " ")[0].trim_end_matches(['\n', ',']).to_owned();
    let (haproxy, traefik) = (read("haproxy.cfg"), read("traefik.yaml"));
    for (lame_duck, interval) in [
        (number(&read("run-local"), "POD_ROUTER_LAME_DUCK="), number(&haproxy, "check inter ")),
        (number(&read("compose.yaml"), "POD_ROUTER_LAME_DUCK: "), number(&traefik, "port: 9901, interval: ")),
    ] {
        let (served, interval) = (milliseconds(&lame_duck), milliseconds(&interval));
        assert!(served >= 3 * interval, "{served} ms, and a health check every {interval} ms");
    }
}

/// What `text` has between each `before` and the next `after`.
fn between<'a>(text: &'a str, before: &'a str, after: &'a str) -> Vec<&'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split(after).next()).collect()
}

/// A file of `deploy/compose`.
fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose").join(name);
    fs::read_to_string(path).expect("it is there")
}

/// Whoever sends requests must be the first to close an idle connection: 90 s is what Traefik does by itself.
#[test]
fn traefik_closes_idle_connections_before_the_node_servers_do() {
    let kept = |app: &str| -> u64 {
        let text = read(app);
        let number = between(&text, "server.keepAliveTimeout = ", ";").concat().replace('_', "");
        number.parse().expect("milliseconds")
    };
    let traefik = read("traefik.yaml");
    let (services, transports) = traefik.split_once("serversTransports:").expect("both are there");
    // The part of a text below this key, of the second level.
    let below = |text: &str, key: &str| text.split(&format!("\n    {key}:\n")).nth(1).expect("it is there").to_owned();
    for (service, app) in [("backends", "app/backend.mjs"), ("frontend", "app/frontend.mjs")] {
        let service = below(services, service);
        let transport = below(transports, between(&service, "serversTransport: ", "\n")[0]);
        let idle: u64 = between(&transport, "idleConnTimeout: ", "s\n")[0].parse().expect("seconds");
        assert!(1000 * idle < kept(app), "{idle} s to {app}");
    }
}

/// What ends by itself, for whatever reason, comes back.
#[test]
fn every_service_is_restarted_when_it_ends() {
    let compose = read("compose.yaml");
    let (_, services) = compose.split_once("\nservices:\n").expect("they are there");
    // A service begins with its name, two columns in.
    let begins = |line: &&str| line.strip_prefix("  ").is_some_and(|name| name.starts_with(char::is_alphabetic));
    let names: Vec<_> = services.lines().filter(begins).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    for name in names {
        let rest = compose.split(&format!("\n{name}")).nth(1).expect("it is there");
        let section = rest.lines().take_while(|line| !begins(line)).collect::<Vec<_>>().join("\n");
        let template = ["*router", "*backend\n"].into_iter().find(|it| format!("{name}\n{section}").contains(it));
        let inherited =
            |it: &str| between(&compose, &format!(": &{}\n", it.trim_matches(['*', '\n'])), "\n\n").concat();
        let text = template.map_or(section, inherited);
        assert!(text.contains("  restart: unless-stopped\n"), "{name} {text}");
    }
}

/// A program that is missing is named, with what to do about it.
#[test]
fn run_local_says_what_is_missing() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-path-{}", own_ip()));
    fs::create_dir_all(&folder).expect("a folder for temporary files is writable");
    let run = || {
        let mut command = Command::new("/bin/bash");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/compose/run-local"));
        command.env("PATH", &folder).env_remove("POD_ROUTER").env_remove("PIDS");
        let output = command.output().expect("bash is there");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    symlink("/usr/bin/dirname", folder.join("dirname")).expect("a new name");
    for (program, word) in [
        ("redis-server", "apt-get install redis-server"),
        ("haproxy", "apt-get install haproxy"),
        ("node", "apt-get install nodejs"),
        ("npm", "apt-get install npm"),
        ("curl", "apt-get install curl"),
        ("setpriv", "apt-get install util-linux"),
        ("cargo", "Rust toolchain"),
    ] {
        let (success, said) = run();
        assert!(!success && said.contains(word), "without {program}: {said}");
        // Only looked for until all are there.
        symlink("/bin/true", folder.join(program)).expect("a new name");
    }
    fs::remove_dir_all(&folder).expect("the folder is ours");
}

/// Traefik itself runs in no test. Its rules are those of HAProxy, which does, and the names in them are services.
#[test]
fn the_rules_for_traefik_are_those_for_haproxy() {
    let (traefik, haproxy, compose) = (read("traefik.yaml"), read("haproxy.cfg"), read("compose.yaml"));

    let rules: Vec<Vec<_>> = between(&traefik, "rule: ", "priority:")
        .into_iter()
        .map(|rule| between(rule, "PathPrefix(`", "`)"))
        .filter(|prefixes| *prefixes != ["/"]) // HAProxy's `default_backend`
        .collect();
    let conditions: Vec<Vec<_>> = between(&haproxy, "{ path_beg ", " }")
        .into_iter()
        .map(|prefixes| prefixes.split_whitespace().collect())
        .collect();
    assert_eq!(rules, conditions, "Traefik's on the left");
    assert_eq!(rules.len(), 2);

    let addresses = between(&traefik, "url: http://", "\n");
    assert_eq!(addresses.len(), 6, "{addresses:?}");
    for address in addresses {
        let (service, port) = address.split_once(':').expect("a host and a port");
        assert!(compose.contains(&format!("\n  {service}:")), "compose.yaml has no service {service}");
        assert_eq!(port, if service.starts_with("router-") { "3001" } else { "3000" }, "{service}");
    }
}

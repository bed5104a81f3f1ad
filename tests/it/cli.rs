//! The command line: help, wrong settings, `check`, `explain`, and that the documents agree with it.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Command, Output};

use pod_router::config::{Setting, settings};
use pod_router::proxy::CODES;
use serde_json::Value;

use crate::support::{Pod, Redis, Router, now_ms, script};

const README: &str = include_str!("../../README.md");

/// The flags of the public contract; others may be added, none may be missing.
const CONTRACT: [&str; 31] = [
    "--listen",
    "--admin-listen",
    "--directory",
    "--redis-url",
    "--redis-timeout",
    "--room-key",
    "--affinity",
    "--redirect",
    "--statefulset",
    "--pod-address",
    "--pod",
    "--default-backend",
    "--on-unassigned",
    "--cache-ttl",
    "--cache-stale",
    "--cache-negative",
    "--cache-capacity",
    "--connect-timeout",
    "--pod-wait",
    "--response-timeout",
    "--upstream-idle",
    "--downstream-idle",
    "--tunnel-idle",
    "--max-connections",
    "--max-header-bytes",
    "--trusted-proxies",
    "--lame-duck",
    "--drain-timeout",
    "--threads",
    "--log-format",
    "--max-rooms-per-pod",
];

fn run(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pod-router"));
    command.args(args).env_clear().envs(variables.iter().copied());
    command.output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn explain(target: &str, args: &[&str]) -> Value {
    let mut all = vec!["explain", target, "--json"];
    all.extend(args);
    let output = run(&all, &[]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// A row of the README's table.
fn row(setting: &Setting) -> String {
    let defaults = setting.defaults.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    let defaults = if defaults.is_empty() { "none".to_owned() } else { defaults };
    format!("| `{}` | {defaults} | {} |", setting.flag, setting.meaning)
}

#[test]
fn readme_help_and_contract_name_the_same_settings() {
    let help = stdout(&run(&["--help"], &[]));
    // A table for each heading, in the order of the first setting under it.
    let mut tables: Vec<(String, String)> = Vec::new();
    for setting in settings() {
        let row = row(&setting);
        match tables.iter_mut().find(|(heading, _)| *heading == setting.heading) {
            Some((_, table)) => table.extend(["\n", &row]),
            None => tables.push((setting.heading, format!("\n| flag | default | meaning |\n|---|---|---|\n{row}"))),
        }
    }
    let tables: Vec<_> = tables.iter().map(|(heading, table)| format!("### {heading}\n{table}\n")).collect();
    assert!(README.contains(&tables.join("\n")), "the README's tables should be:\n{}", tables.join("\n"));
    for setting in settings() {
        assert!(help.contains(&format!("{} <", setting.flag)), "{} is not in --help", setting.flag);
        for variable in &setting.variables {
            assert!(help.contains(variable), "{variable} is not in --help");
        }
        let own = format!("POD_ROUTER_{}", setting.flag.trim_start_matches('-').replace('-', "_").to_uppercase());
        assert!(setting.variables.contains(&own), "{own}");
    }
    let rows = README.lines().filter(|line| line.starts_with("| `--")).count();
    assert_eq!(rows, settings().len(), "a row of the README names no setting");
    let flags: BTreeSet<_> = settings().into_iter().map(|setting| setting.flag).collect();
    for name in CONTRACT {
        assert!(flags.contains(name), "{name} is missing");
    }
}

#[test]
fn the_readme_lists_every_error_code() {
    for code in CODES {
        assert!(README.contains(&format!("| `{code}` |")), "{code} is not in the README");
    }
}

/// The last string of a macro's arguments, which is followed by its closing parenthesis.
fn last_text(call: &str) -> String {
    let (mut depth, mut texts) = (1, call.split('"'));
    let mut last = "";
    while let Some(code) = texts.next() {
        for c in code.chars() {
            depth += i32::from(c == '(') - i32::from(c == ')');
            if depth == 0 {
                return last.to_owned();
            }
        }
        last = texts.next().expect("a string ends");
    }
    panic!("no end: {call}")
}

/// Who reads the log looks a line up by its message.
#[test]
fn the_readme_lists_every_message_of_the_log() {
    let mut messages = BTreeSet::new();
    for (path, text) in crate::tidy::product_sources() {
        if path.starts_with("dev/") {
            continue;
        }
        for level in ["warn!(", "info!(", "error!("] {
            messages.extend(text.split(level).skip(1).map(last_text));
        }
    }
    assert!(messages.len() > 25, "where are the calls?");
    // The access lines are told of by their whole field.
    let is_listed = |message: &str| {
        [format!("`{message}`"), format!("`\"message\":\"{message}\"`")].iter().any(|s| README.contains(s))
    };
    let missing: Vec<_> = messages.iter().filter(|message| !is_listed(message)).collect();
    assert!(missing.is_empty(), "not in the README: {missing:?}");
}

#[test]
fn help_and_version_are_answers() {
    for args in
        [&["--help"][..], &["help"], &["help", "check"], &["--version"], &["serve", "--help"], &["explain", "--help"]]
    {
        let output = run(args, &[]);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
        assert!(!output.stdout.is_empty());
    }
    assert!(stdout(&run(&["--version"], &[])).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_setting_is_one_clear_line_and_64() {
    for (flag, value) in [
        ("--listen", "localhost"),
        ("--admin-listen", "1"),
        ("--directory", "etcd"),
        ("--redis-url", "http://x"),
        ("--redis-timeout", "5"),
        ("--room-key", "room"),
        ("--affinity", "path:("),
        ("--redirect", "/e/=//evil/{room}"),
        ("--statefulset", "Back"),
        ("--pod-address", "x:1"),
        ("--pod", "other-1=127.0.0.1:1"),
        ("--default-backend", "nowhere"),
        ("--on-unassigned", "maybe"),
        ("--cache-ttl", "2"),
        ("--cache-stale", "-1s"),
        ("--cache-negative", "x"),
        ("--cache-capacity", "0"),
        ("--connect-timeout", "0s"),
        ("--pod-wait", "soon"),
        ("--response-timeout", "1"),
        ("--upstream-idle", ""),
        ("--downstream-idle", "1 week and a bit"),
        ("--tunnel-idle", "on"),
        ("--tunnel-linger", "0"),
        ("--header-timeout", "0s"),
        ("--request-body-idle", "off"),
        ("--response-body-idle", "0s"),
        ("--write-stall", "never"),
        ("--max-connections", "0"),
        ("--max-header-bytes", "100"),
        ("--max-headers", "0"),
        ("--max-connections-per-client", "0"),
        ("--max-body", "10M"),
        ("--allowed-origins", "app.example"),
        ("--pod-networks", "none"),
        ("--rate-limit", "100"),
        ("--lookup-rate", "10r/d"),
        ("--trusted-proxies", "10.0.0.0/33"),
        ("--proxy-protocol", "v2"),
        ("--lame-duck", "5"),
        ("--drain-timeout", "x"),
        ("--threads", "0"),
        ("--log-format", "xml"),
        ("--max-rooms-per-pod", "0"),
        ("--max-participants-per-pod", "many"),
        ("--namespace", "a.b"),
    ] {
        let variable = format!("POD_ROUTER_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase());
        let by_flag = run(&[&format!("{flag}={value}")], &[]);
        let mut outputs = vec![by_flag];
        if !value.is_empty() {
            outputs.push(run(&[], &[(&variable, value)]));
        }
        for output in outputs {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(64), "{flag} {value}: {said}");
            assert_eq!(said.lines().count(), 1, "{flag} {value}: {said}");
            assert!(said.contains(flag) && said.contains(value), "{flag} {value}: {said}");
            assert!(output.stdout.is_empty());
        }
    }
}

/// Else a misspelt level would silence everything, and be noticed on the day when the log is needed.
#[test]
fn a_wrong_log_level_is_one_clear_line_and_64() {
    for value in ["inof", "!!bad==", "pod_router=verbose"] {
        for command in ["serve", "dev", "check"] {
            let output = run(&[command, "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"], &[("RUST_LOG", value)]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!((output.status.code(), said.lines().count()), (Some(64), 1), "{value}: {said}");
            assert!(said.contains("RUST_LOG") && said.contains(value) && said.contains("debug"), "{said}");
            assert!(output.stdout.is_empty());
        }
    }
    // Empty is unset, as for the other variables.
    let router = Router::builder().args(&["--directory", "memory"]).env("RUST_LOG", "").start();
    assert_eq!(router.get_admin("/livez").status(), 200);
}

#[test]
fn what_nobody_knows_is_refused_with_a_suggestion() {
    for (args, variables, meant) in [
        (&["--cach-ttl=5s"][..], &[][..], "--cache-ttl"),
        (&["chekc"], &[], "check"),
        (&[], &[("POD_ROUTER_CACHE_TLL", "2s")], "POD_ROUTER_CACHE_TTL"),
    ] {
        let output = run(args, variables);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.lines().count()), (Some(64), 1), "{said}");
        assert!(said.contains(meant), "{said}");
    }
}

#[test]
fn an_address_in_use_ends_the_start_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    for flag in ["--listen", "--admin-listen"] {
        let other = if flag == "--listen" { "--admin-listen" } else { "--listen" };
        let output = run(&["--directory=memory", flag, &address, other, "127.0.0.1:0"], &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(flag) && said.contains(&address), "{said}");
        assert!(said.contains(&format!("give another {flag}")) && said.lines().count() == 1, "{said}");
    }
}

/// RFC 5737: nobody's address.
#[test]
fn an_address_of_another_machine_is_told_from_one_in_use() {
    let output = run(&["--directory=memory", "--listen=192.0.2.1:3001", "--admin-listen=127.0.0.1:0"], &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--listen 192.0.2.1:3001") && said.contains("no interface"), "{said}");
}

/// An affinity cookie is configured.
const COOKIE: [&str; 4] = ["--affinity-cookie", "c", "--affinity-key", "0123456789abcdef0123456789abcdef"];

#[test]
fn explain_says_where_and_why() {
    let redis = Redis::start();
    redis.assign_at("room_a", 1, now_ms() - 5000);
    redis.set("room:room_bad:pod", r#"{"podId":"evil.example","assignedAt":1}"#);
    let url = redis.url();
    let with = ["--redis-url", &url, "--pod", "backend-1=127.0.0.1:4001", "--default-backend", "127.0.0.1:4000"];
    let told = |target: &str, more: &[&str]| {
        let mut args = with.to_vec();
        args.extend(more);
        explain(target, &args)
    };
    let known = told("/api/room/room_a/x", &[]);
    assert_eq!(known["decision"], "pod");
    assert_eq!(known["addresses"], serde_json::json!(["127.0.0.1:4001"]));
    let because = known["because"].as_str().unwrap_or_default();
    assert!(because.contains("up to 2s (--cache-ttl)") && because.contains("no epoch lower"), "{because}");
    assert_eq!((&known["key"], &known["rule"]), (&"room:room_a:pod".into(), &r"path:room_[\w-]+".into()));
    assert!(known["ageMs"].as_u64().is_some_and(|age| age >= 5000), "{known}");
    let page = told("https://app.example/experiment/room_a", &["--header", "Accept: text/html"]);
    assert_eq!(page["location"], "/experiment?roomId=room_a&pod=backend-1");
    assert_eq!(told("/socket.io/?roomId=room_a&EIO=4", &[])["pod"], "backend-1");
    assert_eq!(told("/api/polls", &[])["decision"], "default-backend");
    for (target, more, part) in [
        (
            "/socket.io/?EIO=4&sid=backend-2~x",
            &[][..],
            "names backend-2, a pod of --statefulset, which is believed: it is dialled, listed or not",
        ),
        (
            "/socket.io/?EIO=4&sid=api-1~x",
            &["--route", "/socket.io/=api-1.api:1"],
            "names api-1, which is believed: the",
        ),
        (
            "/socket.io/?EIO=4&sid=backend-2~x",
            &["--route", "/socket.io/=backend-ready:3000"],
            "names backend-2, a pod of --statefulset, which is believed only if the backend lists it, by that name or by",
        ),
        ("/socket.io/?EIO=4&sid=evil~x", &[], "names evil, which is believed only if DNS"),
        ("/socket.io/?EIO=4&sid=evil~x", &["--session-affinity", "sid"], "here; else nothing else says"),
        ("/socket.io/?EIO=4&sid=x", &[], "names no pod (POD~…): the client's address decides"),
        ("/socket.io/?EIO=4&sid=x", &COOKIE, "names no pod (POD~…): the cookie or the client's address decides"),
        (
            "/socket.io/?EIO=4&sid=x",
            &[&COOKIE[..], &["--session-affinity", "sid"]].concat(),
            "no pod (POD~…): the cookie decides; without one it is 400",
        ),
        (
            "/socket.io/?EIO=4&sid=x",
            &["--session-affinity", "sid"],
            "nothing else says whose it is: 400 session-unknown, but",
        ),
        (
            "/socket.io/?EIO=4&sid=backend-2~x",
            &["--session-affinity", "client_ip"],
            "is not looked at (--session-affinity): the client's",
        ),
        (
            "/socket.io/?EIO=4&sid=x",
            &["--session-affinity", "off"],
            "is not looked at (--session-affinity): --balance decides",
        ),
    ] {
        let told = told(target, more);
        let session = told["session"].as_str().unwrap_or_default();
        assert!(session.contains(part), "{target}: {told}");
    }
    assert!(told("/?sid=backend-2~x", &[])["session"].is_null(), "no session of Engine.IO's");
    assert_eq!(told("/room_new", &[])["decision"], "default-backend");
    assert_eq!(told("/room_new", &["--on-unassigned", "assign"])["decision"], "assign");
    for (target, more, error, status) in [
        ("/room_new", &["--on-unassigned", "reject"][..], "unassigned-room", 404),
        ("/room_bad", &[], "bad-assignment", 503),
        ("/room%5Fa", &[], "encoded-room", 400),
        ("/socket.io/?roomId=a&roomId=b", &[], "duplicate-room", 400),
        ("/socket.io/?sid=a&sid=b", &[], "duplicate-sid", 400),
    ] {
        let refused = told(target, more);
        assert_eq!((&refused["error"], &refused["status"]), (&error.into(), &status.into()), "{target}");
    }
    redis.set("room:room_text:pod", r#"{"podId":"backend-1","assignedAt":"now"}"#);
    let directory = told("/room_text", &[])["directory"].as_str().unwrap_or_default().to_owned();
    assert!(directory.starts_with("unusable: no-assigned-at: assignedAt is missing or"), "{directory}");
    let text = stdout(&run(&["explain", "/room_a", "--redis-url", &url], &[]));
    assert!(text.contains("decision   pod\n"), "{text}");
    let routed = told("https://app.example/api/polls", &["--route", "/api/=10.0.0.1:80"]);
    assert_eq!(routed["addresses"], serde_json::json!(["10.0.0.1:80"]), "a whole URL has the path of its path");
}

/// The values are of a router's own making: `pod_router::backends::Signer` with this key.
#[test]
fn explain_says_whom_a_cookie_stands_for() {
    use pod_router::backends::Signer;
    use pod_router::config::{Command, parse};
    const KEY: &str = "0123456789abcdef0123456789abcdef";
    let settings = ["--directory", "memory", "--affinity-cookie", "c", "--affinity-key", KEY];
    let with = [&settings[..], &["--default-backend", "10.0.0.1:1", "--route", "/api/=10.0.0.2:1"]].concat();
    let words = ["pod-router"].iter().chain(&with).map(Into::into);
    let Ok(Command::Serve(config)) = parse(words, [], false) else { panic!("{with:?} are settings") };
    let signer = Signer::new(config.backends.session.cookie.as_ref().expect("there is one"), &config.routing);
    let said = |target: &str, cookie: &str| {
        let header = format!("Cookie: other=1; {cookie}");
        let told = explain(target, &[&with[..], &["--header", &header]].concat());
        assert!(!told.to_string().contains(cookie.split('=').nth(1).unwrap_or(" ")), "repeated: {told}");
        told["cookie"].as_str().unwrap_or_default().to_owned()
    };
    let pod = signer.value("", "backend-1");
    for (target, cookie, expected) in [
        ("/", format!("c={pod}"), "signed for backend-1, which is asked, listed or not"),
        ("/", format!("c=hunter2; c={pod}"), "signed for backend-1"),
        ("/", format!("c={}", signer.value("", "10.0.0.1:1")), "signed for 10.0.0.1:1, which the backend lists"),
        ("/", format!("c={}", signer.value("", "10.0.0.9:1")), "of a pod that goes by its address, if"),
        ("/", format!("c={}", pod.replace("-1", "-2")), "not signed with --affinity-key"),
        ("/api/x", format!("c={pod}"), "not signed with --affinity-key for this backend"),
        ("/api/x", format!("c={}", signer.value("/api/", "backend-1")), "backend-1, which is asked if the backend"),
    ] {
        let said = said(target, &cookie);
        assert!(said.contains(expected), "{target} {cookie}: {said}");
    }
    assert_eq!(said("/", "d=none-of-the-name"), "");
    assert_eq!(said("/room_a", &format!("c={pod}")), "", "the room decides");
}

/// What somebody copies from a browser and pastes into a ticket has a session in it.
#[test]
fn explain_does_not_repeat_secrets() {
    let args = ["--directory", "memory", "--affinity", "query:room@/x/"];
    for (target, echo) in [
        ("/x/?room=a&token=hunter2&EIO=4&transport=polling", "/x/?room=a&token=***&EIO=4&transport=polling"),
        ("/x/?hunter2&sid=backend-1~hunter2&=hunter2", "/x/?***&sid=***&=***"),
        ("https://h.example:1/x/?room=a&roomId=hunter2", "https://h.example:1/x/?room=a&roomId=***"),
        ("/x/", "/x/"),
    ] {
        let told = explain(target, &args);
        assert_eq!(told["target"], echo);
        assert!(!told.to_string().contains("hunter2"), "{told}");
        let said = stdout(&run(&[&["explain", target][..], &args].concat(), &[]));
        assert!(said.starts_with(&format!("target     {echo}\n")) && !said.contains("hunter2"), "{said}");
    }
}

/// They are for copying.
#[test]
fn the_urls_of_the_readme_are_urls_of_redis() {
    let urls: Vec<_> = README.lines().filter(|line| line.starts_with("redis") && line.contains("://")).collect();
    let schemes: Vec<_> = urls.iter().filter_map(|url| url.split("://").next()).collect();
    assert_eq!(schemes, ["redis", "redis-sentinel", "redis-cluster"]);
    // No such servers are here; that they are looked for is what shows that the library takes the URL as well.
    std::thread::scope(|scope| {
        for url in urls {
            scope.spawn(move || {
                assert_eq!(explain("/room_a", &["--redis-url", url])["error"], "directory-unavailable", "{url}");
            });
        }
    });
}

/// A Redis that takes connections and says nothing is waited for where it is asked: only for a room.
#[test]
fn explain_asks_redis_only_about_rooms() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    mute.set_nonblocking(true).expect("a live socket takes its options");
    let url = format!("redis://{}", mute.local_addr().expect("bound"));
    assert_eq!(explain("/api/polls", &["--redis-url", &url])["decision"], "default-backend");
    assert_eq!(explain("/room%5Fa", &["--redis-url", &url])["error"], "encoded-room");
    assert!(mute.accept().is_err(), "Redis was connected to");
    assert_eq!(explain("/room_a", &["--redis-url", &url])["error"], "directory-unavailable");
    assert!(mute.accept().is_ok());
}

#[test]
fn check_tries_what_it_knows_and_masks_secrets() {
    let (redis, pod) = (Redis::with_password("hunter2"), Pod::start("backend-0"));
    let (host, port) = (redis.addr().ip().to_string(), redis.addr().port().to_string());
    let variables = [("REDIS_HOST", host.as_str()), ("REDIS_PORT", &port), ("REDIS_PASSWORD", "hunter2")];
    let (address, fixed) = (pod.addr().to_string(), format!("backend-0={}", pod.addr()));
    let reached = run(&["check", "--pod", &fixed, "--default-backend", &address], &variables);
    let said = stdout(&reached);
    assert_eq!(reached.status.code(), Some(0), "{said}");
    assert!(said.contains("ok      directory") && said.contains("ok      backend-0 at"), "{said}");
    assert!(said.contains("--cache-ttl") && !said.contains("hunter2"), "{said}");

    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound").to_string()
    };
    let failed =
        run(&["check", "--default-backend", &closed, "--redis-url", &format!("redis://:hunter2@{closed}")], &[]);
    let said = stdout(&failed);
    assert_eq!(failed.status.code(), Some(69), "{said}");
    assert!(said.contains("FAILED  directory") && said.contains("FAILED  default backend"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    // In an operator's words, and nothing is said of whom nobody could be asked about.
    let refused = said.lines().filter(|line| line.ends_with(": the directory cannot be asked: Connection refused"));
    assert_eq!(refused.count(), 2, "{said}");
    assert!(said.contains("no pods are known: the directory does not say who has a heartbeat"), "{said}");
    let failed = run(&["check", "--default-backend", "heartbeats", "--redis-url", &format!("redis://{closed}")], &[]);
    let said = stdout(&failed);
    assert!(said.contains("FAILED  default backend heartbeats: the directory does not say\n"), "{said}");
    assert_eq!(run(&["check", "--cache-ttl", "x"], &[]).status.code(), Some(64));

    // A pod where none may be is left alone; default backends may be anywhere.
    let outside = Pod::start("backend-1");
    let fixed = format!("backend-1={}", outside.addr());
    let networks = ["check", "--pod", &fixed, "--default-backend", &address, "--pod-networks", "10.0.0.0/8"];
    let said = stdout(&run(&networks, &variables));
    assert!(said.contains("FAILED  backend-1") && said.contains("within --pod-networks"), "{said}");
    assert!(said.contains("ok      default backend") && outside.accepted() == 0, "{said}");
}

/// Without a pod that is known, the template is tried all the same; a pod that is not there is no failure.
#[test]
fn check_tries_the_template_where_no_pod_is_known() {
    let (redis, any) = (Redis::start(), Pod::start("any"));
    let (url, address) = (redis.url(), any.addr().to_string());
    let template = "{pod}.no-such-name.invalid:3000";
    let output = run(&["check", "--redis-url", &url, "--default-backend", &address, "--pod-address", template], &[]);
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let line = "info    backend-0 would be at backend-0.no-such-name.invalid:3000; it cannot be reached now: ";
    assert!(said.contains(line), "{said}");
}

#[test]
fn check_counts_the_pods_of_each_source() {
    let (redis, any) = (Redis::start(), Pod::start("any"));
    let (url, port) = (redis.url(), any.addr().port().to_string());
    redis.heartbeat(1, 1, 1, 0);
    redis.heartbeat(2, 1, 1, 600_000);
    let check = |backend: &str| {
        let said = stdout(&run(&["check", "--redis-url", &url, "--default-backend", backend], &[]));
        said.lines().filter(|line| line.contains("default backend")).map(str::to_owned).collect::<Vec<_>>()
    };
    let heard = check("heartbeats");
    assert!(
        heard.len() == 1 && heard[0].starts_with("ok      default backend heartbeats: 1 pod: backend-1 ("),
        "{heard:?}"
    );
    redis.heartbeat(1, 1, 1, 600_000);
    assert_eq!(check("heartbeats"), ["FAILED  default backend heartbeats: no pod"]);
    let named = check(&format!("localhost:{port}"));
    assert!(
        named[1].contains(&format!(": 1 pod (a headless Service's name has an address for each): localhost:{port}")),
        "{named:?}"
    );
}

/// Each of the two questions needs a right of its own.
#[test]
fn check_says_what_redis_refuses() {
    let (redis, any) = (Redis::start(), Pod::start("any"));
    let (url, address) = (format!("redis://router:s3cret@{}/0", redis.addr()), any.addr().to_string());
    for (rights, refused, granted) in [
        ("~room:* ~pod:* +ping +get", "a room: room:", None),
        ("~room:* ~pod:* +getrange +get", "a room: room:", None),
        ("~pod:* +ping +getrange +get", "a room: room:", Some("heartbeats: pod:backend-0:metrics")),
        ("~room:* +ping +getrange +get", "heartbeats: pod:backend-0:metrics", Some("a room: room:")),
    ] {
        let user = format!("ACL SETUSER router reset on >s3cret {rights}");
        redis.command(&user.split(' ').collect::<Vec<_>>());
        let output = run(&["check", "--redis-url", &url, "--default-backend", &address], &[]);
        let said = stdout(&output);
        assert_eq!(output.status.code(), Some(69), "{said}");
        let line = said.lines().find(|line| line.starts_with(&format!("FAILED  directory, {refused}")));
        assert!(line.is_some_and(|line| line.contains("NOPERM") && line.contains("+getrange")), "{rights}: {said}");
        assert!(granted.is_none_or(|what| said.contains(&format!("ok      directory, {what}"))), "{rights}: {said}");
    }
}

/// With `--on-unassigned assign` the router also writes: what it would ask for is tried, and nothing is written.
#[test]
fn check_tries_whether_rooms_can_be_placed() {
    let (redis, any) = (Redis::start(), Pod::start("any"));
    let (url, address) = (format!("redis://router:s3cret@{}/0", redis.addr()), any.addr().to_string());
    let check = |rights: &str, more: &[&str]| {
        let user = format!("ACL SETUSER router reset on >s3cret ~room:* ~pod:* +ping +getrange +get {rights}");
        redis.command(&user.split_whitespace().collect::<Vec<_>>());
        let output = run(&[&["check", "--redis-url", &url, "--default-backend", &address], more].concat(), &[]);
        (output.status.code(), stdout(&output))
    };
    let assign = ["--on-unassigned", "assign"];
    for rights in ["", "+exists +set +time", "+eval +set +time", "+eval +exists +time", "+eval +exists +set"] {
        let (status, said) = check(rights, &assign);
        let line = said.lines().find(|line| line.starts_with("FAILED  directory, placing a room: room:"));
        let line = line.unwrap_or_else(|| panic!("{rights}: {said}"));
        assert!(status == Some(69) && line.contains("+eval, +exists, +time, +set"), "{rights}: {line}");
        assert_eq!(check(rights, &[]).0, Some(0), "nothing is placed: {rights}");
    }
    let (status, said) = check("+eval +exists +set +time", &assign);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("ok      directory, placing a room: room:"), "{said}");
    assert_eq!(format!("{:?}", redis.command(&["DBSIZE"])), "Int(0)", "something was written");
}

/// A URL that was given in the wrong place may hold a password, too.
#[test]
fn no_mistake_shows_a_password() {
    for (args, variables) in [
        (&["serve", "redis://u:hunter2@h"][..], &[][..]),
        (&["redis://u:hunter2@h"], &[]),
        (&["check", "redis://u:hun'ter hunter2@h"], &[]),
        (&["--redis-ulr=redis://u:hunter2@h"], &[]),
        (&["--default-backend", "redis://u:hunter2@h"], &[]),
        (&["--pod", "backend-0=redis://u:hunter2@h"], &[]),
        (&["--redis-url", "redis://u:hunter2%ZZ@h"], &[]),
        (&["explain", "redis://u:hunter2@h/x"], &[]),
        (&["check"], &[("REDIS_PORT", "tcp://u:hunter2@h")]),
        (&["check"], &[("REDIS_HOST", "redis://u:hunter2@h")]),
        (&["check"], &[("POD_ROUTER_PODS", "redis://u:hunter2@h")]),
    ] {
        let output = run(args, variables);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.lines().count()), (Some(64), 1), "{args:?}: {said}");
        assert!(!said.contains("hunter2") && output.stdout.is_empty(), "{args:?}: {said}");
    }
}

#[test]
fn health_says_by_its_status_whether_the_router_lives() {
    // Redis is down: that is no reason to restart a router.
    let redis = Redis::stopped();
    let mut router = Router::builder().redis(&redis).start();
    let address = router.admin().to_string();
    let ask = |address: &str| run(&["health", "--timeout", "5s"], &[("POD_ROUTER_ADMIN_LISTEN", address)]);
    let healthy = ask(&address);
    assert_eq!(healthy.status.code(), Some(0), "{healthy:?}");
    assert!(healthy.stdout.is_empty() && healthy.stderr.is_empty(), "{healthy:?}");

    router.signal("KILL");
    router.wait_exit();
    let other = Pod::start("other");
    other.play(script::answer("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"));
    for (address, why) in [(address, "cannot be asked"), (other.addr().to_string(), "404")] {
        let sick = ask(&address);
        let said = String::from_utf8_lossy(&sick.stderr).into_owned();
        assert_eq!(sick.status.code(), Some(1), "{said}");
        assert!(said.lines().count() == 1 && said.contains(&address) && said.contains(why), "{said}");
    }
    other.play(script::silence);
    let stuck = run(&["health", "--admin-listen", &other.addr().to_string(), "--timeout", "50ms"], &[]);
    assert_eq!(stuck.status.code(), Some(1), "{stuck:?}");
    assert!(String::from_utf8_lossy(&stuck.stderr).contains("--timeout"), "{stuck:?}");
}

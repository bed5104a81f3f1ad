use std::time::Duration;

use super::*;
use crate::config::{DirectoryKind, settings};
use crate::core::decision::OnUnassigned;

fn run(args: &[&str], variables: &[(&str, &str)]) -> Result<Command, Exit> {
    let args = std::iter::once("pod-router").chain(args.iter().copied()).map(OsString::from);
    parse(args, variables.iter().map(|(name, value)| (name.into(), value.into())), false)
}

fn config(args: &[&str], variables: &[(&str, &str)]) -> Config {
    match run(args, variables) {
        Ok(Command::Serve(config)) => *config,
        other => panic!("{args:?} {variables:?} gave {other:?}"),
    }
}

fn wrong(args: &[&str], variables: &[(&str, &str)]) -> String {
    match run(args, variables) {
        Err(exit @ Exit::Wrong(_)) => {
            assert_eq!(exit.code(), 64);
            let Exit::Wrong(error) = exit else { unreachable!("matched above") };
            let sentence = error.to_string();
            assert_eq!(sentence.lines().count(), 1, "{sentence}");
            sentence
        }
        other => panic!("{args:?} {variables:?} gave {other:?}"),
    }
}

fn answer(args: &[&str], variables: &[(&str, &str)]) -> String {
    match run(args, variables) {
        Err(exit @ Exit::Answer(_)) if exit.code() == 0 => match exit {
            Exit::Answer(text) => text,
            Exit::Wrong(error) => panic!("{error}"),
        },
        other => panic!("{args:?} gave {other:?}"),
    }
}

#[test]
fn the_defaults_are_the_contracts() {
    let config = config(&[], &[]);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let expected = [
        ("--listen", "0.0.0.0:3001"),
        ("--admin-listen", "0.0.0.0:9901"),
        ("--directory", "redis"),
        ("--redis-url", "redis://127.0.0.1:6379/0"),
        ("--redis-timeout", "250ms"),
        ("--room-key", "room:{room}:pod"),
        ("--cache-ttl", "2s"),
        ("--cache-stale", "10m"),
        ("--cache-negative", "250ms"),
        ("--cache-capacity", "100000"),
        ("--affinity", r"path:room_[\w-]+,query:roomId@/socket.io/"),
        ("--redirect", "/experiment/=/experiment?roomId={room}&pod={pod}"),
        ("--statefulset", "backend"),
        ("--pod-address", "{pod}.backend.default.svc.cluster.local:3000"),
        ("--namespace", "default"),
        ("--pod", "none"),
        ("--default-backend", "backend-service:3000"),
        ("--route", "none"),
        ("--on-unassigned", "default-backend"),
        ("--max-rooms-per-pod", "20"),
        ("--max-participants-per-pod", "80"),
        ("--backend-refresh", "5s"),
        ("--balance", "round_robin"),
        ("--session-affinity", "sid,client_ip"),
        ("--affinity-cookie", "off"),
        ("--affinity-cookie-attributes", "unused"),
        ("--affinity-key", "unused"),
        ("--max-fails", "3"),
        ("--fail-timeout", "30s"),
        ("--fail-status", "off"),
        ("--health-check", "off"),
        ("--slow-start", "0s"),
        ("--retry-budget", "20"),
        ("--connect-timeout", "2s"),
        ("--pod-max-connections", "off"),
        ("--pod-queue", "100"),
        ("--pod-queue-timeout", "5s"),
        ("--pod-wait", "5s"),
        ("--response-timeout", "1m"),
        ("--response-body-idle", "off"),
        ("--upstream-idle", "4s"),
        ("--dns-stale", "10m"),
        ("--pod-networks", "off"),
        ("--downstream-idle", "2m"),
        ("--header-timeout", "10s"),
        ("--request-body-idle", "30s"),
        ("--write-stall", "1m"),
        ("--tunnel-idle", "off"),
        ("--tunnel-linger", "30s"),
        ("--max-connections", "65536"),
        ("--max-connections-per-client", "off"),
        ("--max-header-bytes", "32768"),
        ("--max-headers", "100"),
        ("--max-body", "off"),
        ("--allowed-origins", "off"),
        ("--rate-limit", "none"),
        ("--lookup-rate", "off"),
        ("--trusted-proxies", "127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"),
        ("--proxy-protocol", "off"),
        ("--lame-duck", "5s"),
        ("--drain-timeout", "30s"),
        ("--threads", &threads),
        ("--log-format", "json"),
        ("--log-sample", "1"),
    ];
    assert_eq!(config.effective(), expected.map(|(flag, value)| (flag, value.to_owned())));
    assert_eq!(config.downstream.tunnel_idle, None);
    assert_eq!(config.upstream.response_timeout, Duration::from_secs(60));
}

#[test]
fn every_setting_has_a_flag_a_variable_and_a_place_in_the_list() {
    let settings = settings();
    let effective = config(&[], &[]).effective();
    let listed: Vec<_> = effective.iter().map(|(flag, _)| *flag).collect();
    let documented: Vec<_> = settings.iter().map(|setting| setting.flag.as_str()).collect();
    assert_eq!(listed, documented);
    for setting in &settings {
        assert!(!setting.meaning.is_empty(), "{}", setting.flag);
        // Whatever a setting takes, no setting takes this.
        for args in [&[setting.flag.as_str(), "\u{1}"][..], &["check", setting.flag.as_str(), "\u{1}"]] {
            let sentence = wrong(args, &[]);
            let named = format!("{} ({}) cannot be '", setting.flag, setting.variables.join(", "));
            assert!(sentence.starts_with(&named), "{sentence}");
        }
        for variable in &setting.variables {
            assert_eq!(wrong(&[], &[(variable, "\u{1}")]), wrong(&[&setting.flag, "\u{1}"], &[]), "{variable}");
            // An empty variable is as good as none.
            config(&[], &[(variable, "")]);
        }
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let sentence = wrong(&["--proxy-protocol", "on", "--trusted-proxies", "none"], &[]);
    assert!(sentence.contains("--trusted-proxies"), "{sentence}");
}

#[test]
fn serve_is_the_command_that_need_not_be_named() {
    for args in [&["--listen", "127.0.0.1:1"][..], &["serve", "--listen", "127.0.0.1:1"], &["--listen=127.0.0.1:1"]] {
        assert_eq!(config(args, &[]).listen.port(), 1, "{args:?}");
    }
    assert!(matches!(run(&["check", "--listen", "127.0.0.1:1"], &[]), Ok(Command::Check(c)) if c.listen.port() == 1));
}

#[test]
fn a_flag_wins_over_its_variable_and_that_over_a_seeds() {
    let env = [("POD_ROUTER_CACHE_TTL", "3s"), ("POD_ROUTER_POD", "backend-0=a:1,backend-1=b:2")];
    assert_eq!(config(&[], &env).directory.ttl, Duration::from_secs(3));
    assert_eq!(config(&["--cache-ttl", "4s"], &env).directory.ttl, Duration::from_secs(4));
    assert_eq!(config(&["serve", "--cache-ttl", "4s"], &env).directory.ttl, Duration::from_secs(4));
    assert_eq!(config(&["serve"], &env).routing.fixed_pods.len(), 2);
    assert_eq!(config(&["--pod", "backend-7=c:3"], &env).routing.fixed_pods.len(), 1);

    let limits = config(&[], &[("MAX_ROOMS_PER_POD", "7"), ("MAX_PARTICIPANTS_PER_POD", "9")]).routing.limits;
    assert_eq!((limits.rooms, limits.participants), (7, 9));
    let own_first = [("MAX_ROOMS_PER_POD", "7"), ("POD_ROUTER_MAX_ROOMS_PER_POD", "8")];
    assert_eq!(config(&[], &own_first).routing.limits.rooms, 8);
    let address = |args: &[&str]| config(args, &[("POD_NAMESPACE", "live")]).routing.pod_address.to_string();
    assert_eq!(address(&[]), "{pod}.backend.live.svc.cluster.local:3000");
    assert_eq!(address(&["--namespace", "test"]), "{pod}.backend.test.svc.cluster.local:3000");
}

#[test]
fn the_redis_url_comes_from_the_nearest_source() {
    let url = |args: &[&str], env: &[(&str, &str)]| match config(args, env).directory.kind {
        DirectoryKind::Redis(redis) => redis.url.reveal().to_owned(),
        DirectoryKind::Memory => "memory".to_owned(),
    };
    let all = [("POD_ROUTER_REDIS_URL", "redis://b"), ("REDIS_URL", "redis://c"), ("REDIS_HOST", "d")];
    assert_eq!(url(&["--redis-url", "redis://a"], &all), "redis://a");
    assert_eq!(url(&[], &all), "redis://b");
    assert_eq!(url(&[], &all[1..]), "redis://c");
    assert_eq!(url(&[], &all[2..]), "redis://d:6379/0");
    // The seeds' variables may be there for the backends' sake; one for the router alone contradicts.
    assert_eq!(url(&["--directory", "memory"], &all[1..]), "memory");
    assert!(wrong(&["--directory", "memory"], &all).contains("--redis-url"));
    assert!(wrong(&["--directory", "memory", "--redis-url", "redis://a"], &[]).contains("leave out one"));
}

#[test]
fn repeatable_settings_are_lists() {
    let rules = |args: &[&str], env: &[(&str, &str)]| {
        let affinity = config(args, env).routing.affinity;
        affinity.rules().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(rules(&["--affinity", "path:a{1,2}", "--affinity", "cookie:r"], &[]), ["path:a{1,2}", "cookie:r"]);
    let variable = [("POD_ROUTER_AFFINITY", r"path:room_\d{1,3},header:X-Room@/api/")];
    assert_eq!(rules(&[], &variable), [r"path:room_\d{1,3}", "header:x-room@/api/"]);
}

#[test]
fn a_wrong_value_is_answered_with_a_sentence() {
    for (flag, value, part) in [
        ("listen", "localhost:3001", "IP address and a port"),
        ("listen", "", "IP address and a port"),
        ("admin-listen", "0.0.0.0:3001", "--listen 0.0.0.0:3001 has that port"),
        ("admin-listen", "127.0.0.1:3001", "--listen 0.0.0.0:3001 has that port"),
        ("directory", "etcd", "redis, memory"),
        ("redis-url", "http://redis", "redis://"),
        ("redis-timeout", "0s", "1ms"),
        ("room-key", "room:pod", "{room}"),
        ("affinity", "path:room_[", "not a regular expression"),
        ("affinity", "path:", "missing"),
        ("affinity", "roomId", "query:NAME"),
        ("affinity", "header:a b", "header name"),
        ("affinity", "query:a@x", "slash"),
        ("redirect", "/e/=/e/{room}", "for ever"),
        ("redirect", "on", "or off"),
        ("redirect", "/e/=/a/room_x?roomId={room}", "another room"),
        ("statefulset", "Backend", "lower-case"),
        ("pod-address", "backend:3000", "{pod}"),
        ("pod-address", "{pod}.{host}:3000", "{host} is no placeholder"),
        ("namespace", "a.b", "hyphens"),
        ("pod", "backend-0", "POD=HOST:PORT"),
        ("pod", "web-0=a:1", "backend-0, backend-1"),
        ("pod", "backend-0=a", "host:port"),
        ("default-backend", "", "host:port"),
        ("default-backend", "a:1,", "host:port"),
        ("on-unassigned", "drop", "default-backend, assign, reject"),
        ("max-rooms-per-pod", "0", "from 1 to"),
        ("max-participants-per-pod", "many", "from 1 to"),
        ("cache-ttl", "5", "bare number"),
        ("cache-capacity", "0", "from 1 to"),
        ("connect-timeout", "off", "no duration"),
        ("upstream-idle", "0s", "1ms"),
        ("downstream-idle", "0s", "1ms"),
        ("tunnel-idle", "0s", "or off"),
        ("max-connections", "0", "from 1 to"),
        ("max-header-bytes", "4096", "from 8192"),
        ("trusted-proxies", "traefik", "10.0.0.0/8"),
        ("threads", "0", "auto"),
        ("log-format", "logfmt", "json, text, auto"),
        ("log-sample", "1%", "from 0 to 1"),
        ("log-sample", "1.1", "from 0 to 1"),
        ("log-sample", "NaN", "from 0 to 1"),
    ] {
        let sentence = wrong(&[&format!("--{flag}={value}")], &[]);
        assert!(
            sentence.starts_with(&format!("--{flag} (POD_ROUTER_"))
                && sentence.contains(&format!("'{value}'"))
                && sentence.contains(part),
            "{sentence}"
        );
    }
}

#[test]
fn contradictions_between_settings_are_refused() {
    for (args, part) in [
        (&["--listen", "[::]:1", "--admin-listen", "127.0.0.1:1"][..], "has that port"),
        (&["--pod", "backend-0=a:1", "--pod", "backend-0=b:2"], "has the address a:1 already"),
        (&["--statefulset", "web", "--pod", "backend-0=a:1"], "web-0, web-1"),
        (&["dev", "--listen", "127.0.0.1:9901"], "has that port"),
        // Fits with pod-0, not with the longest name the directory could hold.
        (&["--statefulset", &"s".repeat(57), "--pod-address", "p-{pod}:1"], "63 characters"),
    ] {
        let sentence = wrong(args, &[]);
        assert!(sentence.contains(part), "{sentence}");
    }
    for fine in [
        &["--listen", "127.0.0.1:1", "--admin-listen", "127.0.0.2:1"][..],
        &["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"],
        &["--listen", "0.0.0.0:1", "--admin-listen", "[::1]:1"],
        &["--cache-stale", "0s", "--pod-wait", "0s", "--lame-duck", "0s", "--drain-timeout", "0s"],
    ] {
        config(fine, &[]);
    }
}

/// What would have no effect, or one that nobody means, is not taken in silence.
#[test]
fn settings_that_mean_nothing_alone_are_refused() {
    let key = "0123456789abcdef0123456789abcdef";
    let cookie = |name: &str, more: &[&str]| {
        let words = [&["--affinity-key", key, "--affinity-cookie", name][..], more].concat();
        run(&words, &[]).map(drop).map_err(|exit| format!("{exit:?}"))
    };
    let secure = ["--affinity-cookie-attributes", "Secure"];
    for (args, part) in [
        (
            &["--affinity-key", key][..],
            "(POD_ROUTER_AFFINITY_KEY) cannot be '***': it signs a cookie, and there is none",
        ),
        (&secure, "name it with --affinity-cookie"),
        (&["--max-fails", "0", "--fail-status", "503"], "with --max-fails 0 no failure counts"),
        (&["--max-fails", "0", "--fail-timeout", "1s"], "with --max-fails 0 no pod is left out"),
        (&["--balance", "client_ip", "--slow-start", "1s"], "knows no shares"),
        (&["--balance", "client_ip", "--route", "/a/=a:1", "--slow-start", "1s"], "knows no shares"),
        (&["--pod-max-connections", "5", "--pod-queue", "0", "--pod-queue-timeout", "1s"], "0 nobody waits"),
        (&["--pod-queue", "5"], "give --pod-max-connections"),
        (&["--pod-queue-timeout", "1s"], "give --pod-max-connections"),
        (&["--directory", "memory", "--default-backend", "heartbeats"], "read from Redis"),
        (&["--directory", "memory", "--route", "/a/=a:1,heartbeats"], "read from Redis"),
        (&["--default-backend", "_http._tcp.x:3000"], "has no port"),
    ] {
        let sentence = wrong(args, &[]);
        assert!(sentence.contains(part) && sentence.contains(args[args.len() - 2]), "{sentence}");
    }
    for name in ["__Host-pod", "__secure-pod"] {
        assert!(cookie(name, &[]).is_err_and(|why| why.contains("add it to --affinity-cookie-attributes")), "{name}");
        assert_eq!(cookie(name, &secure), Ok(()));
    }
    assert!(cookie("c", &["--affinity", "cookie:c"]).is_err_and(|why| why.contains("reads a room")));
    let routed = [&secure[..], &["--route", "/a/=a:1"]].concat();
    assert!(cookie("__Host-pod", &routed).is_err_and(|why| why.contains("call it __Secure-")));
    assert_eq!(cookie("__Host-pod", &[&secure[..], &["--route", "/=a:1"]].concat()), Ok(()), "its path is /");
    assert_eq!((cookie("__Secure-pod", &routed), cookie("pod", &routed[2..])), (Ok(()), Ok(())));
    config(&["--pod-max-connections", "5", "--pod-queue", "5", "--pod-queue-timeout", "1s"], &[]);
    config(&["--affinity-cookie-attributes", "HttpOnly; SameSite=Lax"], &[]);
    config(&["--max-fails", "0", "--fail-timeout", "30s"], &[]);
    config(&["--balance", "client_ip", "--route", "/a/=a:1 balance=p2c", "--slow-start", "1s"], &[]);
}

#[test]
fn what_clap_refuses_is_one_line_too() {
    for (args, parts) in [
        (&["--lisen", "x"][..], ["'--lisen'", "did you mean '--listen'?"]),
        (&["serve", "--cache-tll", "x"], ["'--cache-tll'", "did you mean '--cache-ttl'?"]),
        (&["--frobnicate"], ["'--frobnicate'", "--help"]),
        (&["--listen"], ["--listen <IP:PORT>", "value"]),
        (&["--listen", "--threads", "2"], ["--listen <IP:PORT>", "value"]),
        (&["--threads", "1", "--threads", "2"], ["--threads <COUNT>", "multiple times"]),
        (&["chek"], ["'chek'", "did you mean 'check'?"]),
        (&["serve", "now"], ["'now'", "--help"]),
        (&["--threads", "2", "check"], ["check", "--help"]),
        (&["explain"], ["<URL>", "not provided"]),
        (&["explain", "/a", "/b"], ["'/b'", "--help"]),
        (&["dev", "--redis-url", "x"], ["'--redis-url'", "--help"]),
        (&["--cache-ttl", "-1s"], ["--cache-ttl (POD_ROUTER_CACHE_TTL) cannot be '-1s'", "250ms"]),
        (&["check", "--max-fails", "-3"], ["--max-fails (POD_ROUTER_MAX_FAILS) cannot be '-3'", "number"]),
        (&["serve", "--cache-ttl=2s", "-1"], ["'-1'", "--help"]),
        (&["-1"], ["'-1'", "--help"]),
    ] {
        let sentence = wrong(args, &[]);
        assert!(parts.iter().all(|part| sentence.contains(part)), "{args:?}: {sentence}");
    }
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_not_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let args = ["pod-router", "--listen"].map(OsString::from).into_iter().chain([OsString::from_vec(vec![0xff])]);
    assert!(matches!(parse(args, [], false), Err(Exit::Wrong(_))));
}

#[test]
fn a_misspelt_variable_is_refused_for_every_command() {
    for args in [&[][..], &["serve"], &["dev"], &["check"], &["explain", "/"]] {
        assert!(wrong(args, &[("POD_ROUTER_LISTN", "x")]).contains("did you mean POD_ROUTER_LISTEN?"), "{args:?}");
    }
    config(&[], &[("POD_ROUTER_PORT", "tcp://10.0.0.1:3001"), ("POD_ROUTER_SERVICE_HOST", "10.0.0.1")]);
}

#[test]
fn help_and_version_are_answers() {
    assert_eq!(answer(&["--version"], &[]), format!("pod-router {}\n", env!("CARGO_PKG_VERSION")));
    for args in [
        &["--help"][..],
        &["-h"],
        &["help"],
        &["help", "check"],
        &["serve", "--help"],
        &["check", "--help"],
        &["explain", "--help"],
    ] {
        let help = answer(args, &[("REDIS_URL", "redis://:hunter2@h"), ("POD_ROUTER_CACHE_TTL", "7s")]);
        assert!(!help.contains("hunter2") && !help.contains("7s"), "help shows the program's own defaults");
        for setting in settings() {
            assert!(help.contains(&format!("{} <", setting.flag)), "{args:?} {}", setting.flag);
            assert!(help.contains(&format!("[env: {}]", setting.variables.join(", "))), "{args:?} {}", setting.flag);
        }
    }
}

#[test]
fn dev_has_its_own_defaults_and_the_same_variables() {
    let dev = |args: &[&str], env: &[(&str, &str)]| match run(args, env) {
        Ok(Command::Dev(dev)) => (dev.listen.to_string(), dev.admin_listen.to_string(), dev.log_format),
        other => panic!("{other:?}"),
    };
    let ours = ("127.0.0.1:3001".to_owned(), "127.0.0.1:9901".to_owned(), LogFormat::Json);
    // What only `serve` needs does not disturb it.
    assert_eq!(dev(&["dev"], &[("POD_ROUTER_CACHE_TTL", "7s")]), ours);
    assert_eq!(dev(&["dev", "--log-format", "text"], &[("POD_ROUTER_LISTEN", "127.0.0.1:0")]).0, "127.0.0.1:0");
}

#[test]
fn explain_takes_a_request_and_the_settings() {
    let asked = |args: &[&str]| match run(args, &[]) {
        Ok(Command::Explain(question)) => question,
        other => panic!("{other:?}"),
    };
    let question = asked(&[
        "explain",
        "https://example.org/experiment/room_a?x=%2F",
        "--header",
        "Accept: text/html",
        "--header=Cookie:a=b:c",
        "--json",
        "--on-unassigned",
        "reject",
    ]);
    assert_eq!(question.head.uri.to_string(), "https://example.org/experiment/room_a?x=%2F");
    assert_eq!(question.head.headers["accept"], "text/html");
    assert_eq!(question.head.headers["cookie"], "a=b:c");
    assert!(question.json);
    assert_eq!(question.config.routing.on_unassigned, OnUnassigned::Reject);
    for (args, part) in [
        (&["explain", "experiment/room_a"][..], "URL cannot be 'experiment/room_a'"),
        (&["explain", "/a b"], "encoded"),
        (&["explain", "ftp://h/x"], "whole URL"),
        (&["explain", ""], "path"),
        (&["explain", "/", "--header", "Accept"], "--header cannot be 'Accept'"),
        (&["explain", "/", "--header", "A b: c"], "'Name: value'"),
        (&["explain", "/", "--cache-ttl", "5"], "--cache-ttl"),
    ] {
        assert!(wrong(args, &[]).contains(part), "{args:?}");
    }
}

#[test]
fn health_asks_the_admin_listener_as_this_machine_reaches_it() {
    let asked = |args: &[&str], variables: &[(&str, &str)]| match run(args, variables) {
        Ok(Command::Health(check)) => (check.admin.to_string(), check.timeout),
        other => panic!("{args:?} {variables:?} gave {other:?}"),
    };
    let two = Duration::from_secs(2);
    assert_eq!(asked(&["health"], &[]), ("127.0.0.1:9901".to_owned(), two));
    assert_eq!(asked(&["health"], &[("POD_ROUTER_ADMIN_LISTEN", "[::]:99")]), ("[::1]:99".to_owned(), two));
    let typed = asked(&["health", "--admin-listen", "10.1.2.3:99", "--timeout", "50ms"], &[]);
    assert_eq!(typed, ("10.1.2.3:99".to_owned(), Duration::from_millis(50)));
    for (args, name) in [
        (&["health", "--admin-listen", "127.0.0.1:0"][..], "--admin-listen"),
        (&["health", "--timeout", "0s"], "--timeout"),
    ] {
        assert!(wrong(args, &[]).contains(name), "{}", wrong(args, &[]));
    }
}

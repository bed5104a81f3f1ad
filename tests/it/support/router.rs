//! The program under test: the built binary, its log and its admin listener.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use serde_json::Value as Json;

use super::process::Process;
use super::{Client, NameServer, Pod, Redis, Response, eventually, wait_for};

/// A running `pod-router serve`.
pub(crate) struct Router {
    process: Process,
    output: Output,
    /// The threads that collect the output; they end with the process.
    collecting: Vec<JoinHandle<()>>,
    listen: SocketAddr,
    admin: SocketAddr,
}

/// How a router is to be started.
#[derive(Default)]
pub(crate) struct RouterBuilder {
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// The words before the program that give it a resolv.conf of its own.
    wrapper: Vec<String>,
}

/// What the process has written so far.
#[derive(Clone, Default)]
struct Output {
    logs: Arc<Mutex<Vec<Json>>>,
    /// Lines of stdout that are no JSON, and all of stderr.
    other: Arc<Mutex<Vec<String>>>,
}

/// The variables of the test run that the router would read as its own.
const OWN_VARIABLES: [&str; 5] = ["POD_ROUTER_", "REDIS_", "POD_NAMESPACE", "MAX_", "RUST_LOG"];

// === impl RouterBuilder ===

impl RouterBuilder {
    pub(crate) fn redis(self, redis: &Redis) -> Self {
        self.arg("--redis-url", redis.url())
    }

    pub(crate) fn pod(self, pod: &Pod) -> Self {
        self.arg("--pod", format!("{}={}", pod.name(), pod.addr()))
    }

    pub(crate) fn default_backend<'a>(self, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let addrs: Vec<_> = pods.into_iter().map(|pod| pod.addr().to_string()).collect();
        self.arg("--default-backend", addrs.join(","))
    }

    /// Names are resolved by this server only.
    pub(crate) fn nameserver(mut self, names: &NameServer) -> Self {
        self.wrapper = names.wrapper();
        self
    }

    /// Lets it open no more than so many files.
    pub(crate) fn open_files(mut self, limit: usize) -> Self {
        self.wrapper = ["prlimit".to_owned(), format!("--nofile={limit}:{limit}")].into();
        self
    }

    pub(crate) fn arg(mut self, flag: &str, value: impl Into<String>) -> Self {
        self.args.extend([flag.to_owned(), value.into()]);
        self
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Starts the router and waits until it listens.
    #[track_caller]
    pub(crate) fn start(self) -> Router {
        let words = self.wrapper.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_pod-router")]);
        let words: Vec<_> = words.collect();
        let mut process = Process::start("pod-router", words[0], |command| {
            command.args(&words[1..]);
            for (name, _) in std::env::vars_os() {
                if OWN_VARIABLES.iter().any(|own| name.to_string_lossy().starts_with(own)) {
                    command.env_remove(name);
                }
            }
            command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
            command.args(&self.args).envs(self.env);
        });
        let output = Output::default();
        let collecting = vec![output.collect(process.take_stdout()), output.collect(process.take_stderr())];
        let listening = wait_for("pod-router listens", || {
            let exit = process.try_wait();
            assert!(exit.is_none(), "pod-router has ended, {exit:?}:\n{}", output.tail());
            output.find(|line| line["message"] == "listening").or_else(|| output.listening_as_text())
        });
        let addr = |field: &str| {
            let text = listening[field].as_str().unwrap_or_else(|| panic!("no {field} in {listening}"));
            text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
        };
        Router { listen: addr("listen"), admin: addr("admin"), process, output, collecting }
    }

    /// Starts the router and waits until it is ready.
    #[track_caller]
    pub(crate) fn start_ready(self) -> Router {
        let router = self.start();
        router.wait_ready();
        router
    }
}

// === impl Router ===

impl Router {
    pub(crate) fn builder() -> RouterBuilder {
        RouterBuilder::default()
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.listen
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// A new connection to the data listener.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.listen)
    }

    /// A GET on a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, target: &str) -> Response {
        self.client().get(target)
    }

    /// These bytes on a connection of their own.
    #[track_caller]
    pub(crate) fn request(&self, bytes: impl AsRef<[u8]>) -> Response {
        self.client().request(bytes)
    }

    /// A GET to the admin listener.
    #[track_caller]
    pub(crate) fn get_admin(&self, path: &str) -> Response {
        Client::connect(self.admin).get(path)
    }

    #[track_caller]
    pub(crate) fn wait_ready(&self) {
        eventually("pod-router is ready", || self.get_admin("/readyz").status() == 200);
    }

    /// What the admin listener answers at `path`.
    #[track_caller]
    pub(crate) fn json(&self, path: &str) -> Json {
        self.get_admin(path).json()
    }

    /// The sum of this metric's samples that carry these labels; 0 where there are none.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.get_admin("/metrics").text();
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let samples = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            let matches = found == name && labels.iter().all(|label| rest.contains(label.as_str()));
            matches.then(|| value.parse::<f64>().expect("a sample's value is a number"))
        });
        samples.sum()
    }

    /// Waits until [`metric`](Self::metric) is at least this.
    #[track_caller]
    pub(crate) fn wait_metric(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        eventually(&format!("{name} {labels:?} is at least {least}"), || self.metric(name, labels) >= least);
    }

    /// All log lines so far.
    pub(crate) fn logs(&self) -> Vec<Json> {
        self.output.logs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything the process has written so far, for searching.
    pub(crate) fn whole_output(&self) -> String {
        let logs: Vec<_> = self.logs().iter().map(Json::to_string).collect();
        let other = self.output.other.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{}\n{}", logs.join("\n"), other.join("\n"))
    }

    /// Waits for a log line.
    #[track_caller]
    pub(crate) fn wait_log(&self, what: &str, matches: impl Fn(&Json) -> bool) -> Json {
        wait_for(what, || self.output.find(&matches))
    }

    /// The access line of the request with this id.
    #[track_caller]
    pub(crate) fn access_line(&self, request_id: &str) -> Json {
        self.wait_log("the request's access line", |line| {
            line["message"] == "request" && line["request_id"] == request_id
        })
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// Stops all threads, until a `CONT`. The one that gets the signal stops the others, and until it has its turn they run.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
        let stat =
            |thread: fs::DirEntry| fs::read_to_string(thread.path().join("stat")).expect("a thread of the router's");
        let is_stopped = |stat: String| stat.rsplit(')').next().is_some_and(|state| state.starts_with(" T"));
        eventually("the router has stopped", || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.process.pid())).expect("the router runs");
            threads.flatten().map(stat).all(is_stopped)
        });
    }

    pub(crate) fn has_exited(&mut self) -> bool {
        self.process.try_wait().is_some()
    }

    #[track_caller]
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let status = self.process.wait_exit();
        // Now all it has ever said can be read.
        for thread in self.collecting.drain(..) {
            thread.join().expect("collecting lines does not panic");
        }
        status
    }

    /// The resident memory now, in KiB.
    #[track_caller]
    pub(crate) fn rss_kib(&self) -> u64 {
        self.proc_status("VmRSS:")
    }

    /// The most resident memory there has been, in KiB.
    #[track_caller]
    pub(crate) fn peak_rss_kib(&self) -> u64 {
        self.proc_status("VmHWM:")
    }

    fn proc_status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).expect("the router runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel tells memory");
        line.trim().trim_end_matches(" kB").parse().expect("memory is a number")
    }

    /// The open files and sockets now.
    #[track_caller]
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.pid())).expect("the router runs").count()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- pod-router said last:\n{}", self.output.tail());
        }
    }
}

// === impl Output ===

impl Output {
    /// Collects lines until the pipe is closed, on a thread of its own.
    fn collect(&self, pipe: impl Read + Send + 'static) -> JoinHandle<()> {
        let output = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                match serde_json::from_str::<Json>(&line) {
                    Ok(json) if json.is_object() => {
                        &output.logs.lock().unwrap_or_else(PoisonError::into_inner).push(json)
                    }
                    _ => &output.other.lock().unwrap_or_else(PoisonError::into_inner).push(line),
                };
            }
        })
    }

    fn find(&self, matches: impl Fn(&Json) -> bool) -> Option<Json> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|line| matches(line)).cloned()
    }

    /// The same line with `--log-format text`, its fields alone.
    fn listening_as_text(&self) -> Option<Json> {
        let other = self.other.lock().unwrap_or_else(PoisonError::into_inner);
        let fields = other.iter().find_map(|line| line.split_once("pod_router::app: listening "))?.1;
        Some(fields.split(' ').filter_map(|field| field.split_once('=')).collect())
    }

    fn tail(&self) -> String {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let other = self.other.lock().unwrap_or_else(PoisonError::into_inner);
        let last = logs.iter().rev().take(20).rev().map(Json::to_string);
        last.chain(other.iter().cloned()).collect::<Vec<_>>().join("\n")
    }
}

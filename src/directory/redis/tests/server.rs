//! Real Redis servers for the tests: each on a free port, in a directory of its own, killed on drop.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take that the tests wait for.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// One `redis-server` process.
pub(super) struct Server {
    pub(super) port: u16,
    args: Vec<String>,
    dir: PathBuf,
    process: Child,
}

impl Server {
    /// A server that answers, with these arguments more.
    pub(super) fn start(args: &[&str]) -> Self {
        Self::start_on(free_port(), args)
    }

    /// The same, on this port.
    pub(super) fn start_on(port: u16, args: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(format!("pod-router-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the server");
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let process = spawn(port, &args, &dir);
        let server = Self { port, args, dir, process };
        server.wait_for_answer();
        server
    }

    /// `redis://` of this server.
    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What `redis-cli` says.
    pub(super) fn cli(&self, args: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(args).output().expect("redis-cli runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Sets a key.
    pub(super) fn set(&self, key: &str, value: &str) {
        assert_eq!(self.cli(&["set", key, value]), "OK");
    }

    /// Ends the process as a crash would.
    pub(super) fn kill(&mut self) {
        self.process.kill().and_then(|()| self.process.wait().map(drop)).expect("the server is ours");
    }

    /// Starts it again after a kill, empty.
    pub(super) fn restart(&mut self) {
        self.process = spawn(self.port, &self.args, &self.dir);
        self.wait_for_answer();
    }

    /// Sends a signal: `STOP`, `CONT`.
    pub(super) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill runs");
        assert!(sent.success());
    }

    fn wait_for_answer(&self) {
        wait_for("the server", || {
            let answer = self.cli(&["ping"]);
            answer == "PONG" || answer.starts_with("NOAUTH")
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that fails has more to say than what became of its server.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn spawn(port: u16, args: &[String], dir: &PathBuf) -> Child {
    // A Sentinel keeps its state in the file it is configured by.
    let config = dir.join("redis.conf");
    std::fs::write(&config, "").expect("the directory is ours");
    Command::new("redis-server")
        .arg(config)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(dir)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

/// A port nobody listens on at this moment.
pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("it is bound").port()
}

/// Blocks until the condition holds.
pub(super) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits, the runtime going on, until the condition holds.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

//! A real `redis-server` of a test's own, and just enough of its protocol.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use super::process::Process;
use super::{PATIENCE, eventually, pod};

/// A server on a free port. It keeps nothing: killed and started again, it is empty.
pub(crate) struct Redis {
    addr: SocketAddr,
    password: Option<&'static str>,
    process: Option<Process>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Nil,
    Int(i64),
    Text(String),
    List(Vec<Value>),
}

/// The commands the server gets from now on, as `MONITOR` tells them.
pub(crate) struct Monitor {
    lines: Arc<Mutex<Vec<String>>>,
    redis: SocketAddr,
}

// === impl Redis ===

impl Redis {
    pub(crate) fn start() -> Self {
        let mut redis = Self::stopped();
        redis.restart();
        redis
    }

    pub(crate) fn with_password(password: &'static str) -> Self {
        let mut redis = Self { password: Some(password), ..Self::stopped() };
        redis.restart();
        redis
    }

    /// One that is down, its address free and its own.
    pub(crate) fn stopped() -> Self {
        Self { addr: pod::free_addr(), password: None, process: None }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.addr.ip()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Starts the server, at the same address as before.
    pub(crate) fn restart(&mut self) {
        let (ip, port) = (self.addr.ip().to_string(), self.addr.port().to_string());
        self.process = Some(Process::start("redis-server", "redis-server", |command| {
            command.args(["--bind", &ip, "--port", &port, "--save", "", "--appendonly", "no"]);
            command.args(self.password.iter().flat_map(|password| ["--requirepass", password]));
            // Nobody reads what it says: a full pipe must not stop it.
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        }));
        eventually("redis-server answers PING", || self.try_command(&["PING"]).is_ok());
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Freezes the server: it takes connections and commands, and answers nothing.
    pub(crate) fn pause(&self) {
        self.running().signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.running().signal("CONT");
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the server runs")
    }

    #[track_caller]
    pub(crate) fn command(&self, words: &[&str]) -> Value {
        self.try_command(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn try_command(&self, words: &[&str]) -> io::Result<Value> {
        let mut link = self.link()?;
        send(link.get_mut(), words)?;
        read_value(&mut link)
    }

    fn link(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut link = BufReader::new(stream);
        if let Some(password) = self.password {
            send(link.get_mut(), &["AUTH", password])?;
            read_value(&mut link)?;
        }
        Ok(link)
    }

    #[track_caller]
    pub(crate) fn set(&self, key: &str, value: &str) {
        assert_eq!(self.command(&["SET", key, value]), Value::Text("OK".to_owned()));
    }

    #[track_caller]
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        match self.command(&["GET", key]) {
            Value::Text(text) => Some(text),
            Value::Nil | Value::Int(_) | Value::List(_) => None,
        }
    }

    /// Assigns a room to `backend-<ordinal>` under this epoch, in the mission's words.
    #[track_caller]
    pub(crate) fn assign_at(&self, room: &str, ordinal: usize, epoch: u64) {
        let value = format!(r#"{{"podId":"backend-{ordinal}","participantCount":4,"assignedAt":{epoch}}}"#);
        self.set(&format!("room:{room}:pod"), &value);
    }

    /// Assigns a room now.
    #[track_caller]
    pub(crate) fn assign(&self, room: &str, ordinal: usize) {
        self.assign_at(room, ordinal, now_ms());
    }

    /// Writes a pod's heartbeat, `age_ms` old.
    #[track_caller]
    pub(crate) fn heartbeat(&self, ordinal: usize, rooms: u64, participants: u64, age_ms: u64) {
        let beat = serde_json::json!({
            "activeRooms": rooms, "totalParticipants": participants, "cpuUsage": 45.2, "memoryUsage": 512,
            "lastUpdate": now_ms() - age_ms,
        });
        self.set(&format!("pod:backend-{ordinal}:metrics"), &beat.to_string());
    }

    /// Starts to record commands.
    pub(crate) fn monitor(&self) -> Monitor {
        let mut link = self.link().expect("the server runs");
        send(link.get_mut(), &["MONITOR"]).expect("the server takes commands");
        read_value(&mut link).expect("MONITOR is answered");
        link.get_ref().set_read_timeout(None).expect("a live socket takes its options");
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let sink = Arc::clone(&lines);
        // Ends with the server.
        thread::spawn(move || {
            for line in link.lines().map_while(Result::ok) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Monitor { lines, redis: self.addr }
    }
}

// === impl Monitor ===

impl Monitor {
    /// How often the room's value has been read, by `GET` or one of its kin. What a Lua script reads within a
    /// command of its own does not count.
    pub(crate) fn lookups(&self, room: &str) -> usize {
        let key = format!("\"room:{room}:pod\"");
        let reads = |line: &&String| {
            line.contains(&key) && line.to_ascii_uppercase().contains("\"GET") && !line.contains("lua]")
        };
        self.lines().iter().filter(reads).count()
    }

    fn lines(&self) -> Vec<String> {
        self.flush();
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the report of a command of our own, so that all before it have been reported.
    fn flush(&self) {
        let mark = format!("mark-{}", fastrand::u64(..));
        let redis = Redis { addr: self.redis, password: None, process: None };
        redis.command(&["ECHO", &mark]);
        eventually("MONITOR tells the mark", || {
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|line| line.contains(&mark))
        });
    }
}

/// Milliseconds since 1970, as `assignedAt` and `lastUpdate` have them.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970");
    u64::try_from(now.as_millis()).expect("it is not yet the year 500,000,000")
}

fn send(stream: &mut TcpStream, words: &[&str]) -> io::Result<()> {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(bytes.as_bytes())
}

/// Reads one RESP2 reply.
fn read_value(link: &mut BufReader<TcpStream>) -> io::Result<Value> {
    let mut line = String::new();
    link.read_line(&mut line)?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).ok_or(io::ErrorKind::UnexpectedEof)?;
    let number = || rest.parse::<i64>().map_err(|_| io::Error::other(format!("not a reply: {line}")));
    match kind {
        "+" => Ok(Value::Text(rest.to_owned())),
        ":" => number().map(Value::Int),
        "$" | "*" if number()? < 0 => Ok(Value::Nil),
        "$" => {
            let mut bytes = vec![0; usize::try_from(number()?).unwrap_or_default() + 2];
            link.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            Ok(Value::Text(String::from_utf8_lossy(&bytes).into_owned()))
        }
        "*" => (0..number()?).map(|_| read_value(link)).collect::<io::Result<_>>().map(Value::List),
        _ => Err(io::Error::other(line.to_owned())),
    }
}

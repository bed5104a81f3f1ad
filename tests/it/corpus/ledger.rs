//! The recording pods: what each connection from the router brought, as bytes and as requests.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value as Json, json};

use crate::support::{Conn, Head, Tape, script};

/// A request that a pod has taken.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    /// Counted over all pods.
    pub(crate) connection: usize,
    pod: String,
    method: String,
    pub(crate) target: String,
    body: Vec<u8>,
    complete: bool,
    upgraded: bool,
}

/// What all recording pods have taken.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    tapes: Vec<Tape>,
    /// The connections whose scripts are over.
    ended: Vec<usize>,
    taken: Vec<Taken>,
    /// What a request for `/evil` is answered with, and what then becomes of its connection.
    evil: (Vec<u8>, After),
}

/// What a pod does after it has sent what it was told to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum After {
    /// Waits until the router closes the connection.
    #[default]
    Wait,
    /// Goes on as a good pod does.
    Serve,
    /// Closes.
    Close,
    /// Closes with a reset.
    Reset,
    /// Says it before it reads the request's body, and then waits until the router closes the connection.
    BeforeBody,
}

/// Longer bodies are shown as their length.
const SHOWN: usize = 60;

// === impl Taken ===

impl Taken {
    /// `pod METHOD target [body]`; the bracket is left out for no body and left open for one that broke off.
    pub(crate) fn shown(&self) -> String {
        let mut shown = format!("{} {} {}", self.pod, self.method, self.target);
        if !self.body.is_empty() || !self.complete {
            let body = match self.body.len() {
                ..=SHOWN => String::from_utf8_lossy(&self.body).into_owned(),
                len => format!("{len} bytes"),
            };
            shown.push_str(&format!(" [{body}{}", if self.complete { "]" } else { "" }));
        }
        shown
    }

    /// Of a client that sends ordinary requests all the while.
    pub(crate) fn is_bystander(&self) -> bool {
        self.target.contains("bystander")
    }

    pub(crate) fn json(&self) -> Json {
        json!({
            "method": self.method, "target": self.target, "body": hex(&self.body), "complete": self.complete,
            "upgraded": self.upgraded,
        })
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// === impl Ledger ===

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A position to look back at with [`since`](Self::since).
    pub(crate) fn len(&self) -> usize {
        self.book().taken.len()
    }

    /// What has been taken since `mark`, bystanders' requests left out.
    pub(crate) fn since(&self, mark: usize) -> Vec<Taken> {
        self.book().taken[mark..].iter().filter(|taken| !taken.is_bystander()).cloned().collect()
    }

    /// Per connection: its bytes, and the requests that were found in them.
    pub(crate) fn connections(&self) -> Vec<(Vec<u8>, Vec<Taken>)> {
        let book = self.book();
        let requests = |number| book.taken.iter().filter(|taken| taken.connection == number).cloned().collect();
        book.tapes.iter().enumerate().map(|(number, tape)| (tape.copy(), requests(number))).collect()
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut Taken)) {
        change(&mut self.book().taken[index]);
    }

    /// A pod's script: records each request and answers it, in the way that its target asks for.
    pub(crate) fn script(&self) -> impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static {
        let ledger = self.clone();
        move |conn| ledger.serve(conn)
    }

    fn serve(&self, mut conn: Conn) -> io::Result<()> {
        let tape = conn.wire().record();
        let number = {
            let mut book = self.book();
            book.tapes.push(tape);
            book.tapes.len() - 1
        };
        let result = self.serve_as(conn, number);
        self.book().ended.push(number);
        result
    }

    /// Sets what `/evil` is answered with.
    pub(crate) fn prepare(&self, bytes: &[u8], after: After) {
        self.book().evil = (bytes.to_vec(), after);
    }

    /// Whether this connection is over.
    pub(crate) fn has_ended(&self, connection: usize) -> bool {
        self.book().ended.contains(&connection)
    }

    fn serve_as(&self, mut conn: Conn, connection: usize) -> io::Result<()> {
        loop {
            let head = conn.request()?;
            let (target, index) = self.begin(connection, conn.pod_name(), &head);
            let early = target.contains("/early");
            if early {
                conn.send(answer(conn.pod_name(), &target, b""))?;
            }
            let (bytes, after) = self.book().evil.clone();
            let evil = target.contains("/evil");
            if evil && after == After::BeforeBody {
                conn.send(bytes)?;
                return conn.until_closed();
            }
            let mut body = Vec::new();
            conn.read_body(&head, |piece| {
                body.extend_from_slice(piece);
                self.change(index, |taken| taken.body.extend_from_slice(piece));
            })?;
            self.change(index, |taken| taken.complete = true);
            if evil {
                // The router may close before it has read all of it.
                let sent = conn.send(bytes);
                match after {
                    After::Wait | After::BeforeBody => return conn.until_closed(),
                    After::Serve => continue,
                    After::Close => return sent,
                    After::Reset => {
                        conn.reset();
                        return Ok(());
                    }
                }
            }
            if target.contains("/silent") {
                return conn.until_closed();
            }
            if target.contains("/ws") && head.has("upgrade") {
                self.change(index, |taken| taken.upgraded = true);
                return echo(conn, &head);
            }
            match head.start_line().starts_with("HEAD ") {
                true => conn.send(answer(conn.pod_name(), &target, b""))?,
                false if early => {}
                false => conn.send(answer(conn.pod_name(), &target, &body))?,
            }
        }
    }

    fn begin(&self, connection: usize, pod: &str, head: &Head) -> (String, usize) {
        let line = head.start_line();
        let (method, rest) = line.split_once(' ').unwrap_or((line, ""));
        let target = rest.rsplit_once(' ').map_or(rest, |(target, _)| target).to_owned();
        let taken = Taken {
            connection,
            pod: pod.to_owned(),
            method: method.to_owned(),
            target: target.clone(),
            body: Vec::new(),
            complete: false,
            upgraded: false,
        };
        let mut book = self.book();
        book.taken.push(taken);
        (target, book.taken.len() - 1)
    }
}

/// A pod's answer, which says what it answers.
pub(crate) fn answer(pod: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nX-Pod: {pod}\r\nX-Seen: {target}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn echo(mut conn: Conn, handshake: &Head) -> io::Result<()> {
    conn.send(script::switching_protocols(handshake))?;
    loop {
        let bytes = conn.wire().read_some()?;
        if bytes.is_empty() {
            return Ok(());
        }
        conn.send(bytes)?;
    }
}

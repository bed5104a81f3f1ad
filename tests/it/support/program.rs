//! The programs of `tests/node` and `tests/python`: real servers and clients, which say in JSON how they are.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value as Json;

use super::process::Process;

/// A real pod, of Node or Python; it ends when its standard input closes.
pub(crate) struct RealPod {
    pub(crate) process: Process,
    pub(crate) name: String,
    addr: SocketAddr,
}

impl RealPod {
    /// Starts a program of `tests/node` or `tests/python` as the pod of this name, and waits until it listens.
    #[track_caller]
    pub(crate) fn start(program: &str, name: &str, args: &[&str]) -> Self {
        let args = [&[program, "--pod", name], args].concat();
        let mut process = match program.ends_with(".py") {
            true => python("a Python pod", &args),
            false => node("a Node pod", &args),
        };
        let ready = first_line(&mut process);
        let port = ready["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("the pod names its port");
        Self { process, name: name.to_owned(), addr: (Ipv4Addr::LOCALHOST, port).into() }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The value of `--pod` for it.
    pub(crate) fn flag(&self) -> String {
        format!("{}={}", self.name, self.addr)
    }
}

/// Starts a program of `tests/node`.
pub(crate) fn node(name: &'static str, args: &[&str]) -> Process {
    Process::start(name, "node", |command| {
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node")).args(args).stdin(Stdio::piped());
    })
}

/// Starts a program of `tests/python`, with the packages that `tests/run` has installed.
fn python(name: &'static str, args: &[&str]) -> Process {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let interpreter = root.join("target/peers/bin/python");
    assert!(interpreter.exists(), "{} is missing: tests/run makes it", interpreter.display());
    Process::start(name, interpreter.to_str().expect("a path in UTF-8"), |command| {
        command.current_dir(root.join("tests/python")).args(args).stdin(Stdio::piped());
    })
}

/// The first line that a program says.
#[track_caller]
pub(crate) fn first_line(process: &mut Process) -> Json {
    let mut line = String::new();
    BufReader::new(process.take_stdout()).read_line(&mut line).expect("the program's output can be read");
    serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a line of JSON: {line:?} {}", errors(process)))
}

/// Waits for a client program's end; its figures.
#[track_caller]
pub(crate) fn finish(mut process: Process) -> Json {
    let mut text = String::new();
    process.take_stdout().read_to_string(&mut text).expect("the program's output can be read");
    let errors = errors(&mut process);
    assert!(process.wait_exit().success(), "{text}{errors}");
    serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("not JSON: {text} {errors}"))
}

/// All that a program has said on standard error, once it has ended.
pub(crate) fn errors(process: &mut Process) -> String {
    let mut text = String::new();
    process.take_stderr().read_to_string(&mut text).expect("the program's errors can be read");
    text
}

//! A name server of the test's own, and the resolv.conf that makes a router ask it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::pod::own_ip;

/// The record types that `getaddrinfo` asks for.
const A: u16 = 1;
const AAAA: u16 = 28;
/// The one that the router asks for by itself.
const SRV: u16 = 33;

/// A DNS server on an address of its own, port 53: resolv.conf knows no other port.
pub(crate) struct NameServer {
    shared: Arc<Shared>,
    resolv_conf: PathBuf,
    serving: Option<JoinHandle<()>>,
}

/// A pod in an SRV record: its name, port and weight.
type Target = (String, u16, u16);

#[derive(Default)]
struct Shared {
    names: Mutex<HashMap<String, Vec<Ipv4Addr>>>,
    services: Mutex<HashMap<String, Vec<Target>>>,
    asked: Mutex<Vec<String>>,
    hidden: Mutex<HashSet<String>>,
    silent: AtomicBool,
    failing: AtomicBool,
    over: AtomicBool,
}

impl NameServer {
    /// Starts it. `None`, said aloud, where port 53 is for root only and this is not root.
    pub(crate) fn start() -> Option<Self> {
        let address = own_ip();
        let socket = match UdpSocket::bind(SocketAddr::new(address, 53)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("SKIPPED: a name server needs port 53, which is for root");
                return None;
            }
            bound => bound.expect("the address is the test's own"),
        };
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a duration above zero");
        let resolv_conf = std::env::temp_dir().join(format!("pod-router-resolv-{address}"));
        // As in a pod of a cluster: what is not fully qualified walks this list. Without an answer the system's resolver
        // waits for longer than any test does.
        let text = format!(
            "nameserver {address}\nsearch default.svc.cluster.local svc.cluster.local\n\
             options ndots:5 timeout:30 attempts:5\n"
        );
        fs::write(&resolv_conf, text).expect("the temporary folder is writable");
        let shared = Arc::new(Shared::default());
        let answering = Arc::clone(&shared);
        let serving = thread::spawn(move || answering.serve(&socket));
        Some(Self { shared, resolv_conf, serving: Some(serving) })
    }

    /// From here on this name has this address.
    pub(crate) fn set(&self, name: &str, address: IpAddr) {
        self.set_all(name, &[address]);
    }

    /// From here on this name has these addresses.
    pub(crate) fn set_all(&self, name: &str, addresses: &[IpAddr]) {
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(address) => *address,
            IpAddr::V6(_) => panic!("{address} is not IPv4"),
        };
        lock(&self.shared.names).insert(name.to_owned(), addresses.iter().map(v4).collect());
    }

    /// From here on this service has these pods, by name and port, each of the weight that CoreDNS gives one of so many.
    pub(crate) fn set_services(&self, name: &str, targets: &[(String, u16)]) {
        let weight = 100 / u16::try_from(targets.len()).expect("a handful").max(1);
        let targets = targets.iter().map(|(host, port)| (host.clone(), *port, weight));
        lock(&self.shared.services).insert(name.to_owned(), targets.collect());
    }

    /// From here on nothing is answered.
    pub(crate) fn fall_silent(&self) {
        self.shared.silent.store(true, Ordering::SeqCst);
    }

    /// From here on nothing is answered about this name.
    pub(crate) fn fall_silent_about(&self, name: &str) {
        lock(&self.shared.hidden).insert(name.to_owned());
    }

    /// From here on it answers again.
    pub(crate) fn speak_again(&self) {
        self.shared.silent.store(false, Ordering::SeqCst);
    }

    /// From here on it says that it fails (SERVFAIL), or not any more.
    pub(crate) fn fail(&self, failing: bool) {
        self.shared.failing.store(failing, Ordering::SeqCst);
    }

    /// The names whose A records were asked for, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        lock(&self.shared.asked).clone()
    }

    /// The words before a command that make it ask this server: a mount namespace with its resolv.conf.
    pub(super) fn wrapper(&self) -> Vec<String> {
        let bind = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
        let file = self.resolv_conf.to_string_lossy().into_owned();
        ["unshare", "--mount", "--", "sh", "-c", bind, &file].map(str::to_owned).to_vec()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(serving) = self.serving.take() {
            // A panic in there has been reported where it happened.
            let _ = serving.join();
        }
        let _ = fs::remove_file(&self.resolv_conf);
    }
}

impl Shared {
    fn serve(&self, socket: &UdpSocket) {
        let mut query = [0; 512];
        while !self.over.load(Ordering::SeqCst) {
            // Nothing for a while: a look at whether it is over.
            let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
            let answer = self.answer(&query[..length]);
            if let Some(answer) = answer.filter(|_| !self.silent.load(Ordering::SeqCst)) {
                socket.send_to(&answer, from).expect("the resolver is on this machine");
            }
        }
    }

    /// RFC 1035 section 4: the header, the question repeated, and the addresses, or the targets (RFC 2782).
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let (labels, end) = labels(query)?;
        let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
        let name = labels.join(".");
        let addresses = lock(&self.names).get(&name).cloned();
        let targets = lock(&self.services).get(&name).cloned();
        let is_hidden = lock(&self.hidden).contains(&name);
        if kind == A {
            lock(&self.asked).push(name);
        }
        if is_hidden {
            return None;
        }
        let found: Option<Vec<Vec<u8>>> = match kind {
            A => addresses.map(|all| all.iter().map(|address| address.octets().to_vec()).collect()),
            AAAA => addresses.map(|_| Vec::new()),
            SRV => targets.map(|all| all.iter().map(|(host, port, weight)| target(host, *port, *weight)).collect()),
            _ => None,
        };
        let (code, found) = match found {
            _ if self.failing.load(Ordering::SeqCst) => (2, Vec::new()),
            Some(found) => (0, found),
            None => (3, Vec::new()),
        };
        let mut answer = query.get(..2)?.to_vec();
        answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(found.len()).ok()?, 0, 0, 0, 0]);
        answer.extend(query.get(12..end + 4)?);
        for data in found {
            // The name by a pointer to the question, class IN, to be forgotten at once.
            answer.extend([0xc0, 12, 0, u8::try_from(kind).ok()?, 0, 1, 0, 0, 0, 0]);
            answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            answer.extend(data);
        }
        Some(answer)
    }
}

/// Priority 0, the weight, the port and the name.
fn target(host: &str, port: u16, weight: u16) -> Vec<u8> {
    let mut data = vec![0, 0];
    data.extend(weight.to_be_bytes());
    data.extend(port.to_be_bytes());
    for label in host.split('.') {
        data.push(u8::try_from(label.len()).expect("a label has at most 63 bytes"));
        data.extend(label.as_bytes());
    }
    data.push(0);
    data
}

/// The labels of the question's name, and where its type begins.
fn labels(query: &[u8]) -> Option<(Vec<String>, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels, at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Fake pods: listeners inside the test process that do, byte for byte, what a script says.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Index;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};

use socket2::SockRef;

use super::script;
use super::wire::{Framing, Head, Wire};

/// What a pod does with each connection, on a thread of the connection's own. An error ends the connection.
pub(crate) type Script = dyn Fn(Conn) -> io::Result<()> + Send + Sync;

/// A pod. It starts out with [`script::echo`].
pub(crate) struct Pod {
    shared: Arc<Shared>,
    addr: SocketAddr,
    bound: Option<Bound>,
}

/// Some pods, `backend-0` and up.
pub(crate) struct Pods(Vec<Pod>);

/// A request as the pod got it.
#[derive(Clone)]
pub(crate) struct Received {
    /// The connection it came on: 0 for the first that the pod accepted.
    pub(crate) connection: usize,
    pub(crate) head: Head,
}

/// A connection from the router, in a script's hands.
pub(crate) struct Conn {
    wire: Wire,
    number: usize,
    pod: Arc<Shared>,
    /// Dropped last: who counts no more has closed its socket.
    _open: Open,
}

/// Counts one whose script has not ended.
struct Open(Arc<Shared>);

struct Bound {
    listener: Arc<TcpListener>,
    accepting: JoinHandle<()>,
}

struct Shared {
    name: String,
    script: Mutex<Arc<Script>>,
    received: Mutex<Vec<Received>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    /// For [`Pod::kill`]; weak, so that a script's end closes its socket.
    sockets: Mutex<Vec<Weak<TcpStream>>>,
}

/// An address of 127/8 that nothing else uses: whatever port is bound there stays ours while it is unbound.
pub(crate) fn own_ip() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    // There are more pods in a run than an octet has numbers: each round of them is another network.
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let (round, number) = (next / 254, next % 254);
    let octet = |n: u16| u8::try_from(n).expect("a remainder, or a quotient, of 254");
    // The host part must not be that of 127.0.0.1 (low 0 or 1 under 127.0.0) nor a broadcast address.
    IpAddr::V4(Ipv4Addr::new(127, octet(number) + 1, high.wrapping_add(octet(round)), low.clamp(2, 254)))
}

/// An address that is free now, and of which nobody else takes the port before a server of ours does.
pub(crate) fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind((own_ip(), 0)).expect("a loopback address can be bound");
    listener.local_addr().expect("a bound socket has an address")
}

/// What a lock holds is still right after a panic: the tests only push and read.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Pod ===

impl Pod {
    pub(crate) fn start(name: impl Into<String>) -> Self {
        Self::start_at_port(name, 0)
    }

    /// On an address of its own, as all are, but with this port.
    pub(crate) fn start_at_port(name: impl Into<String>, port: u16) -> Self {
        Self::start_at(name, SocketAddr::new(own_ip(), port))
    }

    /// At an address that others may use as well: such a pod must not be unbound.
    pub(crate) fn start_at(name: impl Into<String>, addr: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            name: name.into(),
            script: Mutex::new(Arc::new(script::echo)),
            received: Mutex::default(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            sockets: Mutex::default(),
        });
        let mut pod = Self { shared, addr, bound: None };
        pod.bind();
        pod
    }

    /// From here on, new connections follow this script.
    pub(crate) fn play(&self, script: impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(script);
    }

    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All requests so far, in the order of their arrival.
    pub(crate) fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// The head of the only request so far.
    #[track_caller]
    pub(crate) fn only_head(&self) -> Head {
        let received = self.received();
        assert_eq!(received.len(), 1, "{} has received {} requests", self.name(), received.len());
        received[0].head.clone()
    }

    /// The connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// The connections whose scripts have not ended.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Listens, at the same address as before if there was one.
    pub(crate) fn bind(&mut self) {
        let listener = Arc::new(TcpListener::bind(self.addr).expect("the pod's address is its own"));
        self.addr = listener.local_addr().expect("a bound socket has an address");
        let (accepts, shared) = (Arc::clone(&listener), Arc::clone(&self.shared));
        let accepting = thread::spawn(move || {
            while let Ok((stream, _)) = accepts.accept() {
                Shared::serve(&shared, stream);
            }
        });
        self.bound = Some(Bound { listener, accepting });
    }

    /// Refuses connections from here on; those that are open stay so.
    pub(crate) fn unbind(&mut self) {
        if let Some(Bound { listener, accepting }) = self.bound.take() {
            // Wakes the thread that accepts, for good.
            SockRef::from(&*listener).shutdown(Shutdown::Both).expect("a listener can be shut down");
            accepting.join().expect("the accepting thread does not panic");
        }
    }

    /// Dies as a process does, except that no request is lost unseen: connections are refused, those that
    /// are open get a FIN, and what the router has sent on them until it notices is still recorded.
    pub(crate) fn kill(&mut self) {
        self.unbind();
        self.shut_sockets(Shutdown::Write);
    }

    fn shut_sockets(&self, how: Shutdown) {
        for socket in lock(&self.shared.sockets).drain(..).filter_map(|socket| socket.upgrade()) {
            // The router may have closed it already.
            let _ = socket.shutdown(how);
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.unbind();
        self.shut_sockets(Shutdown::Both);
    }
}

// === impl Pods ===

impl Pods {
    pub(crate) fn start(count: usize) -> Self {
        Self((0..count).map(|ordinal| Pod::start(format!("backend-{ordinal}"))).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pod> {
        self.0.iter()
    }

    pub(crate) fn get_mut(&mut self, ordinal: usize) -> &mut Pod {
        &mut self.0[ordinal]
    }
}

impl Index<usize> for Pods {
    type Output = Pod;

    fn index(&self, ordinal: usize) -> &Pod {
        &self.0[ordinal]
    }
}

// === impl Shared ===

impl Shared {
    fn serve(shared: &Arc<Self>, stream: TcpStream) {
        let stream = Arc::new(stream);
        lock(&shared.sockets).push(Arc::downgrade(&stream));
        let open = Open::new(shared);
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let conn = Conn { wire: Wire::new(stream), number, pod: Arc::clone(shared), _open: open };
        let script = Arc::clone(&*lock(&shared.script));
        // A test may hold a thousand connections: their threads need little.
        let thread = thread::Builder::new().stack_size(256 * 1024);
        // Why a connection ended shows in what the test sees of it.
        let spawned = thread.spawn(move || drop(script(conn)));
        spawned.expect("the machine has room for another thread");
    }
}

// === impl Conn ===

impl Conn {
    /// The name of the pod this is a connection to.
    pub(crate) fn pod_name(&self) -> &str {
        &self.pod.name
    }

    /// The next request's head, recorded; an error where the connection ends instead.
    pub(crate) fn request(&mut self) -> io::Result<Head> {
        let head = self.wire.read_head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        lock(&self.pod.received).push(Received { connection: self.number, head: head.clone() });
        Ok(head)
    }

    /// The body of the request with this head, piece by piece.
    pub(crate) fn read_body(&mut self, head: &Head, each: impl FnMut(&[u8])) -> io::Result<()> {
        self.wire.read_body(head.framing(Framing::Length(0)), each)
    }

    /// The next request, body included.
    pub(crate) fn whole_request(&mut self) -> io::Result<(Head, Vec<u8>)> {
        let head = self.request()?;
        let mut body = Vec::new();
        self.read_body(&head, |piece| body.extend_from_slice(piece))?;
        Ok((head, body))
    }

    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.send(bytes)
    }

    /// Reads and forgets until the router closes the connection.
    pub(crate) fn until_closed(mut self) -> io::Result<()> {
        self.wire.read_body(Framing::UntilClose, |_| {})
    }

    pub(crate) fn half_close(&self) {
        self.wire.half_close();
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(mut self) {
        SockRef::from(self.wire().stream()).set_linger(Some(std::time::Duration::ZERO)).expect("a live socket");
    }

    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

// === impl Open ===

impl Open {
    fn new(pod: &Arc<Shared>) -> Self {
        pod.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(pod))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

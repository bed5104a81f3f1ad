//! The composition root: binds the listeners, starts the threads, and ends them in order.
//!
//! The calling thread becomes the control thread: signals, the admin listener and what is asked for no request live there,
//! so that a probe or a scrape is answered however busy the workers are. Each worker thread is a world of its own: a
//! runtime, a listener, a proxy with its connections to pods and to the directory. Shared are the directory's answers, the
//! addresses of pods and the metrics.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::Admin;
use crate::backends::{self, Backends};
use crate::config::{Config, DownstreamConfig};
use crate::directory::Directory;
use crate::directory::resolver::Resolver;
use crate::dns::{Dns, MOST_LOOKUPS};
use crate::drain::{Phase, Roster, Signal, Watch};
use crate::limits::{Files, LEAST_KEPT, Limiter, Limits, Places, Seats};
use crate::metrics::Metrics;
use crate::proxy::{CODES, Commons, Proxy, Queues, Reach};
use crate::server::{MAX_REFUSALS, Server, listen, listen_again};
use crate::telemetry;

/// Open files of the process that are no client's and no pod's: probes and scrapes, lookups of names, the control thread's
/// own, and checks of pods as far as few of them hang at a time.
const RESERVED_FILES: usize = 64 + MOST_LOOKUPS;

/// The same of each worker thread: clients that are told that there is no place, what is kept to pods in any case, a listener,
/// epoll, Redis.
const RESERVED_FILES_EACH: usize = MAX_REFUSALS + LEAST_KEPT + 8;

/// How many threads of a runtime may block, each for something of its own: lookups of names, all of which together leave
/// some for the rest (the address of Redis, `resolv.conf`), so that nothing ever queues. tokio's default.
const BLOCKING_THREADS: usize = 512;
const _: () = assert!(MOST_LOOKUPS < BLOCKING_THREADS);

/// How often a thread returns the memory it has freed: nothing of a request's cost, and soon for who watches a pod's memory.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(1);

/// A router that has its addresses and is not serving yet.
#[derive(Debug)]
pub struct App {
    config: Config,
    /// One listener a worker, all on one address.
    data: Vec<std::net::TcpListener>,
    admin: std::net::TcpListener,
    /// Where the data listener is.
    pub address: SocketAddr,
    /// Where the admin listener is.
    pub admin_address: SocketAddr,
}

/// What every worker thread gets.
#[derive(Clone)]
struct Shared<D> {
    config: Arc<Config>,
    give_back: fn(),
    resolver: Resolver<D>,
    unmet: Unmet,
    commons: Commons,
    watch: Watch,
}

/// How many threads have not heard from the directory yet.
type Unmet = Arc<AtomicUsize>;

/// A worker thread's sign of life. It says so when it is dropped, by a panic as well: a router that has lost a worker
/// would go on to report that it is ready. The last one dropped closes the channel.
struct Alive(mpsc::Sender<()>);

impl Drop for Alive {
    fn drop(&mut self) {
        // Full: somebody else has said so already.
        let _ = self.0.try_send(());
    }
}

/// A runtime for one thread, on which tasks need not be `Send`.
///
/// # Errors
///
/// The system has no epoll instance or no thread left.
pub fn local_runtime() -> io::Result<LocalRuntime> {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(BLOCKING_THREADS).build_local(LocalOptions::default())
}

impl App {
    /// Binds both listeners. Port 0 is resolved, so that the addresses are the real ones.
    ///
    /// # Errors
    ///
    /// Which address cannot be had, and why.
    pub fn bind(config: Config) -> Result<Self, String> {
        let at = |flag: &str, address: SocketAddr, error: io::Error| {
            let remedy = remedy(&error, flag, address);
            format!("{flag} {address}: {error}{remedy}")
        };
        let stall = config.downstream.write_stall;
        let first = listen(config.listen, true, stall).map_err(|error| at("--listen", config.listen, error))?;
        let address = first.local_addr().map_err(|error| at("--listen", config.listen, error))?;
        let mut data = vec![first];
        while data.len() < config.threads {
            data.push(listen_again(address, true, stall).map_err(|error| at("--listen", address, error))?);
        }
        let admin = listen(config.admin_listen, false, stall)
            .map_err(|error| at("--admin-listen", config.admin_listen, error))?;
        let admin_address = admin.local_addr().map_err(|error| at("--admin-listen", config.admin_listen, error))?;
        Ok(Self { config, data, admin, address, admin_address })
    }

    /// Serves until `stop` has come and everything has ended: lame duck, drain, done. A second `stop` ends at once. Has to
    /// run on a [`local_runtime`]. Each thread calls `give_back` every second, which is to return memory
    /// that it has freed to the system.
    ///
    /// # Errors
    ///
    /// A thread could not be started.
    pub async fn run<D: Directory>(
        self,
        directory: D,
        give_back: fn(),
        mut stop: mpsc::Receiver<()>,
    ) -> io::Result<()> {
        let Self { mut config, data, admin: admin_listener, address, admin_address } = self;
        let files = open_files(config.threads, &mut config.downstream.max_connections);
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::new());
        announce_series(&metrics, &config);
        let ending = Signal::new();
        let resolver = Resolver::new(directory, config.directory.clone(), Arc::clone(&metrics));
        let commons = commons(&config, &metrics, files);
        let unmet = Unmet::new(AtomicUsize::new(1 + data.len()));
        tokio::task::spawn_local(meet(resolver.clone(), Arc::clone(&unmet)));
        tokio::task::spawn_local(give_back_forever(give_back));
        let shared = Shared {
            config: Arc::clone(&config),
            give_back,
            resolver: resolver.clone(),
            unmet: Arc::clone(&unmet),
            commons: commons.clone(),
            watch: ending.watch(),
        };
        let mut ended = start_workers(&shared, data)?;
        let Commons { dns, backends, .. } = commons;
        let listed = Arc::clone(&backends);
        tokio::task::spawn_local(backends::refresh_forever(Arc::clone(&backends), dns.clone(), resolver.clone()));
        tokio::task::spawn_local(backends::check_forever(Arc::clone(&backends), dns));
        let dropped_lines = telemetry::dropped_lines;
        let admin = Admin {
            resolver,
            backends: listed,
            metrics,
            watch: ending.watch(),
            unmet,
            started: Instant::now(),
            dropped_lines,
        };
        tokio::task::spawn_local(admin.serve(TcpListener::from_std(admin_listener)?));
        tracing::info!(
            listen = %address,
            admin = %admin_address,
            threads = config.threads,
            version = crate::metrics::VERSION,
            "listening"
        );

        tokio::select! {
            _ = stop.recv() => {}
            _ = ended.recv() => return Err(io::Error::other("a worker thread has ended, see the log")),
        }
        let end = end(&config, &ending, &mut ended);
        tokio::select! {
            () = end => tracing::info!("drained"),
            _ = stop.recv() => tracing::warn!("stopped at once by a second signal"),
        }
        Ok(())
    }
}

/// What to do about an address that cannot be had, as the end of the sentence; nothing where that is not known.
fn remedy(error: &io::Error, flag: &str, address: SocketAddr) -> String {
    let kind = error.kind();
    if kind == io::ErrorKind::AddrInUse {
        let port = address.port();
        format!("; another process listens there ('ss -ltnp sport = :{port}' names it): end it, or give another {flag}")
    } else if kind == io::ErrorKind::AddrNotAvailable {
        format!("; no interface of this machine has that address: give another {flag}, such as 0.0.0.0")
    } else {
        String::new()
    }
}

/// The signals that ask for an end, as they come: SIGTERM, SIGINT, and SIGQUIT, which others take for the gentle one. (SIGHUP
/// is left to nohup, which has it ignored.) Has to be called on the runtime that then runs the app.
///
/// # Errors
///
/// The handlers could not be installed.
pub fn stop_signals() -> io::Result<mpsc::Receiver<()>> {
    let (sender, stop) = mpsc::channel(2);
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()] {
        let (mut signals, sender) = (signal(kind)?, sender.clone());
        tokio::task::spawn_local(
            async move { while signals.recv().await.is_some() && sender.send(()).await.is_ok() {} },
        );
    }
    Ok(stop)
}

/// Lame duck, then drain, until the last worker has ended.
async fn end(config: &Config, ending: &Signal, ended: &mut mpsc::Receiver<()>) {
    tracing::info!(lame_duck = ?config.drain.lame_duck, "shutting down: still serving");
    ending.advance(Phase::LameDuck);
    tokio::time::sleep(config.drain.lame_duck).await;
    tracing::info!(drain_timeout = ?config.drain.timeout, "draining");
    ending.advance(Phase::Draining);
    while ended.recv().await.is_some() {}
}

/// Raises the limit of open files as far as it goes: what of it is there for connections. Lowers `max_connections` to what fits:
/// with more, some would be refused by an accept that fails, without an answer, and those that are accepted would find no file
/// left for their pod, nor a probe one for itself.
fn open_files(threads: usize, max_connections: &mut usize) -> Files {
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit of open files could not be raised");
        rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(soft, _)| soft)
    });
    let reserved = RESERVED_FILES + threads * RESERVED_FILES_EACH;
    let files = Files::of(usize::try_from(limit).unwrap_or(usize::MAX), reserved, threads);
    let fitting = files.most_clients();
    if fitting < *max_connections {
        tracing::warn!(
            limit,
            max_connections,
            fitting,
            "--max-connections is lowered to what the limit of open files allows"
        );
        *max_connections = fitting;
    }
    files
}

/// Series whose labels are known are there from the start: an alert on a rate needs the zero before the first one.
fn announce_series(metrics: &Metrics, config: &Config) {
    metrics.max_downstream_connections.set(i64::try_from(config.downstream.max_connections).unwrap_or(i64::MAX));
    for code in CODES {
        metrics.rejected.with_label_values(&[code]);
    }
    for name in config.routing.fixed_pods.keys() {
        metrics.pod(name.as_str());
    }
}

/// What is limited per client, as far as somebody asked for it.
fn limits(config: &DownstreamConfig) -> Limits {
    let rules = config.rate_limits.iter();
    Limits {
        seats: config.max_connections_per_client.map(Seats::new),
        lookups: config.lookup_rate.map(Limiter::new).map(Arc::new),
        requests: rules.map(|rule| (rule.scope.clone(), Limiter::new(rule.rate))).collect(),
    }
}

/// Waits until the directory has answered this thread.
async fn meet<D: Directory>(resolver: Resolver<D>, unmet: Unmet) {
    resolver.directory().first_contact().await;
    unmet.fetch_sub(1, Ordering::Relaxed);
}

/// Has this thread return the memory it has freed, now and then until its runtime ends.
async fn give_back_forever(give_back: fn()) {
    loop {
        tokio::time::sleep(GIVE_BACK_EVERY).await;
        give_back();
    }
}

/// What all threads have in common.
fn commons(config: &Arc<Config>, metrics: &Arc<Metrics>, files: Files) -> Commons {
    Commons {
        dns: Dns::new(config.upstream.dns_stale, metrics.stale_addresses.clone()),
        backends: Arc::new(Backends::new(Arc::clone(config), Arc::clone(metrics))),
        queues: Queues::default(),
        reach: Reach::default(),
        limits: limits(&config.downstream),
        clients: Places::new(config.downstream.max_connections),
        files,
        metrics: Arc::clone(metrics),
    }
}

/// A worker thread for each listener, and what tells when one has ended: closed when all have.
fn start_workers<D: Directory>(
    shared: &Shared<D>,
    listeners: Vec<std::net::TcpListener>,
) -> io::Result<mpsc::Receiver<()>> {
    let (alive, ended) = mpsc::channel(1);
    for (index, listener) in listeners.into_iter().enumerate() {
        let (shared, alive) = (shared.clone(), Alive(alive.clone()));
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            worker(shared, listener);
            drop(alive);
        })?;
    }
    Ok(ended)
}

/// One worker thread, from its first connection to its last.
fn worker<D: Directory>(shared: Shared<D>, listener: std::net::TcpListener) {
    let serving = local_runtime().map(|runtime| {
        let served = runtime.block_on(async move {
            let Shared { config, give_back, resolver, unmet, commons, watch } = shared;
            tokio::task::spawn_local(give_back_forever(give_back));
            let resolver = resolver.attach();
            tokio::task::spawn_local(meet(resolver.clone(), unmet));
            let roster = Roster::new();
            let (metrics, clients) = (Arc::clone(&commons.metrics), Arc::clone(&commons.clients));
            let seats = commons.limits.seats.clone();
            let proxy = Proxy::new(Arc::clone(&config), resolver, commons, Rc::clone(&roster));
            let server = Server::new(proxy, roster, &config.downstream, clients, seats, metrics);
            server.run(TcpListener::from_std(listener)?, watch, &config.drain).await;
            io::Result::Ok(())
        });
        // Ends all tasks, but does not wait for the system's resolver as a drop would: it knows no deadline of ours.
        runtime.shutdown_background();
        served
    });
    if let Err(error) = serving.and_then(|served| served) {
        tracing::error!(%error, "a worker thread could not start");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Command};
    use crate::directory::memory::MemoryDirectory;
    use std::fs::File;
    use std::os::fd::OwnedFd;

    /// It would go on to say that it is ready.
    #[test]
    fn a_router_that_has_lost_a_worker_ends() {
        let line = "pod-router serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --directory memory --threads 2";
        let Ok(Command::Serve(config)) = config::parse(line.split(' ').map(Into::into), [], false) else {
            panic!("not understood: {line}");
        };
        let mut app = App::bind(*config).expect("loopback has a free port");
        // What no runtime can wait for.
        let file = File::open(env!("CARGO_MANIFEST_PATH")).expect("the manifest is there");
        app.data[1] = OwnedFd::from(file).into();
        let runtime = local_runtime().expect("the machine has room for a runtime");
        let (_never, stop) = mpsc::channel(1);
        let run = app.run(MemoryDirectory::default(), || (), stop);
        let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), run).await });
        let error = ended.expect("it ends by itself").expect_err("and not as if it had been asked to");
        assert!(error.to_string().contains("worker"), "{error}");
    }
}

//! The same work on a runtime a core, each with its own listener and its own connections to the pod, and on one runtime
//! whose threads take tasks from each other.
//!
//! Everything is `Send` and behind a lock in both, so that the runtime is the only difference. A runtime a core could do
//! without: what it is spared by that, as pod-router is, is not in these figures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, thread};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::{Outcome, Route, http};

/// Connections the kernel holds for a thread that is busy.
const BACKLOG: i32 = 4096;

/// How threads share the work.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Runtime {
    /// A runtime and a listener a thread: a connection stays where it was accepted.
    PerCore,
    /// One runtime, one listener, tasks that move.
    Shared,
}

/// What is done with a connection.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A connection to the pod for each, and bytes copied both ways.
    Relay(SocketAddr),
    /// Its requests go on to the pod on kept connections.
    Forward(Arc<http::Pool>),
}

/// Serves every route, for good. `work` is made once for each listener.
pub(crate) fn serve(runtime: Runtime, threads: usize, work: &dyn Fn(SocketAddr) -> Work, routes: &[Route]) -> Outcome {
    let listen = || -> io::Result<Vec<_>> {
        routes.iter().map(|route| Ok((listener(route.listen)?, work(route.target)))).collect()
    };
    match runtime {
        Runtime::Shared => {
            let next = AtomicUsize::new(0);
            let name = move || format!("worker-{}", next.fetch_add(1, Ordering::Relaxed));
            let runtime =
                Builder::new_multi_thread().worker_threads(threads).thread_name_fn(name).enable_all().build()?;
            // As a task: this thread only waits, and is no worker.
            runtime.block_on(runtime.spawn(serve_all(listen()?)))?
        }
        Runtime::PerCore => {
            let mut workers = Vec::new();
            for index in 0..threads {
                let listeners = listen()?;
                let worker = thread::Builder::new().name(format!("worker-{index}"));
                workers.push(worker.spawn(move || {
                    Builder::new_current_thread().enable_all().build()?.block_on(serve_all(listeners))
                })?);
            }
            workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker died")?)
        }
    }
}

fn listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn serve_all(listeners: Vec<(std::net::TcpListener, Work)>) -> Outcome {
    let mut all = JoinSet::new();
    for (listener, work) in listeners {
        let listener = TcpListener::from_std(listener)?;
        all.spawn(async move {
            loop {
                let (client, _) = listener.accept().await?;
                client.set_nodelay(true)?;
                let work = work.clone();
                // How a connection ends is its client's affair.
                tokio::spawn(async move { drop(one(client, work).await) });
            }
        });
    }
    match all.join_next().await {
        Some(ended) => ended?,
        None => Err("LISTEN=TARGET".into()),
    }
}

async fn one(mut client: TcpStream, work: Work) -> Outcome {
    match work {
        Work::Forward(pool) => http::serve(client, pool).await,
        Work::Relay(target) => {
            let mut pod = TcpStream::connect(target).await?;
            pod.set_nodelay(true)?;
            copy_bidirectional(&mut client, &mut pod).await?;
            Ok(())
        }
    }
}

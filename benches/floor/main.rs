//! Proxies that do less than the job: what no router can be lighter than, and what a runtime alone costs.
//!
//! Bare, it copies bytes with epoll and understands none of them: it routes nothing and keeps no connection to a pod, so it
//! is no peer; it shows how much of a figure is the kernel's. The other two do the same work twice, once on a runtime
//! a core and once on one runtime for all threads: the decision "a core is a world of its own", measured.
//!
//! ```text
//! floor LISTEN=TARGET...                                       copies bytes, with epoll only
//! floor cores|shared THREADS relay|http|MANY LISTEN=TARGET...  copies bytes, or forwards requests, with tokio; MANY: the
//!                                                              latter on any of so many connections
//! ```

mod bare;
mod http;
mod runtime;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use self::runtime::{Runtime, Work};

/// The product's allocator: memory that another thread frees is a part of what is compared.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Where to listen, and the pod behind it.
#[derive(Clone, Copy, Debug)]
struct Route {
    listen: SocketAddr,
    target: SocketAddr,
}

fn main() -> Outcome {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [kind @ ("cores" | "shared"), threads, what, ref pairs @ ..] => {
            let forward = |many| move |target| Work::Forward(Arc::new(http::Pool::new(target, many)));
            let work: Box<dyn Fn(SocketAddr) -> Work> = match what {
                "relay" => Box::new(Work::Relay),
                "http" => Box::new(forward(0)),
                many => Box::new(forward(many.parse()?)),
            };
            let runtime = if kind == "cores" { Runtime::PerCore } else { Runtime::Shared };
            runtime::serve(runtime, threads.parse()?, &*work, &routes(pairs)?)
        }
        ref pairs => bare::serve(&routes(pairs)?),
    }
}

fn routes(pairs: &[&str]) -> Result<Vec<Route>, Box<dyn Error + Send + Sync>> {
    let mut routes = Vec::new();
    for pair in pairs {
        let (listen, target) = pair.split_once('=').ok_or("see the first lines of benches/floor/main.rs")?;
        routes.push(Route { listen: listen.parse()?, target: target.parse()? });
    }
    Ok(routes)
}

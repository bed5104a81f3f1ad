//! What the kernel says of IPv4 connections: its table, `/proc/net/tcp` (proc(5)).

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// What may wait in one socket of the router's. The kernel doubles what is asked for.
pub(crate) const MOST_QUEUED: u64 = 512 * 1024;

/// The state of a connection that is closed, with something still to be sent that the peer does not take.
const FIN_WAIT_1: &str = "04";

/// That of one that is open.
const ESTABLISHED: &str = "01";

/// A timer that is no retransmission.
const KEEP_ALIVE: &str = "02:";

/// How many connections are left on this port that the kernel alone still has to do with.
pub(crate) fn orphans(port: u16) -> usize {
    let port = format!(":{port:04X}");
    table(|[local, _, state, _, _]| (local.ends_with(&port) && state == FIN_WAIT_1).then_some(())).len()
}

/// The bytes that wait in this machine's sockets to `pod`, which are the router's: still to be sent and acknowledged, and
/// still to be read. The most of any one.
pub(crate) fn queued(pod: SocketAddr) -> (u64, u64) {
    let pod = written(pod);
    let queues = table(|[_, remote, _, queues, _]| {
        let (sending, received) = queues.split_once(':').filter(|_| remote == pod)?;
        Some((u64::from_str_radix(sending, 16).ok()?, u64::from_str_radix(received, 16).ok()?))
    });
    let most = queues.into_iter().reduce(|most, queue| (most.0.max(queue.0), most.1.max(queue.1)));
    most.expect("there is a connection to the pod")
}

/// How many of this machine's open connections to `pod` are probed by the kernel while they are silent.
pub(crate) fn probed(pod: SocketAddr) -> usize {
    let pod = written(pod);
    table(|[_, remote, state, _, timer]| {
        (remote == pod && state == ESTABLISHED && timer.starts_with(KEEP_ALIVE)).then_some(())
    })
    .len()
}

/// An address as the table has it.
fn written(pod: SocketAddr) -> String {
    let IpAddr::V4(ip) = pod.ip() else { panic!("pods are on 127/8") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), pod.port())
}

/// What `read` makes of the connections: of the local and the remote address, the state, both queues, and the timer.
fn table<T>(read: impl Fn([&str; 5]) -> Option<T>) -> Vec<T> {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let fields = |line: &str| -> Option<T> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        read([fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?])
    };
    table.lines().filter_map(fields).collect()
}

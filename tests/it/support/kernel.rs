//! What the kernel says of connections.

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// How many connections of the kernel's own are left on this port: closed, with something still to be sent that the peer does
/// not take (FIN-WAIT-1).
pub(crate) fn orphans(port: u16) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let port = format!(":{port:04X}");
    let is_one = |line: &&str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some("04")
    };
    table.lines().filter(is_one).count()
}

/// The bytes that wait in this machine's sockets to `pod`, which are the router's: still to be sent and acknowledged, and
/// still to be read. The most of any one.
pub(crate) fn queued(pod: SocketAddr) -> (u64, u64) {
    let IpAddr::V4(ip) = pod.ip() else { panic!("pods are on 127/8") };
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let pod = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), pod.port());
    let queues = table.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(2);
        let (remote, _state, queues) = (fields.next()?, fields.next()?, fields.next()?);
        let (sending, received) = queues.split_once(':').filter(|_| remote == pod)?;
        Some((u64::from_str_radix(sending, 16).ok()?, u64::from_str_radix(received, 16).ok()?))
    });
    queues.reduce(|most, queue| (most.0.max(queue.0), most.1.max(queue.1))).expect("there is a connection to the pod")
}

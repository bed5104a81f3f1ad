//! SRV records (RFC 2782): a service's pods by name and port, which `getaddrinfo` does not ask for.
//!
//! One question to the name servers of resolv.conf, over UDP and, where the answer was cut short, over TCP (RFC 7766).
//! Names are full ones: no search list is walked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use resolv_conf::ScopedIp;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::core::address::HostPort;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How long one server has; the next one is asked then.
const PATIENCE: Duration = Duration::from_secs(2);

/// The largest answer taken over UDP: larger ones come cut short.
const MAX_DATAGRAM: usize = 4096;

/// A service's pods and their weights. An empty list is an answer: nobody is there.
pub(super) type Services = Vec<(HostPort, u32)>;

/// Asks the system's name servers, one after the other, until one answers.
///
/// # Errors
///
/// The last one's failure.
pub(super) async fn ask(name: &str) -> io::Result<Services> {
    let text = tokio::task::spawn_blocking(|| std::fs::read(RESOLV_CONF)).await.map_err(io::Error::other)??;
    let (config, _) = resolv_conf::Config::parse_with_errors(&text);
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "resolv.conf names no server");
    for server in config.nameservers {
        let server = SocketAddr::new(address(&server), 53);
        match timeout(PATIENCE, ask_server(server, name)).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failure)
}

fn address(server: &ScopedIp) -> IpAddr {
    match server {
        ScopedIp::V4(ip) => IpAddr::V4(*ip),
        ScopedIp::V6(ip, _) => IpAddr::V6(*ip),
    }
}

async fn ask_server(server: SocketAddr, name: &str) -> io::Result<Services> {
    let id = fastrand::u16(..);
    let question = question(id, name)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut answer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut answer).await?;
        // What is no answer to this question may come from anybody: the true one is waited for.
        match read(&answer[..length], id, name) {
            Some(Answer::Found(found)) => return Ok(found),
            Some(Answer::Failed) => return Err(io::Error::other("the name server failed")),
            Some(Answer::CutShort) => return ask_over_tcp(server, &question, id, name).await,
            None => {}
        }
    }
}

async fn ask_over_tcp(server: SocketAddr, question: &[u8], id: u16, name: &str) -> io::Result<Services> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    match read(&answer, id, name) {
        Some(Answer::Found(found)) => Ok(found),
        _ => Err(io::Error::other("the name server failed")),
    }
}

fn question(id: u16, name: &str) -> io::Result<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).map_err(io::Error::other)?;
    packet.questions.push(Question::new(name, QTYPE::TYPE(TYPE::SRV), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().map_err(io::Error::other)
}

/// What a packet says.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Found(Services),
    CutShort,
    Failed,
}

/// Reads an answer; `None` for what answers another question. Only the best priority counts (RFC 2782), and a name that
/// does not exist has no pods.
fn read(packet: &[u8], id: u16, name: &str) -> Option<Answer> {
    let packet = Packet::parse(packet).ok()?;
    let asked = packet.questions.first()?.qname.to_string();
    let is_ours = packet.id() == id && packet.has_flags(PacketFlag::RESPONSE);
    if !is_ours || !asked.eq_ignore_ascii_case(name.trim_end_matches('.')) {
        return None;
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Some(Answer::CutShort);
    }
    if !matches!(packet.rcode(), RCODE::NoError | RCODE::NameError) {
        return Some(Answer::Failed);
    }
    let services = || {
        packet.answers.iter().filter_map(|record| if let RData::SRV(srv) = &record.rdata { Some(srv) } else { None })
    };
    let best = services().map(|srv| srv.priority).min();
    let found = services().filter(|srv| Some(srv.priority) == best).filter_map(|srv| {
        let target = format!("{}:{}", srv.target, srv.port).parse().ok()?;
        Some((target, u32::from(srv.weight).max(1)))
    });
    Some(Answer::Found(found.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::SRV;

    const NAME: &str = "_http._tcp.backend.default.svc.cluster.local";

    fn answer(change: impl FnOnce(&mut Packet<'_>)) -> Vec<u8> {
        let asked = question(7, NAME).expect("a name");
        let mut packet = Packet::parse(&asked).expect("a packet");
        packet.set_flags(PacketFlag::RESPONSE);
        change(&mut packet);
        packet.build_bytes_vec().expect("a packet")
    }

    fn srv(priority: u16, weight: u16, target: &'static str) -> ResourceRecord<'static> {
        let target = Name::new(target).expect("a name");
        let srv = SRV { priority, weight, port: 3000, target };
        ResourceRecord::new(Name::new(NAME).expect("a name"), CLASS::IN, 5, RData::SRV(srv))
    }

    #[test]
    fn the_best_priority_is_taken() {
        let packet = answer(|packet| {
            packet.answers.push(srv(10, 33, "backend-0.backend.default.svc.cluster.local"));
            packet.answers.push(srv(20, 33, "spare.default.svc.cluster.local"));
            packet.answers.push(srv(10, 0, "backend-1.backend.default.svc.cluster.local"));
        });
        let expected =
            |n: u32| format!("backend-{n}.backend.default.svc.cluster.local:3000").parse().expect("an address");
        assert_eq!(read(&packet, 7, NAME), Some(Answer::Found(vec![(expected(0), 33), (expected(1), 1)])));
    }

    #[test]
    fn what_is_no_answer_is_told_from_an_empty_one() {
        assert_eq!(read(&answer(|_| {}), 7, NAME), Some(Answer::Found(vec![])));
        assert_eq!(read(&answer(|p| *p.rcode_mut() = RCODE::NameError), 7, NAME), Some(Answer::Found(vec![])));
        assert_eq!(read(&answer(|p| *p.rcode_mut() = RCODE::ServerFailure), 7, NAME), Some(Answer::Failed));
        assert_eq!(read(&answer(|p| p.set_flags(PacketFlag::TRUNCATION)), 7, NAME), Some(Answer::CutShort));
        for (packet, id, name) in [
            (answer(|_| {}), 8, NAME),
            (answer(|_| {}), 7, "_http._tcp.other"),
            (question(7, NAME).expect("a name"), 7, NAME),
            (b"nonsense".to_vec(), 7, NAME),
        ] {
            assert_eq!(read(&packet, id, name), None);
        }
    }
}

//! Copies bytes between two sockets with epoll and nothing else, and understands none of them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::{Outcome, Route};

const BUFFER: usize = 64 * 1024;

/// One side of a pair: its socket, the other side, and what that one has not taken yet.
struct Side {
    socket: TcpStream,
    other: usize,
    pending: Vec<u8>,
}

/// Serves every route on this thread, for good.
pub(crate) fn serve(routes: &[Route]) -> Outcome {
    let mut poll = Poll::new()?;
    let mut listeners = Vec::new();
    for route in routes {
        let mut listener = TcpListener::bind(route.listen)?;
        poll.registry().register(&mut listener, Token(listeners.len()), Interest::READABLE)?;
        listeners.push((listener, route.target));
    }
    let mut sides = Slab::new();
    let mut events = Events::with_capacity(512);
    let mut buffer = vec![0; BUFFER];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            let Token(token) = event.token();
            match listeners.get(token) {
                Some((listener, target)) => accept(&poll, listener, *target, &mut sides, listeners.len())?,
                None => handle(&poll, event, token - listeners.len(), &mut sides, &mut buffer),
            }
        }
    }
}

fn accept(
    poll: &Poll,
    listener: &TcpListener,
    target: SocketAddr,
    sides: &mut Slab<Side>,
    first: usize,
) -> io::Result<()> {
    while let Ok((client, _)) = listener.accept() {
        let pod = TcpStream::connect(target)?;
        let mut add = |mut socket: TcpStream| {
            socket.set_nodelay(true)?;
            let token = Token(first + sides.vacant_key());
            poll.registry().register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
            io::Result::Ok(sides.insert(Side { socket, other: usize::MAX, pending: Vec::new() }))
        };
        let (client, pod) = (add(client)?, add(pod)?);
        sides[client].other = pod;
        sides[pod].other = client;
    }
    Ok(())
}

/// Moves what can be moved after an event on a side; a side that is done takes the other with it.
fn handle(poll: &Poll, event: &Event, key: usize, sides: &mut Slab<Side>, buffer: &mut [u8]) {
    let Some(other) = sides.get(key).map(|side| side.other) else {
        return;
    };
    let mut alive = true;
    if event.is_writable() && !sides[key].pending.is_empty() {
        alive &= flush(&mut sides[key]).is_ok();
        alive &= copy(sides, other, key, buffer).is_ok();
    }
    if event.is_readable() {
        alive &= copy(sides, key, other, buffer).is_ok();
    }
    if !alive || event.is_read_closed() {
        for key in [key, other] {
            let mut side = sides.remove(key);
            let _ = side.socket.shutdown(Shutdown::Both);
            let _ = poll.registry().deregister(&mut side.socket);
        }
    }
}

/// Writes what the side has not taken yet.
fn flush(side: &mut Side) -> io::Result<()> {
    while !side.pending.is_empty() {
        match side.socket.write(&side.pending) {
            Ok(written) => drop(side.pending.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads from one side and writes to the other, until there is no more to read or the other takes no more.
fn copy(sides: &mut Slab<Side>, from: usize, to: usize, buffer: &mut [u8]) -> io::Result<()> {
    while sides[to].pending.is_empty() {
        let read = match sides[from].socket.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let written = match sides[to].socket.write(&buffer[..read]) {
            Ok(written) => written,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => 0,
            Err(error) => return Err(error),
        };
        sides[to].pending.extend_from_slice(&buffer[written..read]);
        if read < buffer.len() {
            return Ok(());
        }
    }
    Ok(())
}

//! The client's side of the proxy: what is known of the connection a request came on.
//!
//! Whoever serves a request says here what it comes to for the connection; who serves that (`server/connection.rs`) and the
//! socket ([`ClientSocket`]) act on it. Nothing here does I/O or waits: one without a request is timed by `server/patience.rs`.

mod socket;

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::task::Context;
use std::time::Instant;

pub use socket::ClientSocket;

use super::canned::Unheard;
use super::doubt::Doubts;
use super::nursery::Youth;
use super::reject::SLOW_HEAD;
use super::tunnel::End;
use super::upgrade::Agreed;
use crate::core::forwarded::Client;
use crate::limits::{Place, Seat};
use crate::metrics::Held;

/// The downstream connection a request came on.
#[derive(Debug)]
pub struct Downstream {
    /// The peer, and whether it is believed.
    pub client: Client,
    /// Its first second.
    pub youth: Youth,
    /// Whether another request may be taken from it.
    pub doubts: Doubts,
    /// Since when nothing is under way; `None` while a request is.
    idle_since: Cell<Option<Instant>>,
    /// The requests so far.
    requests: Cell<u64>,
    /// Those that are not over: one, and a second for a moment after a [`Downstream::hold`].
    under_way: Cell<u32>,
    /// What the connection is to become.
    tunnel: RefCell<Option<Box<Agreed>>>,
    socket: SocketState,
    /// Counts the connection; the tunnel's once it has become one.
    permit: RefCell<Option<Permit>>,
}

/// What is known of a client's socket, which hyper holds.
#[derive(Debug, Default)]
struct SocketState {
    /// Something has come since the last request ended, or the connection was accepted.
    heard: Cell<bool>,
    /// Writes that the client has taken.
    taken: Cell<u64>,
    /// Whether it does not take the next one.
    stuck: Cell<bool>,
    /// Whether an answer of the router's own has been given since there was last nothing to be read.
    own_answer: Cell<bool>,
    ending: Cell<Option<Ending>>,
    owed: Cell<Owed>,
    /// Whether the client has said of a request that it is the last: its answer goes with the connection's end. The end may
    /// come without that.
    client_closes: Cell<bool>,
    cork: Cell<Cork>,
    /// What is said to a client of which no request was understood. Boxed, because most never are.
    unheard: OnceCell<Box<Unheard>>,
}

/// What a client is owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Owed {
    /// Nothing: what hyper writes now, it says by itself, of a head that it cannot read.
    #[default]
    Nothing,
    /// The answer to a request.
    Answer,
    /// What is left of it in hyper's buffer: the request is over.
    Rest,
}

/// What the kernel holds back of the last answer, so that it goes in one packet with the connection's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Cork {
    #[default]
    None,
    /// Until the end, which hyper comes to in the turn in which it has written the answer, unless more of the request is to
    /// come or it leaves the others a turn.
    ForTheEnd,
    /// It has not: it waits for something else, and the answer waits no longer.
    TooLong,
}

/// How a client's connection is ended that has not ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a 408: its request head did not come to an end.
    SlowHead,
    /// With a reset: it does not take what there is for it, and the kernel would go on offering it.
    SlowReader,
    /// With an answer, while more of the request is on its way: closing a socket that has something to be read resets
    /// the connection, and the reset may overtake the answer (RFC 9112 section 9.6).
    Unread,
    /// With a reset: its answer has not come to its end, and HTTP/1.0 takes the end of the connection for that.
    CutShort,
}

/// A client has gone within its request. Nobody is to be answered, and its connection ends.
#[derive(Debug)]
pub struct ClientGone;

impl fmt::Display for ClientGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client has gone within its request")
    }
}

impl std::error::Error for ClientGone {}

/// A place among `--max-connections`, and among those of its client: for as long as the connection lives, the tunnel that it
/// became, or what is left of a request's body that is still sent to its pod.
#[derive(Debug)]
pub struct Permit {
    _place: Place,
    _counted: Held,
    /// Boxed, because most have none, and an idle tunnel holds its permit.
    _seat: Option<Box<Seat>>,
}

impl Permit {
    /// A permit that is one among all.
    pub fn new(place: Place, counted: Held) -> Self {
        Self { _place: place, _counted: counted, _seat: None }
    }

    /// And one of its client's, where those are counted.
    pub fn seated(self, seat: Option<Seat>) -> Self {
        Self { _seat: seat.map(Box::new), ..self }
    }
}

impl Downstream {
    /// A connection that has just been accepted.
    pub fn new(client: Client, permit: Permit, youth: Youth) -> Self {
        Self {
            client,
            youth,
            doubts: Doubts::default(),
            idle_since: Cell::new(Some(Instant::now())),
            requests: Cell::new(0),
            under_way: Cell::new(0),
            tunnel: RefCell::default(),
            socket: SocketState::default(),
            permit: RefCell::new(Some(permit)),
        }
    }

    /// Which request's head has begun to come and is not complete, counted from 0. One that came together with the end
    /// of an earlier request is not seen until more of it comes. What comes once the connection is to end is none.
    pub fn incomplete_head(&self) -> Option<u64> {
        let SocketState { heard, ending, .. } = &self.socket;
        let waiting = self.idle_since.get().is_some() && heard.get() && ending.get().is_none();
        waiting.then(|| self.requests.get())
    }

    /// Which write the client does not take, counted from 0.
    pub fn stuck_write(&self) -> Option<u64> {
        self.socket.stuck.get().then(|| self.socket.taken.get())
    }

    /// Says how the connection is to be ended when it is dropped.
    pub fn end_with(&self, ending: Ending) {
        self.socket.ending.set(Some(ending));
    }

    /// The head that has begun to come does not end in time: writes the access line, and has the connection end by saying so.
    pub fn end_with_slow_head(&self) {
        self.socket.unheard.get_or_init(|| Unheard::new(&SLOW_HEAD).into()).log(self.client.ip);
        self.end_with(Ending::SlowHead);
    }

    /// What the client has been told, where no request was understood.
    pub fn unheard(&self) -> Option<&Unheard> {
        self.socket.unheard.get().map(|unheard| &**unheard)
    }

    /// The answer that would have been cut short is complete: the connection ends as it would have otherwise. One that has
    /// more of its request to come still does so last.
    pub(super) fn is_not_cut_short(&self) {
        let ending = &self.socket.ending;
        ending.set(ending.get().filter(|ending| *ending != Ending::CutShort));
    }

    /// Why the router ends the connection amid a request, if it does.
    pub(super) fn cut(&self) -> Option<&'static str> {
        (self.socket.ending.get() == Some(Ending::SlowReader)).then_some("slow-reader")
    }

    /// Since when the connection has been waiting for a request, if it is.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get()
    }

    /// An answer of the router's own is given: whether it is the first since all that had come was read. Any other is to a
    /// request that was sent ahead.
    pub(super) fn is_first_own_answer(&self) -> bool {
        !self.socket.own_answer.replace(true)
    }

    /// The connection is to become this tunnel's.
    pub(super) fn agree(&self, tunnel: Agreed) {
        *self.tunnel.borrow_mut() = Some(Box::new(tunnel));
    }

    /// The tunnel that it is to become, if it is: once, and from then on nobody else's. Not before the client has taken all
    /// that hyper has for it: an answer to a request before the handshake. To be asked right after a poll of hyper's, which tries
    /// to write whatever it has left.
    pub fn take_tunnel(&self) -> Option<Box<Agreed>> {
        if self.socket.stuck.get() { None } else { self.tunnel.take() }
    }

    /// The connection ends before it has become the tunnel, if it was to become one.
    pub fn give_up_tunnel(&self) {
        if let Some(tunnel) = self.tunnel.take() {
            tunnel.give_up(if self.cut().is_some() { End::SlowReader } else { End::ClientReset });
        }
    }

    /// What counts the connection, for a tunnel that counts in its place.
    pub(super) fn take_permit(&self) -> Option<Permit> {
        self.permit.take()
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.socket.owed.set(Owed::Answer);
        self.resume();
    }

    /// It is the connection's last, by the client's own word.
    pub(super) fn note_last(&self) {
        self.socket.client_closes.set(true);
    }

    /// hyper's turn is over without an end, which what it has written last waits for: that goes out at the next turn, when
    /// hyper flushes whether or not it has written anything.
    pub fn uncork_at_next_turn(&self, cx: &Context<'_>) {
        if self.socket.cork.get() == Cork::ForTheEnd {
            self.socket.cork.set(Cork::TooLong);
            cx.waker().wake_by_ref();
        }
    }

    fn resume(&self) {
        self.idle_since.set(None);
        self.under_way.set(self.under_way.get() + 1);
    }

    /// It has ended.
    pub(super) fn end(&self, now: Instant) {
        self.socket.owed.set(Owed::Rest);
        self.release(now);
    }

    fn release(&self, now: Instant) {
        self.under_way.set(self.under_way.get() - 1);
        if self.under_way.get() == 0 {
            self.idle_since.set(Some(now));
            self.socket.heard.set(false);
        }
    }

    /// Keeps the connection from being idle after its response, until this is dropped: the rest of the request's body is
    /// still to come, and no head.
    pub(super) fn hold(self: &Rc<Self>) -> Hold {
        self.resume();
        Hold(Rc::clone(self))
    }
}

/// See [`Downstream::hold`].
#[derive(Debug)]
pub(super) struct Hold(Rc<Downstream>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.release(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use prometheus::IntGauge;

    use super::*;
    use crate::limits::Places;

    /// A connection of somebody's, and the gauge that counts it.
    pub(super) fn accepted() -> (Rc<Downstream>, IntGauge) {
        let gauge = IntGauge::new("connections", "Those of this test.").expect("a gauge");
        let place = Places::new(1).take().expect("there is one");
        let permit = Permit::new(place, Held::new(&gauge));
        (Rc::new(Downstream::new(Client::new([192, 0, 2, 1].into(), &[]), permit, Youth::over())), gauge)
    }

    #[test]
    fn a_tunnel_counts_in_its_connections_place() {
        let (downstream, gauge) = accepted();
        let permit = downstream.take_permit();
        drop(downstream);
        assert_eq!(gauge.get(), 1);
        drop(permit);
        assert_eq!(gauge.get(), 0);
    }

    fn hear(downstream: &Downstream) {
        downstream.socket.heard.set(true);
    }

    #[test]
    fn a_connection_is_idle_between_requests_and_counts_until_its_end() {
        let (downstream, gauge) = accepted();
        assert!(downstream.idle_since().is_some());
        downstream.begin();
        assert!(downstream.idle_since().is_none());
        let now = Instant::now();
        downstream.end(now);
        assert_eq!((downstream.idle_since(), gauge.get()), (Some(now), 1));
        drop(downstream);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn what_comes_between_requests_is_a_head() {
        let (downstream, _) = accepted();
        assert_eq!(downstream.incomplete_head(), None, "nothing has come");
        hear(&downstream);
        assert_eq!(downstream.incomplete_head(), Some(0));
        downstream.begin();
        assert_eq!(downstream.incomplete_head(), None, "it was complete");
        hear(&downstream);
        downstream.end(Instant::now());
        assert_eq!(downstream.incomplete_head(), None, "that was the request's body");
        hear(&downstream);
        assert_eq!(downstream.incomplete_head(), Some(1));
        downstream.end_with(Ending::Unread);
        assert_eq!(downstream.incomplete_head(), None, "nobody waits for it to be complete");
    }

    #[test]
    fn a_body_that_is_still_to_come_is_no_head() {
        let (downstream, _) = accepted();
        downstream.begin();
        let hold = downstream.hold();
        downstream.end(Instant::now());
        hear(&downstream);
        assert_eq!((downstream.idle_since(), downstream.incomplete_head()), (None, None));
        drop(hold);
        assert!(downstream.idle_since().is_some() && downstream.incomplete_head().is_none());
    }

    #[test]
    fn a_complete_answer_takes_back_the_reset_and_nothing_else() {
        let (downstream, _) = accepted();
        for (ending, left) in [(Ending::CutShort, None), (Ending::Unread, Some(Ending::Unread))] {
            downstream.end_with(ending);
            downstream.is_not_cut_short();
            assert_eq!(downstream.socket.ending.get(), left, "{ending:?}");
        }
    }

    #[test]
    fn only_a_slow_reader_is_cut() {
        let (downstream, _) = accepted();
        assert_eq!((downstream.cut(), downstream.stuck_write()), (None, None));
        downstream.end_with(Ending::SlowReader);
        assert_eq!(downstream.cut(), Some("slow-reader"));
    }
}

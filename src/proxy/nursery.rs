//! Connections and tunnels in their first second: what matters only to those that live longer is given to them at its end, and
//! what is waited for meanwhile, a dial or an answer, has no timer until then. Many never come to that, and a storm of
//! handshakes, after a restart of a pod, should cost as little as it can.
//!
//! One [`Nursery`] per worker thread. It wakes a task and has nothing of it: a waker that is kept would keep the memory of a
//! connection that has ended.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::upkeep::{SECOND, every_second};
use crate::drain::{Member, Roster};

/// The young of one worker thread.
#[derive(Debug)]
pub struct Nursery {
    roster: Rc<Roster>,
    /// Counts how often the young have grown up: at the end of every second.
    year: Cell<u32>,
    /// By place in the roster: whether somebody young has had it this year. It may be another's by now, who is woken in vain,
    /// but once for all that have had it.
    young: RefCell<Vec<bool>>,
}

/// Since when a connection or tunnel is young.
#[derive(Clone, Copy, Debug)]
pub struct Young(u32);

/// A connection's first second, for whoever waits for something in its task.
#[derive(Debug)]
pub struct Youth {
    nursery: Rc<Nursery>,
    since: Young,
}

impl Nursery {
    /// An empty one, for the thread whose runtime this is called on.
    pub(super) fn open(roster: Rc<Roster>) -> Rc<Self> {
        let nursery = Rc::new(Self::new(roster));
        every_second(&nursery, Self::grow);
        nursery
    }

    /// The same, where somebody else lets the young [grow](Self::grow).
    pub(crate) fn new(roster: Rc<Roster>) -> Self {
        Self { roster, year: Cell::new(0), young: RefCell::default() }
    }

    /// Whether none of these limits is over before one has grown up, where nothing that they limit has begun before one's youth.
    pub fn is_outlasted_by(limits: impl IntoIterator<Item = Duration>) -> bool {
        limits.into_iter().all(|limit| limit > SECOND)
    }

    /// The youth of a connection that begins now. Its task is polled once more at the end: the member has
    /// [enrolled](Member::enrol) it by then, or the youth is over when it is first polled.
    pub fn youth(self: &Rc<Self>, member: &Member) -> Youth {
        Youth { nursery: Rc::clone(self), since: self.admit(member) }
    }

    /// Takes a task in, which the member has [enrolled](Member::enrol): it is polled once more when it is no longer young.
    pub fn admit(&self, member: &Member) -> Young {
        let (place, mut young) = (member.place(), self.young.borrow_mut());
        if place >= young.len() {
            young.resize(place + 1, false);
        }
        young[place] = true;
        Young(self.year.get())
    }

    /// Whether it is no longer young.
    pub fn has_grown_up(&self, young: Young) -> bool {
        young.0 != self.year.get()
    }

    /// Lets those there are grow up.
    pub(crate) fn grow(&self) {
        self.year.set(self.year.get().wrapping_add(1));
        // With its memory: a storm is rare.
        for (place, _) in self.young.take().into_iter().enumerate().filter(|(_, is_young)| *is_young) {
            self.roster.wake(place);
        }
    }
}

impl Youth {
    /// Whether what is waited for in the connection's task, with these limits, needs no timer yet: it has not begun before the
    /// connection, and the task is polled once more before any of them is over.
    pub fn spares(&self, limits: impl IntoIterator<Item = Duration>) -> bool {
        !self.nursery.has_grown_up(self.since) && Nursery::is_outlasted_by(limits)
    }

    /// One that is over.
    #[cfg(test)]
    pub(crate) fn over() -> Self {
        let nursery = Rc::new(Nursery::new(Roster::new()));
        let since = Young(nursery.year.get().wrapping_sub(1));
        Self { nursery, since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::tests::Wakes;
    use std::sync::Arc;

    /// A member and its task.
    fn enrolled(roster: &Rc<Roster>) -> (Member, Arc<Wakes>) {
        let (member, task) = (roster.join(), Arc::new(Wakes::default()));
        member.enrol(&task.waker());
        (member, task)
    }

    #[test]
    fn a_limit_of_a_second_is_timed_from_its_beginning() {
        let longer = SECOND + Duration::from_millis(1);
        assert!(Nursery::is_outlasted_by([]) && Nursery::is_outlasted_by([longer, 60 * SECOND]));
        assert!(!Nursery::is_outlasted_by([60 * SECOND, SECOND]));
    }

    #[test]
    fn the_young_grow_up_once_and_nothing_is_kept_of_who_has_gone() {
        let roster = Roster::new();
        let nursery = Nursery::new(Rc::clone(&roster));
        let ((leaves, gone), (stays, task)) = (enrolled(&roster), enrolled(&roster));
        let young = [&leaves, &stays].map(|member| nursery.admit(member));
        drop(leaves);
        assert_eq!(Arc::strong_count(&gone), 1);
        assert!(!nursery.has_grown_up(young[1]));
        nursery.grow();
        assert!(nursery.has_grown_up(young[1]) && nursery.young.borrow().is_empty());
        assert_eq!((gone.count(), task.count()), (0, 1));
        nursery.grow();
        assert_eq!(task.count(), 1, "it has grown up");
        assert!(!nursery.has_grown_up(nursery.admit(&stays)));
    }

    #[test]
    fn a_youth_spares_what_is_over_after_it_until_it_ends() {
        let roster = Roster::new();
        let nursery = Rc::new(Nursery::new(Rc::clone(&roster)));
        let (member, task) = enrolled(&roster);
        let youth = nursery.youth(&member);
        assert!(
            youth.spares([2 * SECOND]) && !youth.spares([2 * SECOND, SECOND]) && !Youth::over().spares([2 * SECOND])
        );
        nursery.grow();
        assert!(!youth.spares([2 * SECOND]) && task.count() == 1);
    }

    #[test]
    fn a_place_is_woken_once_however_many_have_had_it() {
        let roster = Roster::new();
        let nursery = Nursery::new(Rc::clone(&roster));
        for _ in 0..10 {
            nursery.admit(&roster.join());
        }
        let (last, task) = enrolled(&roster);
        assert_eq!(last.place(), 0);
        nursery.admit(&last);
        nursery.grow();
        assert_eq!(task.count(), 1);
    }
}

//! Tunnels in their first second: what matters only to those that live longer is given to them at its end. Many never come
//! to that, and a storm of handshakes, after a restart of a pod, should cost as little as it can.
//!
//! One [`Nursery`] per worker thread. It wakes a tunnel's task and has nothing of it: a waker that is kept would keep the
//! memory of a tunnel that has ended.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::upkeep::every_second;
use crate::drain::{Member, Roster};

/// The young tunnels of one worker thread.
#[derive(Debug)]
pub(super) struct Nursery {
    roster: Rc<Roster>,
    /// Counts how often the young have grown up: at the end of every second.
    year: Cell<u32>,
    /// Their places in the roster. One that has been left may be another's by now, who is woken in vain.
    young: RefCell<Vec<usize>>,
}

/// Since when a tunnel is young.
#[derive(Clone, Copy, Debug)]
pub(super) struct Young(u32);

impl Nursery {
    /// An empty one, for the thread whose runtime this is called on.
    pub(super) fn open(roster: Rc<Roster>) -> Rc<Self> {
        let nursery = Rc::new(Self::new(roster));
        every_second(&nursery, Self::grow);
        nursery
    }

    fn new(roster: Rc<Roster>) -> Self {
        Self { roster, year: Cell::new(0), young: RefCell::default() }
    }

    /// Takes a tunnel's task in: it is polled once more when it is no longer young.
    pub(super) fn admit(&self, member: &Member) -> Young {
        self.young.borrow_mut().push(member.place());
        Young(self.year.get())
    }

    /// Whether it is no longer young.
    pub(super) fn has_grown_up(&self, young: Young) -> bool {
        young.0 != self.year.get()
    }

    /// Lets those there are grow up.
    fn grow(&self) {
        self.year.set(self.year.get().wrapping_add(1));
        // With its memory: a storm is rare.
        for place in self.young.take() {
            self.roster.wake(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::{Wake, Waker};

    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn the_young_grow_up_once_and_nothing_is_kept_of_who_has_gone() {
        let roster = Roster::new();
        let nursery = Nursery::new(Rc::clone(&roster));
        let (stays, leaves) = (roster.join(), roster.join());
        let task = Arc::new(Task);
        leaves.phase(&Waker::from(Arc::clone(&task)));
        let young = [&stays, &leaves].map(|member| nursery.admit(member));
        drop(leaves);
        assert_eq!(Arc::strong_count(&task), 1);
        assert!(!nursery.has_grown_up(young[0]));
        nursery.grow();
        assert!(nursery.has_grown_up(young[0]) && nursery.young.borrow().is_empty());
        let next = nursery.admit(&stays);
        assert!(!nursery.has_grown_up(next));
    }
}

//! How many connections there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many places, of which each is had by one connection at a time.
#[derive(Debug)]
pub struct Places {
    most: usize,
    taken: AtomicUsize,
}

/// One of them, given back on drop.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Places {
    /// So many.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicUsize::new(0) })
    }

    /// One of them, if there is one. Looked for and taken in one step: of two who come for the last, one gets it.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let free = |taken| (taken < self.most).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free);
        taken.ok().map(|_| Place(Arc::clone(self)))
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn of_two_who_come_for_the_last_place_one_gets_it() {
        let (places, both) = (Places::new(2), Barrier::new(2));
        let taken = places.take().expect("there are two");
        std::thread::scope(|scope| {
            let threads = [(); 2].map(|()| {
                scope.spawn(|| {
                    let mut got = Vec::new();
                    for _ in 0..10_000 {
                        both.wait();
                        let place = places.take();
                        got.push(place.is_some());
                        both.wait();
                    }
                    got
                })
            });
            let [one, other] = threads.map(|thread| thread.join().expect("no panic"));
            assert!(one.iter().zip(&other).all(|(one, other)| one != other));
        });
        drop(taken);
        assert_eq!(places.taken(), 0);
    }
}

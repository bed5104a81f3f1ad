//! How many connections each client has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::prefix::Prefix;

/// The connections of all clients, as many entries as there are clients with one. Asked when a connection comes and when it
/// goes, never for a request.
#[derive(Debug)]
pub struct Seats {
    most: u32,
    taken: Mutex<HashMap<Prefix, u32>>,
}

/// One connection's place, given back on drop.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    client: Prefix,
}

impl Seats {
    /// At most so many for each client.
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// A place for one more connection of this client, if it may have one.
    pub fn take(self: &Arc<Self>, client: Prefix) -> Option<Seat> {
        let mut taken = self.taken();
        let count = taken.entry(client).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Seat { seats: Arc::clone(self), client })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Prefix, u32>> {
        // One number changes at a time: nothing is left half-done by a panic.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.seats.taken().entry(self.client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_given_back_and_nothing_is_left_of_its_client() {
        let seats = Seats::new(2);
        let of = |last: u8| Prefix::of([192, 0, 2, last].into());
        let first = seats.take(of(1));
        let second = seats.take(of(1));
        assert!(first.is_some() && second.is_some() && seats.take(of(1)).is_none());
        assert!(seats.take(of(2)).is_some(), "another client");
        drop(first);
        let third = seats.take(of(1));
        assert!(third.is_some() && seats.take(of(1)).is_none());
        drop((second, third));
        assert!(seats.taken().is_empty());
    }
}

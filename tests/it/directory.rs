//! Who owns a room, by a real Redis: remembering, asking, refusing, placing, and Redis being away.

mod bad_values;
mod cache;
mod outage;
mod placement;

//! Choosing among interchangeable addresses, for requests that name no room.

/// The `turn`-th choice among `count` addresses: round robin, `attempt` steps further after each failure.
/// `None` when there is nothing to choose from.
pub fn round_robin(turn: usize, attempt: usize, count: usize) -> Option<usize> {
    turn.wrapping_add(attempt).checked_rem(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_gets_its_turn_and_a_failed_one_is_stepped_over() {
        let picks: Vec<_> = (0..6).map(|turn| round_robin(turn, 0, 3)).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2].map(Some));
        assert_eq!(round_robin(2, 1, 3), Some(0));
        assert_eq!(round_robin(usize::MAX, 1, 3), Some(0));
        assert_eq!(round_robin(5, 0, 0), None);
    }
}

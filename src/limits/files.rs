//! How the open files are shared out between clients, the pods that answer them, and connections to pods that are kept for
//! the next request. Out of files, an accept fails without an answer, and a request finds none for its pod.

/// How many connections to pods each thread may keep however many clients there are: without any, each request would dial.
/// Of the reserved files.
pub const LEAST_KEPT: usize = 16;

/// The open files that are there for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    connections: usize,
    threads: usize,
    least_kept: usize,
}

impl Files {
    /// Of the process' `limit`, with room for all else that is `reserved`; half of it is for connections in any case. Where that
    /// leaves less than what is reserved, less is kept in any case as well.
    pub fn of(limit: usize, reserved: usize, threads: usize) -> Self {
        let granted = reserved.min(limit / 2);
        let least_kept = (LEAST_KEPT * granted).checked_div(reserved).unwrap_or(LEAST_KEPT);
        Self { connections: limit - granted, threads, least_kept }
    }

    /// How many clients there may be: each takes a file, and its request one more at its pod.
    pub fn most_clients(self) -> usize {
        self.connections.max(2) / 2
    }

    /// How many connections to pods each thread may keep while there are so many `clients`, all of which may have a request
    /// in the next moment.
    pub fn most_kept(self, clients: usize) -> usize {
        (self.connections.saturating_sub(clients.saturating_mul(2)) / self.threads.max(1)).max(self.least_kept)
    }
}

impl Default for Files {
    /// As many as one likes.
    fn default() -> Self {
        Self { connections: usize::MAX, threads: 1, least_kept: LEAST_KEPT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_file_for_each_client_and_one_for_its_pod() {
        let clients = |limit, reserved| Files::of(limit, reserved, 2).most_clients();
        assert_eq!((clients(1000, 200), clients(1000, 0)), (400, 500));
        assert_eq!((clients(200, 5000), clients(0, 1)), (50, 1), "where there are few, half of them");
    }

    #[test]
    fn what_clients_leave_is_for_what_is_kept() {
        let files = Files::of(1000, 200, 2);
        let kept = [0, 100, 300, 384, 400, 5000].map(|clients| files.most_kept(clients));
        assert_eq!(kept, [400, 300, 100, LEAST_KEPT, LEAST_KEPT, LEAST_KEPT]);
        for clients in 0..=files.most_clients() {
            assert!(2 * clients + 2 * (files.most_kept(clients) - LEAST_KEPT) <= 800, "{clients}");
        }
    }

    #[test]
    fn what_is_not_granted_is_not_kept() {
        let (limit, threads) = (1024, 32);
        for each in [LEAST_KEPT, 4 * LEAST_KEPT, 100 * LEAST_KEPT] {
            let files = Files::of(limit, threads * each, threads);
            let clients = files.most_clients();
            assert!(2 * clients + threads * files.most_kept(clients) <= limit, "{each}: {files:?}");
        }
        assert_eq!(Files::of(limit, 2 * threads * LEAST_KEPT, threads).most_kept(1000), LEAST_KEPT / 2);
    }
}

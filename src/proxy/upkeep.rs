//! What a worker thread does once a second, for as long as those live for whom it is done.

use std::rc::Rc;
use std::time::Duration;

/// How often that is, from when the thread has done it last.
pub const SECOND: Duration = Duration::from_secs(1);

/// Has `work` done for `owner` every second, until that is gone. Has to be called on the thread's runtime.
pub(super) fn every_second<T: 'static>(owner: &Rc<T>, work: fn(&T)) {
    let owner = Rc::downgrade(owner);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(SECOND).await;
            match owner.upgrade() {
                Some(owner) => work(&owner),
                None => return,
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::runtime::LocalRuntime;

    use super::*;

    #[test]
    fn it_is_done_until_its_owner_is_gone() {
        let runtime = LocalRuntime::new().expect("the machine has room for a runtime");
        let test = async {
            let owner = Rc::new(Cell::new(0));
            every_second(&owner, |times| times.set(times.get() + 1));
            while owner.get() < 2 {
                tokio::time::sleep(SECOND / 10).await;
            }
            let gone = Rc::downgrade(&owner);
            drop(owner);
            assert!(gone.upgrade().is_none(), "nobody keeps it");
            while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
                tokio::time::sleep(SECOND / 10).await;
            }
        };
        let done = runtime.block_on(async { tokio::time::timeout(20 * SECOND, test).await });
        done.expect("in time");
    }
}

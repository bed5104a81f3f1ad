//! The process's allocator, and what has it give back memory that is free.
//!
//! mimalloc looks through what has been freed while a thread asks it for more than its lists of free blocks have. A worker
//! that has had a rush of uploads and then has little to do never does: a thread kept 320 of 400 MB for as long as it was
//! quiet. So each thread asks it to look, once a second ([`give_back`], which `main` hands to the app). To have it give back
//! without delay (`MIMALLOC_PURGE_DELAY=0`) costs a new connection an eighth.
//!
//! This is of the program and not of the library: tests and benches of that have allocators of their own, which count. It is
//! also the one file with unsafe code, a call of C, and has nothing else in it for that reason. With
//! `cargo test --features libmimalloc-sys/debug --test it` the tests run the program with all of mimalloc's own checks on.

#![expect(unsafe_code, reason = "the allocator's crate has no safe name for its mi_collect")]

use mimalloc::MiMalloc;

/// glibc's allocator costs more a request (`benches/README.md`, tried).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Looks through what this thread has freed and gives back to the system what nobody has asked for since. It takes as long
/// as that is much: about 50 ms for 400 MB, once.
pub(crate) fn give_back() {
    // SAFETY: mi_collect takes no pointer and gives none, and moves no block that is in use. It works on the heap of the
    // thread that calls it, as mimalloc itself does now and then in the middle of an allocation, and on what all threads share
    // by atomics. It calls nobody back: a hook (mi_register_deferred_free) is not set, and an allocation by it would be allowed.
    unsafe { libmimalloc_sys::mi_collect(false) }
}

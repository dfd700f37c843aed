//! The allocator: a fifth of the time of a gateway and of a worker under load went into the system's.

use tikv_jemalloc_ctl::background_thread;
use tikv_jemallocator::Jemalloc;

/// It writes nothing into what is free, so that of a buffer only the pages are resident that somebody wrote to.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// From now on what a rush leaves behind goes back to the system in some ten seconds, also if nothing is allocated any more. That is the
/// work of a thread, which the processes have no use for that end soon.
pub fn give_back() {
    // Without it memory goes back with the next allocations.
    let _without = background_thread::write(true);
}

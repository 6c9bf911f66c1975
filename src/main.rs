//! The `plumb` program: all of it is in the library.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Large tenants are many small values, made and let go of on several threads: this takes less time for them than the
/// system's allocator, and less memory.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    plumb::cli::main()
}

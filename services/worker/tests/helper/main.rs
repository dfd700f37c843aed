//! A program for the tests of this crate: `worker-under-test shim` is a shim.

use std::process::ExitCode;

fn main() -> ExitCode {
    worker::shim_main()
}

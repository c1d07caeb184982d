//! The `wade` binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    wade::cli::main()
}

//! Interruption by Ctrl-C: the first one stops at the next safe point, a second one at once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::Failure;
use crate::table::tell;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Takes over Ctrl-C.
pub fn install() {
    let asked = || {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        tell!("\nmuybridge: stopping at the next safe point; press Ctrl-C again to stop at once");
    };
    if let Err(e) = ctrlc::set_handler(asked) {
        tell!("muybridge: Ctrl-C will stop at once: {e}");
    }
}

/// Whether to go on.
///
/// # Errors
/// Ctrl-C was pressed.
pub fn check() -> Result<(), Failure> {
    if ASKED.load(Ordering::SeqCst) { Err(Failure("interrupted; nothing was written".into())) } else { Ok(()) }
}

/// Errors of a computation that may be interrupted.
pub struct Stopped(pub Failure);

impl From<muybridge::Error> for Stopped {
    fn from(e: muybridge::Error) -> Stopped {
        Stopped(e.into())
    }
}

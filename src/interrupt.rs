//! Signals that ask the program to stop.
//!
//! Whoever can stop tidily listens for as long as that holds: the first signal asks them to. Where nobody
//! listens, and at the second signal, the program ends at once, which harms nothing: files are whole or absent.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

static LISTENING: AtomicUsize = AtomicUsize::new(0);
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// Somebody listens, until it is dropped.
#[derive(Debug)]
pub struct Listener(());

impl Listener {
    /// From now on a signal asks to stop.
    #[must_use]
    pub fn new() -> Self {
        LISTENING.fetch_add(1, Ordering::SeqCst);
        Self(())
    }

    /// Whether to stop.
    pub fn is_asked(&self) -> bool {
        signal().is_some()
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        LISTENING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The signal that asked to stop, if one did.
pub fn signal() -> Option<i32> {
    Some(SIGNAL.load(Ordering::SeqCst)).filter(|&signal| signal != 0)
}

/// Passes a signal on; whether somebody will stop, who did not know of one before.
pub fn ask(signal: i32) -> bool {
    LISTENING.load(Ordering::SeqCst) > 0 && SIGNAL.swap(signal, Ordering::SeqCst) == 0
}

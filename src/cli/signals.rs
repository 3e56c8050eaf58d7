//! What interrupts and requests to end do: see [`crate::interrupt`].

use std::process::exit;
use std::thread;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::interrupt;

/// Takes signals from now on.
pub(super) fn take() -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("signals cannot be taken")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if !interrupt::ask(signal) {
                tracing::warn!("stopped; the same command begins again or goes on where it can");
                exit(128 + signal);
            }
            tracing::warn!("stopping once what is under way is done; once more to stop at once");
        }
    });
    Ok(())
}

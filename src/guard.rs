//! Work of libraries that panic on files they do not expect.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread is about to say itself what went wrong.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; none where it panics, of which nothing is printed, but for what it gives other threads to do.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            if !GUARDED.get() {
                before(panicked);
            }
        }));
    });
    let around = GUARDED.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(around);
    outcome.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_no_value() {
        assert_eq!(guarded(|| 3), Some(3));
        let none: Vec<u8> = Vec::new();
        assert_eq!(guarded(|| none[0]), None);
        let around = guarded(|| {
            guarded(|| none[0]);
            GUARDED.get()
        });
        assert_eq!((around, GUARDED.get()), (Some(true), false));
    }
}

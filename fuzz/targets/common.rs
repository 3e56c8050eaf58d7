//! What all targets share: the harness of the tests, and a ceiling that no parser's memory may reach.

#[path = "../../tests/hostile/harness.rs"]
mod harness;

use std::alloc::{GlobalAlloc, Layout, System};

/// Feeds an input to the parser of this name; that it is refused is no crash.
pub fn feed(name: &str, bytes: &[u8]) {
    let _ = harness::feed(name, bytes);
}

/// The most that is given out at once. libFuzzer sees what is used; memory that is asked for because a header
/// says so and is never touched it does not see.
const MOST: usize = 1 << 30;

struct Ceiling;

#[global_allocator]
static ALLOCATOR: Ceiling = Ceiling;

// SAFETY: all is passed on to the system's allocator; where too much is asked for nothing is given, which
// ends the program as a crash.
unsafe impl GlobalAlloc for Ceiling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST { std::ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > MOST { std::ptr::null_mut() } else { unsafe { System.realloc(pointer, layout, size) } }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

//! Memory that one training step hands to the next: fresh pages cost as much as the work done on them.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use super::kernels::Stored;

/// Buffers that are free, to be taken again.
#[derive(Debug, Default)]
pub(crate) struct Pool<T> {
    free: RefCell<Vec<Vec<T>>>,
}

impl<T: Stored> Pool<T> {
    /// A buffer of `len` values left over from an earlier use: for what is overwritten as a whole.
    pub(crate) fn take(&self, len: usize) -> Buffer<'_, T> {
        let mut free = self.free.borrow_mut();
        let fit = |v: &Vec<T>| len <= v.capacity() && v.capacity() <= 2 * len;
        let near = |v: &Vec<T>| v.capacity() < len && len <= 2 * v.capacity();
        let smallest =
            (0..free.len()).filter(|&i| fit(&free[i])).min_by_key(|&i| free[i].capacity());
        let largest =
            || (0..free.len()).filter(|&i| near(&free[i])).max_by_key(|&i| free[i].capacity());
        let mut values = match smallest.or_else(largest) {
            Some(i) => free.swap_remove(i),
            None => Vec::new(),
        };
        if values.capacity() < len {
            // What is there need not be copied along.
            values.clear();
            values.reserve_exact(len);
        }
        values.resize(len, T::default());
        Buffer { values, pool: self }
    }

    /// As [`Pool::take`], of zeros.
    pub(crate) fn zeros(&self, len: usize) -> Buffer<'_, T> {
        let mut buffer = self.take(len);
        buffer.fill(T::default());
        buffer
    }
}

/// Values that go back to their pool when they are dropped.
#[derive(Debug)]
pub(crate) struct Buffer<'p, T: Stored> {
    values: Vec<T>,
    pool: &'p Pool<T>,
}

impl<T: Stored> Deref for Buffer<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

impl<T: Stored> DerefMut for Buffer<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values
    }
}

impl<T: Stored> Drop for Buffer<'_, T> {
    fn drop(&mut self) {
        self.pool.free.borrow_mut().push(std::mem::take(&mut self.values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_taken_again_by_what_it_fits() {
        let pool = Pool::<f32>::default();
        let (small, large) = (pool.take(10), pool.take(100));
        let [small_at, large_at] = [&small, &large].map(|b| b.as_ptr());
        drop((small, large));
        let (nearly, tiny) = (pool.take(90), pool.take(2));
        assert_eq!((nearly.len(), nearly.as_ptr()), (90, large_at));
        assert_ne!(tiny.as_ptr(), small_at, "2 values in the place of 10");
        assert_eq!(pool.free.borrow().len(), 1);
    }

    #[test]
    fn a_buffer_that_is_nearly_large_enough_grows() {
        let pool = Pool::<f32>::default();
        drop(pool.take(10));
        drop(pool.take(12));
        assert_eq!(pool.free.borrow().len(), 1);
        assert_eq!(pool.free.borrow()[0].capacity(), 12);
    }

    #[test]
    fn zeros_are_zero_whatever_was_there() {
        let pool = Pool::<f32>::default();
        pool.take(8).fill(1.0);
        assert_eq!(pool.zeros(8)[..], [0.0; 8]);
    }
}

//! Ranks that are threads of one process, for tests: what they say goes through a shared table.

use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;

use super::Ranks;

/// One of several ranks in one process.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    table: Arc<Table>,
}

/// What is being said, a place for each rank.
#[derive(Debug)]
struct Table {
    messages: Mutex<Vec<Vec<u8>>>,
    barrier: Barrier,
}

impl Threads {
    /// What `work` gives on each of `size` ranks, each a thread of its own.
    ///
    /// A rank that panics leaves the others waiting: what may fail gives a `Result`.
    pub fn run<T: Send>(size: usize, work: impl Fn(&dyn Ranks) -> T + Sync) -> Vec<T> {
        let messages = Mutex::new(vec![Vec::new(); size]);
        let table = Arc::new(Table { messages, barrier: Barrier::new(size) });
        let all = (0..size).map(|rank| Self { rank, table: Arc::clone(&table) });
        thread::scope(|scope| {
            let work = &work;
            let started: Vec<_> = all.map(|rank| scope.spawn(move || work(&rank))).collect();
            let ended = started.into_iter().map(thread::ScopedJoinHandle::join);
            ended.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }
}

impl Ranks for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.table.messages.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn gather(&self, message: &[u8]) -> Vec<Vec<u8>> {
        let messages = || self.table.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages()[self.rank] = message.to_vec();
        self.table.barrier.wait();
        let all = messages().clone();
        // Nobody speaks again before all have heard.
        self.table.barrier.wait();
        all
    }

    fn broadcast(&self, message: &mut Vec<u8>) {
        *message = self.gather(message).swap_remove(0);
    }

    fn sum_parts(&self, values: &mut [f32], bounds: &[usize]) {
        let of_all = self.gather(&bytes_of(values));
        let own = bounds[self.rank]..bounds[self.rank + 1];
        for (place, value) in values.iter_mut().enumerate() {
            let is_own = own.contains(&place);
            let parts = of_all.iter().map(|bytes| value_at(bytes, place));
            // Whoever reads what is not theirs finds no sum there.
            *value = if is_own { parts.reduce(|a, b| a + b).unwrap_or(0.0) } else { f32::NAN };
        }
    }

    fn spread(&self, values: &mut [f32], bounds: &[usize]) {
        let of_all = self.gather(&bytes_of(values));
        for (bytes, bounds) in of_all.iter().zip(bounds.windows(2)) {
            let part = values[..bounds[1]].iter_mut().enumerate().skip(bounds[0]);
            part.for_each(|(place, value)| *value = value_at(bytes, place));
        }
    }

    fn abort(&self, code: i32) -> ! {
        std::process::exit(code)
    }

    fn shared(&self) -> Arc<dyn Ranks> {
        Arc::new(Self { rank: self.rank, table: Arc::clone(&self.table) })
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn value_at(bytes: &[u8], place: usize) -> f32 {
    bytes.as_chunks().0.get(place).map_or(f32::NAN, |bytes| f32::from_le_bytes(*bytes))
}

//! Ranks that are processes, which talk through an MPI library.

use std::sync::{Arc, Mutex, PoisonError};

use mpi::collective::CommunicatorCollectives as _;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::{Communicator as _, SimpleCommunicator};
use mpi::traits::{Equivalence, Root as _};
use mpi::{Count, Threading};

use super::Ranks;
use crate::{Result, invalid};

/// Values in one message at most: MPI counts them in 31 bits, of all ranks together.
const AT_ONCE: usize = 1 << 26;

/// One of the processes that `mpirun` or a scheduler has started.
#[derive(Debug)]
pub(super) struct Mpi {
    rank: usize,
    size: usize,
    /// Memory that one sum leaves to the next.
    parts: Mutex<Vec<f32>>,
}

impl Mpi {
    /// Joins the others; the library ends with what comes beside it.
    pub(super) fn start() -> Result<(Self, Universe)> {
        // The thread that calls is not always the first one.
        let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Serialized)
        else {
            invalid!("MPI is at work in this process already");
        };
        if threading < Threading::Serialized {
            invalid!(
                "this MPI library serves the first thread of a process alone; take one that serves any"
            );
        }
        let world = SimpleCommunicator::world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        Ok((Self { rank, size, parts: Mutex::default() }, universe))
    }
}

/// The messages of all, of these lengths, together no longer than fits one call.
fn gathered<T: Equivalence + Clone + Default>(part: &[T], lengths: &[usize]) -> Vec<T> {
    let (counts, starts) = places(lengths);
    let mut all = vec![T::default(); lengths.iter().sum()];
    let mut parts = PartitionMut::new(&mut all[..], counts, starts);
    SimpleCommunicator::world().all_gather_varcount_into(part, &mut parts);
    all
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, message: &[u8]) -> Vec<Vec<u8>> {
        let lengths = gathered(&[message.len() as u64], &vec![1; self.size]);
        let longest = lengths.iter().copied().max().unwrap_or_default() as usize;
        let mut all: Vec<Vec<u8>> =
            lengths.iter().map(|&n| Vec::with_capacity(n as usize)).collect();
        for start in (0..longest).step_by(AT_ONCE / self.size) {
            let here = |length: usize| start.min(length)..(start + AT_ONCE / self.size).min(length);
            let parts: Vec<usize> = lengths.iter().map(|&n| here(n as usize).len()).collect();
            let found = gathered(&message[here(message.len())], &parts);
            let mut found = found.as_slice();
            for (all, &length) in all.iter_mut().zip(&parts) {
                let (part, rest) = found.split_at(length);
                all.extend_from_slice(part);
                found = rest;
            }
        }
        all
    }

    fn broadcast(&self, message: &mut Vec<u8>) {
        let world = SimpleCommunicator::world();
        let first = world.process_at_rank(0);
        let mut length = message.len() as u64;
        first.broadcast_into(&mut length);
        message.resize(length as usize, 0);
        message.chunks_mut(AT_ONCE).for_each(|part| first.broadcast_into(part));
    }

    fn sum_parts(&self, values: &mut [f32], bounds: &[usize]) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for_windows(values, bounds, AT_ONCE / self.size, |values, lengths| {
            let (counts, starts) = places(lengths);
            let own = lengths[self.rank];
            let needed = own * self.size;
            if parts.len() < needed {
                parts.resize(needed, 0.0);
            }
            let parts = &mut parts[..needed];
            let (own_counts, own_starts) = places(&vec![own; self.size]);
            let send = Partition::new(&*values, counts, starts);
            let mut receive = PartitionMut::new(&mut *parts, own_counts, own_starts);
            SimpleCommunicator::world().all_to_all_varcount_into(&send, &mut receive);
            let (sum, others) = parts.split_at_mut(own);
            for other in others.chunks(own.max(1)) {
                sum.iter_mut().zip(other).for_each(|(sum, value)| *sum += value);
            }
            let start: usize = lengths[..self.rank].iter().sum();
            values[start..start + own].copy_from_slice(sum);
        });
    }

    fn spread(&self, values: &mut [f32], bounds: &[usize]) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for_windows(values, bounds, AT_ONCE, |values, lengths| {
            let start: usize = lengths[..self.rank].iter().sum();
            let own = &values[start..start + lengths[self.rank]];
            if parts.len() < own.len() {
                parts.resize(own.len(), 0.0);
            }
            let part = &mut parts[..own.len()];
            part.copy_from_slice(own);
            let (counts, starts) = places(lengths);
            let mut all = PartitionMut::new(values, counts, starts);
            SimpleCommunicator::world().all_gather_varcount_into(&*part, &mut all);
        });
    }

    fn abort(&self, code: i32) -> ! {
        SimpleCommunicator::world().abort(code)
    }

    fn shared(&self) -> Arc<dyn Ranks> {
        Arc::new(Self { rank: self.rank, size: self.size, parts: Mutex::default() })
    }
}

/// Calls `work` with `at_once` values at a time and the lengths of the ranks' parts among them.
fn for_windows(
    values: &mut [f32],
    bounds: &[usize],
    at_once: usize,
    mut work: impl FnMut(&mut [f32], &[usize]),
) {
    for (window, values) in values.chunks_mut(at_once).enumerate() {
        let (start, end) = (window * at_once, window * at_once + values.len());
        let length = |part: &[usize]| part[1].clamp(start, end) - part[0].clamp(start, end);
        let lengths: Vec<usize> = bounds.windows(2).map(length).collect();
        work(values, &lengths);
    }
}

/// Lengths and starts of neighbours as MPI takes them.
fn places(lengths: &[usize]) -> (Vec<Count>, Vec<Count>) {
    let count = |length: usize| Count::try_from(length).unwrap_or(Count::MAX);
    let starts = lengths.iter().scan(0, |end, &length| {
        let start = *end;
        *end += length;
        Some(count(start))
    });
    (lengths.iter().map(|&length| count(length)).collect(), starts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_every_value_once_and_know_whose_it_is() {
        let mut values: Vec<f32> = (0..10u8).map(f32::from).collect();
        let mut found = Vec::new();
        for_windows(&mut values, &[0, 0, 5, 6, 10], 4, |values, lengths| {
            found.push((values.to_vec(), lengths.to_vec()));
        });
        let expected = [
            (vec![0.0, 1.0, 2.0, 3.0], vec![0, 4, 0, 0]),
            (vec![4.0, 5.0, 6.0, 7.0], vec![0, 1, 1, 2]),
            (vec![8.0, 9.0], vec![0, 0, 0, 2]),
        ];
        assert_eq!(found, expected);
    }
}

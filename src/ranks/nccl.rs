//! Ranks that are processes with a GPU each, which talk through NCCL.

use std::ffi::c_char;
use std::fmt::{Debug, Display};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use candle_core::cuda::cudarc::driver::CudaContext;
use candle_core::cuda::cudarc::nccl::result::NcclError;
use candle_core::cuda::cudarc::nccl::{Comm, Id, group_end, group_start};

use super::torchrun::Place;
use super::{Ranks, own_gpu};
use crate::{Error, Result};

type Outcome<T> = std::result::Result<T, String>;

/// Work for the thread that has the communicator.
type Job = Box<dyn FnOnce(&Comm) + Send>;

/// One of the processes that torchrun has started.
#[derive(Debug)]
pub(super) struct Nccl {
    rank: usize,
    size: usize,
    /// To the thread that has the communicator: it may not be handed from one thread to another.
    jobs: Mutex<Sender<Job>>,
}

impl Nccl {
    /// Joins the others.
    pub(super) fn start(place: &Place) -> Result<Self> {
        let own =
            if place.rank == 0 { *done(Id::new()).map_err(wrong)?.internal() } else { [0; 128] };
        let id = place.told_by_first(own.map(|c| c.to_ne_bytes()[0]))?;
        let id = id.map(|byte| c_char::from_ne_bytes([byte]));
        let (rank, size) = (place.rank, place.size);
        let (jobs, asked) = channel::<Job>();
        let (tell, started) = channel();
        thread::spawn(move || {
            let join = || -> Outcome<Comm> {
                let context = CudaContext::new(own_gpu()).map_err(told)?;
                let stream = context.new_stream().map_err(told)?;
                done(Comm::from_rank(stream, rank, size, Id::uninit(id)))
            };
            match join() {
                Ok(comm) => {
                    let _ = tell.send(Ok(()));
                    for job in asked {
                        job(&comm);
                    }
                }
                Err(e) => drop(tell.send(Err(e))),
            }
        });
        started.recv().map_err(|e| e.to_string()).flatten().map_err(wrong)?;
        Ok(Self { rank, size, jobs: Mutex::new(jobs) })
    }

    /// What `work` gives with the communicator. Where it fails, the process ends: the others would wait for it.
    fn ask<T: Send + 'static>(&self, work: impl FnOnce(&Comm) -> Outcome<T> + Send + 'static) -> T {
        let (tell, told) = channel();
        let job: Job = Box::new(move |comm| drop(tell.send(work(comm))));
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match jobs.send(job) {
            Ok(()) => told.recv().map_err(|e| e.to_string()).flatten(),
            Err(e) => Err(e.to_string()),
        };
        match outcome {
            Ok(found) => found,
            Err(e) => {
                tracing::error!("NCCL: rank {}: {e}", self.rank);
                self.abort(1)
            }
        }
    }

    /// The messages of all, which are as long everywhere, one after another.
    fn gathered(&self, message: Vec<u8>) -> Vec<u8> {
        if message.is_empty() {
            return message;
        }
        self.ask(move |comm| {
            let stream = comm.stream();
            let own = stream.clone_htod(&message).map_err(told)?;
            let mut all = stream.alloc_zeros(message.len() * comm.world_size()).map_err(told)?;
            done(comm.all_gather(&own, &mut all))?;
            stream.clone_dtoh(&all).map_err(told)
        })
    }
}

fn wrong(e: impl Display) -> Error {
    Error::Invalid(format!("NCCL: this rank could not join: {e}"))
}

fn told(e: impl Debug) -> String {
    format!("{e:?}")
}

/// What a call of NCCL gave; its error does not show which one it is.
fn done<T>(outcome: std::result::Result<T, NcclError>) -> Outcome<T> {
    outcome.map_err(|e| told(e.0))
}

impl Ranks for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, message: &[u8]) -> Vec<Vec<u8>> {
        let lengths = self.gathered((message.len() as u64).to_le_bytes().into());
        let lengths = lengths.as_chunks::<8>().0.iter().map(|n| u64::from_le_bytes(*n) as usize);
        let lengths: Vec<usize> = lengths.collect();
        let longest = lengths.iter().copied().max().unwrap_or_default();
        let mut padded = message.to_vec();
        padded.resize(longest, 0);
        let all = self.gathered(padded);
        let of = |(rank, &length): (usize, &usize)| all[rank * longest..][..length].to_vec();
        lengths.iter().enumerate().map(of).collect()
    }

    fn broadcast(&self, message: &mut Vec<u8>) {
        let own = if self.rank == 0 { message.as_slice() } else { &[] };
        *message = self.gather(own).swap_remove(0);
    }

    fn sum_parts(&self, values: &mut [f32], bounds: &[usize]) {
        let (rank, size) = (self.rank, self.size);
        let own = bounds[rank]..bounds[rank + 1];
        let (values_of_all, bounds, length) = (values.to_vec(), bounds.to_vec(), own.len());
        let sum = self.ask(move |comm| {
            let stream = comm.stream();
            let all = stream.clone_htod(&values_of_all).map_err(told)?;
            let mut parts = stream.alloc_zeros::<f32>((length * size).max(1)).map_err(told)?;
            done(group_start())?;
            for (number, peer) in (0..).zip(0..size) {
                let part = bounds[peer]..bounds[peer + 1];
                if !part.is_empty() {
                    done(comm.send(&all.slice(part), number))?;
                }
                if length > 0 {
                    let mut place = parts.slice_mut(peer * length..(peer + 1) * length);
                    done(comm.recv(&mut place, number))?;
                }
            }
            done(group_end())?;
            let parts = stream.clone_dtoh(&parts).map_err(told)?;
            // In the order of the ranks, as everywhere; NCCL's own sums have an order of theirs.
            let (first, others) = parts.split_at(length);
            let mut sum = first.to_vec();
            for other in others.chunks_exact(length.max(1)).take(size - 1) {
                sum.iter_mut().zip(other).for_each(|(sum, value)| *sum += value);
            }
            Ok(sum)
        });
        values[own].copy_from_slice(&sum);
    }

    fn spread(&self, values: &mut [f32], bounds: &[usize]) {
        let (own, bounds) = (values.to_vec(), bounds.to_vec());
        let all = self.ask(move |comm| {
            let stream = comm.stream();
            let mut all = stream.clone_htod(&own).map_err(told)?;
            done(group_start())?;
            for (rank, part) in (0..).zip(bounds.windows(2)) {
                if part[0] < part[1] {
                    let mut part = all.slice_mut(part[0]..part[1]);
                    done(comm.broadcast_in_place(&mut part, rank))?;
                }
            }
            done(group_end())?;
            stream.clone_dtoh(&all).map_err(told)
        });
        values.copy_from_slice(&all);
    }

    /// torchrun ends the others when one has failed.
    fn abort(&self, code: i32) -> ! {
        std::process::exit(code)
    }

    fn shared(&self) -> Arc<dyn Ranks> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Arc::new(Self { rank: self.rank, size: self.size, jobs: Mutex::new(jobs) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NCCL takes one process a GPU: one rank says everything to itself.
    #[test]
    #[ignore = "needs a GPU"]
    fn one_rank_hears_itself() {
        let place = Place::of(|name| match name {
            "RANK" => Some("0".into()),
            "WORLD_SIZE" => Some("1".into()),
            "MASTER_ADDR" => Some("127.0.0.1".into()),
            _ => Some("29531".into()),
        });
        let nccl = Nccl::start(&place.unwrap()).unwrap();
        let ranks: &dyn Ranks = &nccl;
        assert_eq!((ranks.rank(), ranks.size()), (0, 1));
        assert_eq!(ranks.gather(b"to itself"), [b"to itself"]);
        let mut message = b"spoken".to_vec();
        ranks.broadcast(&mut message);
        assert_eq!(message, b"spoken");
        let own = [1.5f32, -2.0, 4.25];
        let mut values = own.to_vec();
        ranks.sum(&mut values);
        assert_eq!(values, own);
        ranks.sum_parts(&mut values, &[0, 3]);
        ranks.spread(&mut values, &[0, 3]);
        assert_eq!(values, own);
        assert_eq!(ranks.sums(&[0.5, 2.0]), [0.5, 2.0]);
    }
}

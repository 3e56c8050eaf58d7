//! Several processes that work on one thing, each on its part: ranks, as MPI calls them.
//!
//! All are started with the same arguments, by `mpirun`, a cluster's scheduler or torchrun. Rank 0 does what the program
//! does alone, and alone writes; the others help where it calls them, and in between wait for its next call. Whatever a
//! decision depends on is the same number on every rank, to the last bit: sums are added up in the order of the ranks.

#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod threads;
#[cfg(any(feature = "nccl", test))]
mod torchrun;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result, invalid};

pub use threads::Threads;

/// What ranks say to each other; every call is one of all ranks, in the same order on each.
pub trait Ranks: Debug + Send + Sync {
    /// Which this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// The messages of all, in the order of the ranks.
    fn gather(&self, message: &[u8]) -> Vec<Vec<u8>>;

    /// Puts that of rank 0 in the place of `message`.
    fn broadcast(&self, message: &mut Vec<u8>);

    /// Puts the sums over all ranks, added up in their order, in the place of this rank's part of `values`, which are
    /// as many everywhere. The parts lie between one of `bounds` and the next. What the other parts hold then means
    /// nothing.
    fn sum_parts(&self, values: &mut [f32], bounds: &[usize]);

    /// Puts what each rank holds in its own part of `values` in its place on all.
    fn spread(&self, values: &mut [f32], bounds: &[usize]);

    /// Puts the sums over all ranks, added up in their order, in the place of `values`, which are as many everywhere.
    fn sum(&self, values: &mut [f32]) {
        let bound = |rank| values.len() * rank / self.size();
        let bounds: Vec<usize> = (0..=self.size()).map(bound).collect();
        self.sum_parts(values, &bounds);
        self.spread(values, &bounds);
    }

    /// Ends all ranks with this exit code: one has failed, and the others would wait for it.
    fn abort(&self, code: i32) -> !;

    /// The same rank, for what outlives this reference: the graph of a pass.
    fn shared(&self) -> Arc<dyn Ranks>;
}

/// The only rank.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather(&self, message: &[u8]) -> Vec<Vec<u8>> {
        vec![message.to_vec()]
    }

    fn broadcast(&self, _message: &mut Vec<u8>) {}

    fn sum_parts(&self, _values: &mut [f32], _bounds: &[usize]) {}

    fn spread(&self, _values: &mut [f32], _bounds: &[usize]) {}

    fn abort(&self, code: i32) -> ! {
        std::process::exit(code)
    }

    fn shared(&self) -> Arc<dyn Ranks> {
        Arc::new(*self)
    }
}

impl dyn Ranks + '_ {
    /// Whether this is rank 0, which writes.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there are no others.
    pub fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// Whether any rank says so.
    pub fn any(&self, says: bool) -> bool {
        if self.is_alone() {
            return says;
        }
        let mut count = [f32::from(u8::from(says))];
        self.sum(&mut count);
        count[0] > 0.0
    }

    /// The sums over all ranks of as many values on each, added up in the order of the ranks.
    pub fn sums(&self, own: &[f64]) -> Vec<f64> {
        let own: Vec<u8> = own.iter().copied().flat_map(f64::to_le_bytes).collect();
        let mut sums = vec![0.0; own.len() / size_of::<f64>()];
        for of_rank in self.gather(&own) {
            for (sum, part) in sums.iter_mut().zip(of_rank.as_chunks().0) {
                *sum += f64::from_le_bytes(*part);
            }
        }
        sums
    }

    /// What each rank has, in their order.
    ///
    /// # Errors
    /// What JSON cannot hold: a number that is not finite.
    pub fn gather_values<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>> {
        if self.is_alone() {
            return Ok(vec![own]);
        }
        self.gather(&written(&own)?).iter().map(|message| read(message)).collect()
    }

    /// What rank 0 has, in the place of one's own.
    ///
    /// # Errors
    /// As [`Self::gather_values`].
    pub fn broadcast_value<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<T> {
        if self.is_alone() {
            return Ok(own);
        }
        let mut message = written(&own)?;
        self.broadcast(&mut message);
        read(&message)
    }

    /// Which of things of these weights are this rank's: neighbours, and of like weight on every rank; none where there
    /// are fewer things than ranks.
    pub fn part_of(&self, weights: impl Iterator<Item = usize> + Clone) -> Range<usize> {
        let total: usize = weights.clone().sum();
        let mut sum = 0;
        // A thing is of the rank that its middle falls to.
        let ranks = weights.map(move |weight| {
            sum += weight;
            (2 * sum - weight) * self.size() / (2 * total).max(1)
        });
        let before = |rank: usize| ranks.clone().take_while(|of| *of < rank).count();
        before(self.rank())..before(self.rank() + 1)
    }
}

fn written(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| wrong(&e))
}

fn read<T: DeserializeOwned>(message: &[u8]) -> Result<T> {
    serde_json::from_slice(message).map_err(|e| wrong(&e))
}

fn wrong(e: &serde_json::Error) -> Error {
    Error::Invalid(format!("what ranks say to each other: {e}"))
}

static WORLD: OnceLock<Box<dyn Ranks>> = OnceLock::new();

/// The rank that this process is among those it was started with.
pub fn world() -> &'static dyn Ranks {
    WORLD.get().map_or(&Alone, |ranks| &**ranks)
}

/// Joins the ranks that the process was started as one of, which end when what this gives is dropped.
///
/// # Errors
/// Started as one of several, where the program was built without the means, or where these fail.
pub fn join() -> Result<Joined> {
    let is_set = |name| std::env::var_os(name).is_some();
    let by_torchrun = is_one_of_several(&["WORLD_SIZE"]) && is_set("RANK");
    // Who starts torchrun by srun has the variables of both.
    if by_torchrun && (is_set("TORCHELASTIC_RUN_ID") || !is_one_of_several(&SIZES)) {
        by_nccl()
    } else if is_one_of_several(&SIZES) {
        by_mpi()
    } else {
        Ok(Joined::default())
    }
}

/// The end of the ranks, when it is dropped.
#[derive(Default)]
pub struct Joined {
    #[cfg(feature = "mpi")]
    _universe: Option<::mpi::environment::Universe>,
}

#[cfg(feature = "mpi")]
fn by_mpi() -> Result<Joined> {
    let (ranks, universe) = mpi::Mpi::start()?;
    // Joined once, at the beginning of the program.
    let _ = WORLD.set(Box::new(ranks));
    Ok(Joined { _universe: Some(universe) })
}

#[cfg(not(feature = "mpi"))]
fn by_mpi() -> Result<Joined> {
    invalid!(
        "started as one of several processes, which this program was built without: build it with `cargo build \
         --release --features mpi`, or start it alone"
    );
}

#[cfg(feature = "nccl")]
fn by_nccl() -> Result<Joined> {
    let place = torchrun::Place::of(|name| std::env::var(name).ok())?;
    let _ = WORLD.set(Box::new(nccl::Nccl::start(&place)?));
    Ok(Joined::default())
}

#[cfg(not(feature = "nccl"))]
fn by_nccl() -> Result<Joined> {
    invalid!(
        "started by torchrun as one of several processes (WORLD_SIZE, RANK), which this program was built without: \
         build it with `cargo build --release --features cuda,nccl`, or start it alone"
    );
}

/// Where `mpirun` of Open MPI, that of MPICH and Intel MPI, and Slurm's `srun` say how many processes there are.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

fn is_one_of_several(sizes: &[&str]) -> bool {
    let several = |size: String| size.trim().parse().is_ok_and(|size: usize| size > 1);
    sizes.iter().any(|name| std::env::var(name).is_ok_and(several))
}

/// Where torchrun, the same `mpirun`s and `srun` say which process of its machine one is.
const LOCAL: [&str; 4] =
    ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];

/// The GPU of this process: that of its number among the processes of its machine, from the first again where there are
/// fewer GPUs.
pub fn own_gpu() -> usize {
    let number = |name: &&str| std::env::var(name).ok()?.trim().parse().ok();
    LOCAL.iter().find_map(number).unwrap_or(0) % num_gpus().max(1)
}

#[cfg(feature = "cuda")]
fn num_gpus() -> usize {
    let count = candle_core::cuda::cudarc::driver::CudaContext::device_count();
    count.map_or(0, |count| usize::try_from(count).unwrap_or(0))
}

#[cfg(not(feature = "cuda"))]
fn num_gpus() -> usize {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_neighbours_and_of_like_weight() {
        for (size, weights) in [
            (3, vec![5, 1, 1, 1, 5, 2]),
            (4, vec![1, 1]),
            (2, vec![100, 1, 1]),
            (3, vec![]),
            (2, vec![7; 9]),
        ] {
            let parts = Threads::run(size, |ranks| ranks.part_of(weights.iter().copied()));
            assert_eq!((parts[0].start, parts[size - 1].end), (0, weights.len()));
            let total: usize = weights.iter().sum();
            let most = weights.iter().max().copied().unwrap_or_default();
            for (i, part) in parts.iter().enumerate() {
                assert!(i == 0 || parts[i - 1].end == part.start, "{parts:?}");
                let weight: usize = weights[part.clone()].iter().sum();
                assert!(weight <= total / size + most + 1, "{parts:?}");
            }
        }
    }

    #[test]
    fn sums_have_the_same_bits_everywhere_and_are_those_of_the_order_of_ranks() {
        let of = |rank: usize| [1e8f32, -3.25, 1.0 + rank as f32 * 1e-7, f32::from(rank as u8)];
        let sums = Threads::run(3, |ranks| {
            let mut values = of(ranks.rank());
            ranks.sum(&mut values);
            values.map(f32::to_bits)
        });
        let right: [f32; 4] = std::array::from_fn(|i| (of(0)[i] + of(1)[i]) + of(2)[i]);
        assert_eq!(sums, [right.map(f32::to_bits); 3]);
    }

    #[test]
    fn parts_are_summed_where_they_belong_and_spread_from_there() {
        let bounds = [0, 0, 3, 5];
        let found = Threads::run(3, |ranks| {
            let rank = ranks.rank();
            let mut values: Vec<f32> = (0..5).map(|i| (10 * rank + i) as f32).collect();
            ranks.sum_parts(&mut values, &bounds);
            let own = values[bounds[rank]..bounds[rank + 1]].to_vec();
            let mut values = vec![rank as f32; 5];
            ranks.spread(&mut values, &bounds);
            (own, values)
        });
        let own: Vec<f32> = found.iter().flat_map(|(own, _)| own.clone()).collect();
        assert_eq!(own, [30.0, 33.0, 36.0, 39.0, 42.0]);
        assert!(found.iter().all(|(_, values)| *values == [1.0, 1.0, 1.0, 2.0, 2.0]));
    }

    #[test]
    fn a_message_of_rank_0_reaches_all_and_one_who_says_yes_is_heard() {
        let heard = Threads::run(3, |ranks| {
            let mut message = vec![ranks.rank() as u8; ranks.rank() + 1];
            ranks.broadcast(&mut message);
            let all = ranks.gather(&message);
            (message, all.len(), ranks.any(ranks.rank() == 2), ranks.any(false))
        });
        assert_eq!(
            heard,
            [(vec![0], 3, true, false), (vec![0], 3, true, false), (vec![0], 3, true, false)]
        );
    }
}

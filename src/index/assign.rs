//! Balanced assignment: every item to one cluster, cluster sizes fixed, total cost low.
//!
//! A greedy start, in which the items that would lose most by a second choice choose first, then
//! exchanges between pairs of clusters until none lowers the cost. The optimum is a transport
//! problem whose exact solvers need minutes at 100,000 items; exchanges need a second.

use rayon::prelude::*;

/// Sweeps over all pairs of clusters after which the exchanges stop even if some would still lower
/// the cost.
const MAX_SWEEPS: usize = 50;

/// They also stop after a sweep that lowers the cost by no more than this part of it.
const RELATIVE_GAIN: f64 = 1e-5;

/// The first sweeps make only exchanges that gain this part of the mean cost of an item, and the
/// next ones this part of what the sweep before asked for: large gains made first lead to a lower
/// cost than all gains made where they are found.
const FALLING_THRESHOLD: f64 = 0.25;

/// The number of those sweeps.
const THRESHOLD_SWEEPS: usize = 6;

/// Assigns items to clusters: with n items and c clusters, exactly `n mod c` clusters get
/// `ceil(n / c)` items, the others `floor(n / c)`.
///
/// `costs` is (items, clusters), row-major. Ties go to the lower item, then to the lower cluster.
/// Returns the cluster of each item.
pub(crate) fn balanced(costs: &[f32], num_clusters: usize) -> Vec<u32> {
    let num_items = costs.len() / num_clusters;
    let mut order: Vec<(f32, usize)> =
        costs.par_chunks_exact(num_clusters).map(margin).zip(0..num_items).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));

    let mut sizes = Sizes::new(order.len(), num_clusters);
    let mut clusters = vec![0; order.len()];
    for (_, item) in order {
        let row = &costs[item * num_clusters..][..num_clusters];
        let open = (0..num_clusters).filter(|&c| sizes.has_room(c));
        if let Some(cluster) = open.min_by(|&a, &b| row[a].total_cmp(&row[b])) {
            sizes.add(cluster);
            clusters[item] = cluster as u32;
        }
    }
    clusters
}

/// What an item loses if it gets its second choice.
fn margin(costs: &[f32]) -> f32 {
    let (mut best, mut second) = (f32::INFINITY, f32::INFINITY);
    for &cost in costs {
        if cost < best {
            (best, second) = (cost, best);
        } else if cost < second {
            second = cost;
        }
    }
    second - best
}

/// The sizes of the clusters on the way to a balanced assignment.
struct Sizes {
    held: Vec<usize>,
    floor: usize,
    /// How many more clusters may hold one item more than `floor`.
    larger_left: usize,
}

impl Sizes {
    fn new(num_items: usize, num_clusters: usize) -> Self {
        Self {
            held: vec![0; num_clusters],
            floor: num_items / num_clusters,
            larger_left: num_items % num_clusters,
        }
    }

    fn has_room(&self, cluster: usize) -> bool {
        self.held[cluster] < self.floor + usize::from(self.larger_left > 0)
    }

    fn add(&mut self, cluster: usize) {
        self.held[cluster] += 1;
        self.larger_left -= usize::from(self.held[cluster] > self.floor);
    }
}

/// A cluster on the way to a cheaper assignment.
struct Members {
    cluster: usize,
    items: Vec<u32>,
    /// The costs of its items, (clusters, room), one row a cluster: a meeting reads two rows from end
    /// to end, where rows of the whole matrix would cost a cache miss an item.
    costs: Vec<f32>,
    room: usize,
    /// The round of the latest change.
    changed: usize,
}

impl Members {
    fn new(
        costs: &[f32],
        num_clusters: usize,
        cluster: usize,
        items: Vec<u32>,
        room: usize,
    ) -> Self {
        let mut own = vec![0.0; num_clusters * room];
        for (place, &item) in items.iter().enumerate() {
            let row = &costs[item as usize * num_clusters..][..num_clusters];
            for (to, &cost) in row.iter().enumerate() {
                own[to * room + place] = cost;
            }
        }
        Self { cluster, items, costs: own, room, changed: 0 }
    }

    /// What it adds to the cost to move each item to cluster `to`, in f64, where differences are exact:
    /// rounding must not invent a gain.
    fn changes(&self, to: usize) -> impl Iterator<Item = f64> {
        let row = |cluster| &self.costs[cluster * self.room..][..self.items.len()];
        let pairs = row(to).iter().zip(row(self.cluster));
        pairs.map(|(&there, &here)| f64::from(there) - f64::from(here))
    }

    /// The places of the items that can move to `to` for less than `most`, cheapest first, ties by
    /// item; with what that adds.
    fn cheaper(&self, to: usize, most: f64) -> Vec<(f64, usize)> {
        let places = self.changes(to).zip(0..).filter(|&(change, _)| change < most);
        let mut places: Vec<(f64, usize)> = places.collect();
        places.sort_by(|a, b| a.0.total_cmp(&b.0).then(self.items[a.1].cmp(&self.items[b.1])));
        places
    }

    fn least_change(&self, to: usize) -> f64 {
        self.changes(to).fold(f64::INFINITY, |least, x| if x < least { x } else { least })
    }

    /// Exchanges the item at `place` for that of `other` at `theirs`.
    fn exchange(&mut self, place: usize, other: &mut Self, theirs: usize) {
        std::mem::swap(&mut self.items[place], &mut other.items[theirs]);
        let ours = self.costs.chunks_exact_mut(self.room);
        for (ours, others) in ours.zip(other.costs.chunks_exact_mut(other.room)) {
            std::mem::swap(&mut ours[place], &mut others[theirs]);
        }
    }

    /// Gives the item at `place` to `other`, which has room for it.
    fn give(&mut self, place: usize, other: &mut Self) {
        let (last, end) = (self.items.len() - 1, other.items.len());
        other.items.push(self.items.swap_remove(place));
        let ours = self.costs.chunks_exact_mut(self.room);
        for (ours, others) in ours.zip(other.costs.chunks_exact_mut(other.room)) {
            others[end] = ours[place];
            ours[place] = ours[last];
        }
    }
}

/// Lowers the total cost of a balanced assignment by exchanging items between pairs of clusters
/// and moving single ones from a larger to a smaller cluster, keeping the sizes balanced, until no
/// pair gains or a sweep over all pairs gains next to nothing.
///
/// A sweep is a tournament in which every cluster meets every other: the pairs of one round have no
/// cluster in common, so they are settled side by side, and the outcome is the same on any number of
/// threads.
pub(crate) fn improve(costs: &[f32], num_clusters: usize, clusters: &mut [u32]) {
    let mut items = vec![Vec::new(); num_clusters];
    for (item, &cluster) in (0..).zip(clusters.iter()) {
        items[cluster as usize].push(item);
    }
    let room = items.iter().map(Vec::len).max().unwrap_or(0);
    let mut members: Vec<Members> = items
        .into_par_iter()
        .enumerate()
        .map(|(cluster, items)| Members::new(costs, num_clusters, cluster, items, room))
        .collect();
    let rounds = (num_clusters + num_clusters % 2).saturating_sub(1);
    let mut cost: f64 = costs
        .chunks_exact(num_clusters)
        .zip(clusters.iter())
        .map(|(row, &cluster)| f64::from(row[cluster as usize]))
        .sum();
    let least = cost / clusters.len() as f64;
    let mut tournament = Tournament { num_clusters, rounds, least, every_pair: true };
    let mut round = rounds;
    for sweep in 0..MAX_SWEEPS {
        let thorough = sweep >= THRESHOLD_SWEEPS;
        tournament.every_pair = sweep <= THRESHOLD_SWEEPS;
        tournament.least *= if thorough { 0.0 } else { FALLING_THRESHOLD };
        let mut gain = 0.0;
        for _ in 0..rounds {
            gain += tournament.play(&mut members, round);
            round += 1;
        }
        cost -= gain;
        if thorough && gain <= RELATIVE_GAIN * cost {
            break;
        }
    }
    for Members { cluster, items, .. } in members {
        for item in items {
            clusters[item as usize] = cluster as u32;
        }
    }
}

/// What the meetings of clusters have in common.
struct Tournament {
    num_clusters: usize,
    /// The rounds of a sweep.
    rounds: usize,
    /// An exchange must gain more than this.
    least: f64,
    /// Whether also those pairs play that have not changed since they last met: `least` has.
    every_pair: bool,
}

impl Tournament {
    /// Settles the pairs that meet in `round`, and returns what that gains.
    fn play(&self, members: &mut [Members], round: usize) -> f64 {
        let mut waiting: Vec<Option<&mut Members>> = members.iter_mut().map(Some).collect();
        let pairs: Vec<(&mut Members, &mut Members)> = meetings(self.num_clusters, round)
            .filter_map(|(a, b)| waiting[a].take().zip(waiting[b].take()))
            // They last met a sweep ago: where nothing changed since, there is nothing to gain.
            .filter(|(a, b)| self.every_pair || a.changed.max(b.changed) > round - self.rounds)
            .collect();
        let gains: Vec<f64> = pairs
            .into_par_iter()
            .map(|(a, b)| {
                let gain = self.settle(a, b);
                if gain > 0.0 {
                    (a.changed, b.changed) = (round, round);
                }
                gain
            })
            .collect();
        gains.iter().sum()
    }

    /// Makes the exchanges between two clusters that gain more than `least`, and returns what they
    /// gain. Without a threshold that divides their items at the lowest cost.
    fn settle(&self, a: &mut Members, b: &mut Members) -> f64 {
        let (to_a, to_b) = (a.cluster, b.cluster);
        let mut gain = 0.0;
        let (there, back) = (a.least_change(to_b), b.least_change(to_a));
        if there + back < -self.least {
            let going = a.cheaper(to_b, -self.least - back);
            let coming = b.cheaper(to_a, -self.least - there);
            for ((there, i), (back, j)) in going.into_iter().zip(coming) {
                if there + back >= -self.least {
                    break;
                }
                gain -= there + back;
                a.exchange(i, b, j);
            }
        }
        // The larger of two unequal clusters may give one away.
        let (larger, smaller) = if a.items.len() > b.items.len() { (a, b) } else { (b, a) };
        if larger.items.len() > smaller.items.len() {
            let cheapest = larger.cheaper(smaller.cluster, -self.least);
            if let Some(&(change, place)) = cheapest.first() {
                larger.give(place, smaller);
                gain -= change;
            }
        }
        gain
    }
}

/// Who meets whom in a round of a tournament of all against all, by the circle method: the last
/// seat stays, the others move on by one a round.
fn meetings(num_clusters: usize, round: usize) -> impl Iterator<Item = (usize, usize)> {
    // An odd one out meets an empty seat.
    let seats = num_clusters + num_clusters % 2;
    let turning = seats - 1;
    let pairs = (0..seats / 2).map(move |i| match i {
        0 => (round % turning, turning),
        _ => ((round + i) % turning, (round + turning - i) % turning),
    });
    pairs.filter(move |&(a, b)| a < num_clusters && b < num_clusters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn costs(seed: u64, num_items: usize, num_clusters: usize) -> Vec<f32> {
        let mut rng = rng::stream(seed, "costs", &[]);
        (0..num_items * num_clusters).map(|_| rng::uniform(&mut rng) as f32).collect()
    }

    fn total(costs: &[f32], num_clusters: usize, clusters: &[u32]) -> f64 {
        let rows = costs.chunks_exact(num_clusters).zip(clusters);
        rows.map(|(row, &c)| f64::from(row[c as usize])).sum()
    }

    fn sizes(clusters: &[u32], num_clusters: usize) -> Vec<usize> {
        (0..num_clusters).map(|c| clusters.iter().filter(|&&x| x as usize == c).count()).collect()
    }

    /// The lowest cost of any balanced assignment, by trying all of them.
    fn optimum(costs: &[f32], num_clusters: usize) -> f64 {
        fn visit(costs: &[f32], num_clusters: usize, item: usize, sizes: &mut Sizes) -> f64 {
            let Some(row) = costs.chunks_exact(num_clusters).nth(item) else { return 0.0 };
            let mut best = f64::INFINITY;
            for (cluster, &cost) in row.iter().enumerate() {
                if sizes.has_room(cluster) {
                    let left = sizes.larger_left;
                    sizes.add(cluster);
                    let rest = visit(costs, num_clusters, item + 1, sizes);
                    best = best.min(f64::from(cost) + rest);
                    sizes.held[cluster] -= 1;
                    sizes.larger_left = left;
                }
            }
            best
        }
        visit(costs, num_clusters, 0, &mut Sizes::new(costs.len() / num_clusters, num_clusters))
    }

    #[test]
    fn sizes_are_balanced_and_improving_keeps_them() {
        for (num_items, num_clusters) in [(7, 2), (100, 7), (12, 12), (30, 29), (64, 8)] {
            let costs = costs(1, num_items, num_clusters);
            let mut clusters = balanced(&costs, num_clusters);
            let before = total(&costs, num_clusters, &clusters);
            for _ in 0..2 {
                let sizes = sizes(&clusters, num_clusters);
                let larger =
                    sizes.iter().filter(|&&s| s == num_items.div_ceil(num_clusters)).count();
                assert!(sizes.iter().all(
                    |&s| s == num_items / num_clusters || s == num_items.div_ceil(num_clusters)
                ));
                assert!(num_items % num_clusters == 0 || larger == num_items % num_clusters);
                improve(&costs, num_clusters, &mut clusters);
            }
            assert!(total(&costs, num_clusters, &clusters) <= before);
        }
    }

    #[test]
    fn cost_is_near_the_optimum() {
        let (mut found, mut best) = (0.0, 0.0);
        for seed in 0..50 {
            let costs = costs(seed, 9, 4);
            let mut clusters = balanced(&costs, 4);
            improve(&costs, 4, &mut clusters);
            found += total(&costs, 4, &clusters);
            best += optimum(&costs, 4);
        }
        assert!(found >= best && found < 1.06 * best, "found {found}, optimum {best}");
    }

    #[test]
    fn every_pair_of_clusters_meets_once_a_sweep_and_none_twice_a_round() {
        for num_clusters in 1..12_usize {
            let rounds = (num_clusters + num_clusters % 2).saturating_sub(1);
            let mut met = Vec::new();
            for round in 0..rounds {
                let pairs: Vec<_> = meetings(num_clusters, round).collect();
                let mut busy: Vec<usize> = pairs.iter().flat_map(|&(a, b)| [a, b]).collect();
                busy.sort_unstable();
                busy.dedup();
                assert_eq!(busy.len(), 2 * pairs.len());
                met.extend(pairs.iter().map(|&(a, b)| (a.min(b), a.max(b))));
            }
            met.sort_unstable();
            let all: Vec<_> = (0..num_clusters).flat_map(|b| (0..b).map(move |a| (a, b))).collect();
            assert_eq!(met.len(), all.len());
            assert!(all.iter().all(|pair| met.contains(pair)), "{num_clusters}: {met:?}");
        }
    }

    #[test]
    fn no_exchange_between_two_clusters_is_left_that_gains() {
        let (num_items, num_clusters) = (61, 7);
        let costs = costs(4, num_items, num_clusters);
        let mut clusters = balanced(&costs, num_clusters);
        improve(&costs, num_clusters, &mut clusters);
        let sizes = sizes(&clusters, num_clusters);
        let cost =
            |item: usize, cluster: u32| f64::from(costs[item * num_clusters + cluster as usize]);
        for i in 0..num_items {
            let from = clusters[i];
            for to in (0..num_clusters as u32).filter(|&to| to != from) {
                let move_gains = cost(i, to) < cost(i, from);
                assert!(!move_gains || sizes[from as usize] <= sizes[to as usize]);
            }
            for (j, &to) in clusters[..i].iter().enumerate() {
                let now = cost(i, from) + cost(j, to);
                assert!(cost(i, to) + cost(j, from) >= now, "{i} and {j} should change places");
            }
        }
    }

    #[test]
    fn exchanges_undo_a_bad_assignment() {
        // Two items sit where they do not want to be; and a third would rather be in the smaller one.
        let costs = [9.0, 0.0, 0.0, 9.0, 5.0, 0.0];
        let mut clusters = [0, 1, 0];
        improve(&costs, 2, &mut clusters);
        assert_eq!(clusters, [1, 0, 1]);
    }

    #[test]
    fn equal_costs_fill_in_item_order() {
        assert_eq!(balanced(&[1.0; 15], 3), [0, 0, 1, 1, 2]);
    }
}

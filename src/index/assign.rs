//! Balanced assignment: every item to one cluster, cluster sizes fixed, total cost low.
//!
//! A greedy start, in which the items that would lose most by a second choice choose first, then
//! exchanges between pairs of clusters until none lowers the cost. The optimum is a transport
//! problem whose exact solvers need minutes at 100,000 items; exchanges need a second.

/// Rounds after which the exchanges stop even if some would still lower the cost.
const MAX_ROUNDS: usize = 200;

/// Assigns items to clusters: with n items and c clusters, exactly `n mod c` clusters get
/// `ceil(n / c)` items, the others `floor(n / c)`.
///
/// `costs` is (items, clusters), row-major. Ties go to the lower item, then to the lower cluster.
/// Returns the cluster of each item.
pub(crate) fn balanced(costs: &[f32], num_clusters: usize) -> Vec<u32> {
    let mut order: Vec<(f32, usize)> =
        costs.chunks_exact(num_clusters).map(margin).zip(0..).collect();
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

/// The cheapest move from one cluster to another: what it adds to the cost, and the item.
#[derive(Clone, Copy)]
struct Move {
    change: f64,
    item: usize,
}

/// Lowers the total cost of a balanced assignment by exchanging items between pairs of clusters
/// and moving single ones from a larger to a smaller cluster, keeping the sizes balanced.
///
/// Costs are additive, so that exchanges of different items found in one pass keep their worth
/// whatever else that pass changes.
pub(crate) fn improve(costs: &[f32], num_clusters: usize, clusters: &mut [u32]) {
    let floor = clusters.len() / num_clusters;
    let mut sizes = vec![0; num_clusters];
    for &cluster in clusters.iter() {
        sizes[cluster as usize] += 1;
    }
    for _ in 0..MAX_ROUNDS {
        let moves = cheapest_moves(costs, num_clusters, clusters);
        let mut gains = Vec::new();
        for from in 0..num_clusters {
            for to in 0..num_clusters {
                let (there, back) =
                    (moves[from * num_clusters + to], moves[to * num_clusters + from]);
                if from < to && there.change + back.change < 0.0 {
                    gains.push((there.change + back.change, from, to, true));
                }
                if there.change < 0.0 && sizes[from] > floor && sizes[to] == floor {
                    gains.push((there.change, from, to, false));
                }
            }
        }
        gains.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let mut changed = false;
        for (_, from, to, exchange) in gains {
            let there = moves[from * num_clusters + to].item;
            let back = moves[to * num_clusters + from].item;
            let still = clusters[there] as usize == from;
            if exchange && still && clusters[back] as usize == to {
                (clusters[there], clusters[back]) = (to as u32, from as u32);
                changed = true;
            } else if !exchange && still && sizes[from] > floor && sizes[to] == floor {
                clusters[there] = to as u32;
                (sizes[from], sizes[to]) = (sizes[from] - 1, sizes[to] + 1);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
}

/// For every ordered pair of clusters, the item whose move costs least; (clusters, clusters).
fn cheapest_moves(costs: &[f32], num_clusters: usize, clusters: &[u32]) -> Vec<Move> {
    // Differences are taken in f64, where they are exact: rounding must not invent a gain.
    let none = Move { change: f64::INFINITY, item: 0 };
    let mut moves = vec![none; num_clusters * num_clusters];
    for (item, (row, &from)) in costs.chunks_exact(num_clusters).zip(clusters).enumerate() {
        let here = f64::from(row[from as usize]);
        let slots = &mut moves[from as usize * num_clusters..][..num_clusters];
        for (slot, &cost) in slots.iter_mut().zip(row) {
            let change = f64::from(cost) - here;
            if change < slot.change {
                *slot = Move { change, item };
            }
        }
    }
    moves
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

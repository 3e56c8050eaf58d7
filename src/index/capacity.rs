//! Capacity-limited assignment: every item one code, no code more items than it may, least total cost.
//!
//! Exact, by successive shortest paths (the Hungarian method where the capacity is 1; Kuhn, 1955):
//! items come one by one, and each may push others to their next choice. Prices of full codes keep
//! every search among non-negative distances. The groups this serves hold hundreds of items, of which
//! few contend for a code; `assign` is for nodes of any size.

/// Assigns items to codes so that no code has more than `capacity` items and the total cost is least.
///
/// `costs` is (items, codes), row-major, finite; the codes must have room for all items. Returns the
/// code of each item; equal costs go to the lower code.
pub(crate) fn capped(costs: &[f32], num_codes: usize, capacity: usize) -> Vec<u32> {
    let num_items = costs.len() / num_codes;
    assert!(
        num_codes.saturating_mul(capacity) >= num_items,
        "{num_codes} codes with room for {capacity} each cannot take {num_items} items"
    );
    let mut state = Assignment {
        costs,
        num_codes,
        capacity,
        members: vec![Vec::new(); num_codes],
        prices: vec![0.0; num_codes],
        moves: vec![Vec::new(); num_codes],
        codes: vec![0; num_items],
    };
    for item in 0..num_items {
        state.insert(item);
    }
    state.codes
}

/// The cheapest move of an item out of a full code to another: what it adds to the cost, and the item.
#[derive(Clone, Copy)]
struct Move {
    change: f64,
    item: usize,
}

/// The best assignment of the items so far.
struct Assignment<'a> {
    costs: &'a [f32],
    num_codes: usize,
    capacity: usize,
    /// The items of each code.
    members: Vec<Vec<usize>>,
    /// What a place in each code costs besides; 0 while there is room.
    prices: Vec<f64>,
    /// For each full code, the cheapest move to every code.
    moves: Vec<Vec<Move>>,
    codes: Vec<u32>,
}

impl Assignment<'_> {
    fn cost(&self, item: usize, code: usize) -> f64 {
        f64::from(self.costs[item * self.num_codes + code])
    }

    /// Adds `item` at the end of the cheapest chain of moves that leads to a code with room.
    fn insert(&mut self, item: usize) {
        let codes = 0..self.num_codes;
        let mut distances: Vec<f64> =
            codes.clone().map(|code| self.cost(item, code) + self.prices[code]).collect();
        let mut previous = vec![None; self.num_codes];
        let mut open = vec![true; self.num_codes];
        let mut settled = Vec::new();
        let end = loop {
            let nearest = codes
                .clone()
                .filter(|&code| open[code])
                .min_by(|&a, &b| distances[a].total_cmp(&distances[b]))
                .expect("some code has room");
            if self.members[nearest].len() < self.capacity {
                break nearest;
            }
            open[nearest] = false;
            settled.push(nearest);
            for (code, there) in self.moves[nearest].iter().enumerate() {
                let distance =
                    distances[nearest] + there.change + self.prices[code] - self.prices[nearest];
                if open[code] && distance < distances[code] {
                    (distances[code], previous[code]) = (distance, Some(nearest));
                }
            }
        };
        for code in settled {
            self.prices[code] += distances[end] - distances[code];
        }
        let mut touched = vec![end];
        while let Some(from) = previous[touched[touched.len() - 1]] {
            touched.push(from);
        }
        for pair in touched.windows(2) {
            let (to, from) = (pair[0], pair[1]);
            let moved = self.moves[from][to].item;
            self.members[from].retain(|&member| member != moved);
            self.place(moved, to);
        }
        self.place(item, touched[touched.len() - 1]);
        for code in touched {
            self.find_moves(code);
        }
    }

    fn place(&mut self, item: usize, code: usize) {
        self.members[code].push(item);
        self.codes[item] = code as u32;
    }

    /// Finds the cheapest moves out of `code`, if it is full: from another one nothing has to leave.
    fn find_moves(&mut self, code: usize) {
        if self.members[code].len() < self.capacity {
            return;
        }
        let cheapest = |to: usize| {
            let moves = self.members[code]
                .iter()
                .map(|&item| Move { change: self.cost(item, to) - self.cost(item, code), item });
            moves.min_by(|a, b| a.change.total_cmp(&b.change).then(a.item.cmp(&b.item)))
        };
        self.moves[code] = (0..self.num_codes).filter_map(cheapest).collect();
    }
}

#[cfg(test)]
mod tests {
    use pathfinding::kuhn_munkres::kuhn_munkres_min;
    use pathfinding::matrix::Matrix;

    use super::*;
    use crate::rng;

    fn costs(seed: u64, num_items: usize, num_codes: usize) -> Vec<f32> {
        let mut rng = rng::stream(seed, "costs", &[]);
        (0..num_items * num_codes).map(|_| rng::uniform(&mut rng) as f32).collect()
    }

    /// The least cost of any assignment, by trying all of them.
    fn optimum(costs: &[f32], num_codes: usize, left: &mut [usize]) -> f64 {
        let Some((row, rest)) = costs.split_at_checked(num_codes) else { return 0.0 };
        let mut best = f64::INFINITY;
        for code in 0..num_codes {
            if left[code] > 0 {
                left[code] -= 1;
                best = best.min(f64::from(row[code]) + optimum(rest, num_codes, left));
                left[code] += 1;
            }
        }
        best
    }

    #[test]
    fn total_cost_is_the_least_possible() {
        for (num_items, num_codes, capacity) in
            [(5, 5, 1), (4, 6, 1), (7, 3, 3), (8, 3, 3), (6, 2, 3), (6, 4, 2), (1, 1, 1)]
        {
            for seed in 0..20 {
                // Few different values, so that equal costs are met too.
                let round = |x: f32| if seed % 2 == 0 { (x * 4.0).round() } else { x };
                let costs: Vec<f32> =
                    costs(seed, num_items, num_codes).into_iter().map(round).collect();
                let codes = capped(&costs, num_codes, capacity);
                let mut held = vec![0; num_codes];
                for &code in &codes {
                    held[code as usize] += 1;
                }
                assert!(held.iter().all(|&items| items <= capacity));
                let rows = costs.chunks_exact(num_codes).zip(&codes);
                let found: f64 = rows.map(|(row, &code)| f64::from(row[code as usize])).sum();
                let best = optimum(&costs, num_codes, &mut vec![capacity; num_codes]);
                assert!((found - best).abs() < 1e-6, "{found} against {best}, seed {seed}");
            }
        }
    }

    /// So many that long chains of moves are needed; the reference has a column for each place of a code.
    #[test]
    fn many_items_are_assigned_as_well_as_by_the_hungarian_method() {
        const STEPS: f64 = (1u64 << 40) as f64;
        let (num_items, num_codes, capacity) = (120, 12, 10);
        for seed in 0..5 {
            let costs = costs(seed, num_items, num_codes);
            let codes = capped(&costs, num_codes, capacity);
            let rows = costs.chunks_exact(num_codes).zip(&codes);
            let found: f64 = rows.map(|(row, &code)| f64::from(row[code as usize])).sum();
            let places = costs.chunks_exact(num_codes).flat_map(|row| {
                row.iter().flat_map(|&cost| [(f64::from(cost) * STEPS) as i64; 10])
            });
            let weights = Matrix::from_vec(num_items, num_codes * capacity, places.collect());
            let best = kuhn_munkres_min(&weights.unwrap()).0 as f64 / STEPS;
            assert!((found - best).abs() < 1e-6, "{found} against {best}, seed {seed}");
        }
    }

    #[test]
    fn an_item_without_rival_keeps_its_nearest_code() {
        let costs = [0.0, 9.0, 9.0, 0.0, 1.0, 9.0, 9.0, 9.0, 0.0];
        assert_eq!(capped(&costs, 3, 1), [0, 1, 2]);
        assert_eq!(capped(&costs, 3, 2), [0, 0, 2]);
    }
}

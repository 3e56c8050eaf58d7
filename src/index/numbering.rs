//! Which code each child of a node gets.
//!
//! Children that share a code share a token, and so an embedding, wherever they are in the tree.
//! Equal codes should therefore mean something alike under every parent: a similar offset of the
//! child's centroid from its parent's.

use std::cmp::Ordering;

use ndarray::{Array2, ArrayView2};
use pathfinding::kuhn_munkres::kuhn_munkres_min;
use pathfinding::matrix::Matrix;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::kmeans::Cluster;

/// How the children of a node are numbered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Numbering {
    /// In order along one axis common to the level, the leading principal axis of the children's
    /// offsets from their parents.
    #[default]
    Axis,
    /// So that children with the same code have similar offsets from their parents: each parent's
    /// children are assigned to the level's codes at the lowest total squared distance to the mean
    /// offset of each code, and means and assignments alternate, from `axis`.
    Aligned,
}

/// Alternations of means and assignments.
const ALIGNMENT_ROUNDS: usize = 5;

impl Numbering {
    /// Puts the children of every parent in the order of their codes and returns these. Codes are
    /// distinct among siblings and below the largest number of children of a parent.
    pub(super) fn number(
        self,
        parents: &[Cluster],
        children: &mut [Vec<Cluster>],
    ) -> Vec<Vec<u32>> {
        let offsets: Vec<Array2<f32>> = parents
            .par_iter()
            .zip(&*children)
            .map(|(parent, children)| {
                Array2::from_shape_fn((children.len(), parent.center.len()), |(child, i)| {
                    children[child].center[i] - parent.center[i]
                })
            })
            .collect();
        let mut codes = along_axis(&offsets, children);
        // The only parent of a level has nobody to agree with.
        if self == Self::Aligned && parents.len() > 1 {
            align(&offsets, &mut codes);
        }
        children.par_iter_mut().zip(&mut codes).for_each(|(children, codes)| {
            let mut coded: Vec<(u32, Cluster)> = codes.drain(..).zip(children.drain(..)).collect();
            coded.sort_by_key(|&(code, _)| code);
            (*codes, *children) = coded.into_iter().unzip();
        });
        codes
    }
}

/// The place of each child among its siblings along the leading principal axis of all offsets. Ties
/// go by the smallest item.
fn along_axis(offsets: &[Array2<f32>], children: &[Vec<Cluster>]) -> Vec<Vec<u32>> {
    let axis = principal_axis(offsets);
    let place = |(offsets, children): (&Array2<f32>, &Vec<Cluster>)| {
        let places: Vec<f32> = offsets
            .outer_iter()
            .map(|offset| offset.iter().zip(&axis).map(|(o, a)| o * a).sum())
            .collect();
        let mut order: Vec<usize> = (0..children.len()).collect();
        order.sort_by(|&i, &j| {
            let by_item = || children[i].items.first().cmp(&children[j].items.first());
            places[i].total_cmp(&places[j]).then_with(by_item)
        });
        let mut codes = vec![0; children.len()];
        for (code, child) in (0..).zip(order) {
            codes[child] = code;
        }
        codes
    };
    offsets.par_iter().zip(children).map(place).collect()
}

/// The direction in which the rows of all of `offsets` vary most about zero, by power iteration from
/// the longest row; its component of largest magnitude is positive. All zeros if the rows are.
fn principal_axis(offsets: &[Array2<f32>]) -> Vec<f32> {
    const ITERATIONS: usize = 10;
    const BLOCK: usize = 32;
    let rows = || offsets.iter().flat_map(|offsets| offsets.outer_iter());
    let norm = |row: &ndarray::ArrayView1<'_, f32>| -> f64 {
        row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
    };
    let longest =
        rows().map(|row| (norm(&row), row)).fold(None, |best, (length, row)| match best {
            Some((longest, _)) if f64::total_cmp(&longest, &length) != Ordering::Less => best,
            _ => Some((length, row)),
        });
    let Some((_, longest)) = longest else { return Vec::new() };
    let mut axis = longest.to_vec();
    for _ in 0..ITERATIONS {
        // Fixed blocks, added up in order: the same bits on any number of threads.
        let sums: Vec<Vec<f64>> = offsets
            .par_chunks(BLOCK)
            .map(|parents| {
                let mut sum = vec![0f64; axis.len()];
                for row in parents.iter().flat_map(|offsets| offsets.outer_iter()) {
                    let along: f32 = row.iter().zip(&axis).map(|(x, a)| x * a).sum();
                    for (s, x) in sum.iter_mut().zip(row) {
                        *s += f64::from(along * x);
                    }
                }
                sum
            })
            .collect();
        let mut next = vec![0f64; axis.len()];
        for sum in &sums {
            next.iter_mut().zip(sum).for_each(|(n, s)| *n += s);
        }
        let length = next.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length == 0.0 {
            break;
        }
        axis = next.into_iter().map(|x| (x / length) as f32).collect();
    }
    let largest = axis.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
    if largest.is_some_and(|x| x < 0.0) {
        for x in &mut axis {
            *x = -*x;
        }
    }
    axis
}

/// Lowers the total squared distance of all offsets to the means of their codes, by turns assigning
/// each parent's children to the means and moving the means. A parent with fewer children than there
/// are codes leaves some out.
fn align(offsets: &[Array2<f32>], codes: &mut Vec<Vec<u32>>) {
    let num_codes = codes.iter().map(Vec::len).max().unwrap_or(0);
    for _ in 0..ALIGNMENT_ROUNDS {
        let means = code_means(offsets, codes, num_codes);
        let assigned: Vec<Vec<u32>> =
            offsets.par_iter().map(|offsets| assign(offsets.view(), &means)).collect();
        if assigned == *codes {
            break;
        }
        *codes = assigned;
    }
}

/// The mean offset of each code, (codes, dim).
fn code_means(offsets: &[Array2<f32>], codes: &[Vec<u32>], num_codes: usize) -> Array2<f32> {
    let dim = offsets.first().map_or(0, Array2::ncols);
    let mut sums = Array2::<f64>::zeros((num_codes, dim));
    let mut counts = vec![0u32; num_codes];
    for (offsets, codes) in offsets.iter().zip(codes) {
        for (offset, &code) in offsets.outer_iter().zip(codes) {
            sums.row_mut(code as usize).zip_mut_with(&offset, |s, x| *s += f64::from(*x));
            counts[code as usize] += 1;
        }
    }
    for (mut sum, count) in sums.outer_iter_mut().zip(counts) {
        sum /= f64::from(count.max(1));
    }
    sums.mapv(|x| x as f32)
}

/// The codes, all different, that bring `offsets`, (children, dim), nearest to `means`, (codes, dim),
/// in total squared distance.
fn assign(offsets: ArrayView2<'_, f32>, means: &Array2<f32>) -> Vec<u32> {
    // The solver takes integers: a part in 2^40 of the largest distance is exact enough.
    const STEPS: f64 = (1u64 << 40) as f64;
    if offsets.nrows() == 0 {
        return Vec::new();
    }
    // |o - m|² = |o|² - 2 o·m + |m|², whose first term is the same for every code.
    let mut costs = offsets.dot(&means.t());
    for (code, mean) in means.outer_iter().enumerate() {
        let square = mean.dot(&mean);
        costs.column_mut(code).mapv_inplace(|dot| square - 2.0 * dot);
    }
    let largest = costs.iter().fold(f32::MIN_POSITIVE, |most, cost| most.max(cost.abs()));
    let scale = STEPS / f64::from(largest);
    let weights: Vec<i64> = costs.iter().map(|&cost| (f64::from(cost) * scale) as i64).collect();
    let weights = Matrix::from_vec(offsets.nrows(), means.nrows(), weights)
        .expect("a cost for each child and code");
    let (_, codes) = kuhn_munkres_min(&weights);
    codes.into_iter().map(|code| code as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    /// `num_parents` parents whose children have the same offsets from them, `noise` aside, in another
    /// order under each; and the order, that is the prototype of each child.
    fn shuffled(
        num_parents: usize,
        num_codes: usize,
        noise: f64,
    ) -> (Vec<Cluster>, Vec<Vec<Cluster>>, Vec<Vec<usize>>) {
        const DIM: usize = 12;
        let mut stream = rng::stream(9, "prototypes", &[]);
        let prototypes = rng::normal(&mut stream, num_codes * DIM, 1.0);
        let (mut parents, mut children, mut orders) = (vec![], vec![], vec![]);
        let mut item = 0;
        for parent in 0..num_parents {
            let center = rng::normal(&mut stream, DIM, 5.0);
            // Parents have fewer children by turns.
            let order =
                rand::seq::index::sample(&mut stream, num_codes, num_codes - parent % 2).into_vec();
            let child = |&prototype: &usize| {
                item += 1;
                let noise = rng::normal(&mut stream, DIM, noise);
                let offset = &prototypes[prototype * DIM..][..DIM];
                let parts = center.iter().zip(offset).zip(noise);
                Cluster { items: vec![item], center: parts.map(|((c, o), n)| c + o + n).collect() }
            };
            children.push(order.iter().map(child).collect());
            parents.push(Cluster { items: vec![], center });
            orders.push(order);
        }
        (parents, children, orders)
    }

    #[test]
    fn aligned_codes_recover_offsets_shared_by_all_parents() {
        let (parents, mut children, orders) = shuffled(30, 10, 0.15);
        let by_item: Vec<usize> = orders.into_iter().flatten().collect();
        let codes = Numbering::Aligned.number(&parents, &mut children);
        let mut meaning = [None; 10];
        for (children, codes) in children.iter().zip(&codes) {
            assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
            for (child, &code) in children.iter().zip(codes) {
                let prototype = by_item[child.items[0] as usize - 1];
                assert_eq!(*meaning[code as usize].get_or_insert(prototype), prototype);
            }
        }
    }

    #[test]
    fn alignment_never_raises_the_distance_to_the_means() {
        let (parents, children, _) = shuffled(20, 8, 1.0);
        let distance = |numbering: Numbering| {
            let mut children = children.clone();
            let codes = numbering.number(&parents, &mut children);
            let offsets: Vec<Array2<f32>> = parents
                .iter()
                .zip(&children)
                .map(|(parent, children)| {
                    Array2::from_shape_fn((children.len(), 12), |(i, j)| {
                        children[i].center[j] - parent.center[j]
                    })
                })
                .collect();
            let means = code_means(&offsets, &codes, 8);
            let mut sum = 0.0;
            for (offsets, codes) in offsets.iter().zip(&codes) {
                for (offset, &code) in offsets.outer_iter().zip(codes) {
                    let d = &offset - &means.row(code as usize);
                    sum += d.dot(&d);
                }
            }
            sum
        };
        assert!(distance(Numbering::Aligned) < 0.8 * distance(Numbering::Axis));
    }

    #[test]
    fn assignment_is_the_best_of_all() {
        let draw = |label| rng::normal(&mut rng::stream(2, label, &[]), 4 * 3, 1.0);
        let means = Array2::from_shape_vec((4, 3), draw("means")).unwrap();
        let offsets = Array2::from_shape_vec((4, 3), draw("offsets")).unwrap();
        let offsets = offsets.slice(ndarray::s![..3, ..]);
        let cost = |codes: &[u32]| -> f32 {
            let far = |(offset, &code): (ndarray::ArrayView1<'_, f32>, &u32)| {
                (&offset - &means.row(code as usize)).mapv(|x| x * x).sum()
            };
            offsets.outer_iter().zip(codes).map(far).sum()
        };
        let mut best = f32::INFINITY;
        for code in 0..64u32 {
            let codes = [code % 4, code / 4 % 4, code / 16];
            if codes[0] != codes[1] && codes[1] != codes[2] && codes[0] != codes[2] {
                best = best.min(cost(&codes));
            }
        }
        assert!((cost(&assign(offsets, &means)) - best).abs() < 1e-5);
        assert!(assign(offsets.slice(ndarray::s![..0, ..]), &means).is_empty());
    }
}

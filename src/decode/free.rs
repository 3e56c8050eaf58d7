//! Beam search without the trie: what a model writes where nothing keeps it to items that exist.

use rayon::prelude::*;

use super::{BeamRow, CodeScores};
use crate::Result;

/// A sequence of codes, positions within their levels, and its score.
#[derive(Debug, Clone, PartialEq)]
pub struct FreePath {
    /// One code a level.
    pub codes: Vec<u32>,
    /// Sum of the codes' log-probabilities.
    pub score: f32,
}

/// The best `width` code sequences of `users` users over `levels` levels, best first.
///
/// Any code of a level may follow any prefix, so a sequence may name no item. Ties go to the prefix that
/// was better at the level before, then to the smaller code.
pub fn search_freely(
    width: usize,
    levels: usize,
    users: usize,
    model: &mut impl CodeScores,
) -> Result<Vec<Vec<FreePath>>> {
    let mut beams = vec![vec![FreePath { codes: Vec::new(), score: 0.0 }]; users];
    let mut rows = Vec::new();
    for level in 0..levels {
        let scores = model.scores(level, &rows)?;
        // All users have the same number of hypotheses: nothing is ever ruled out.
        let of_user = scores.len() / users.max(1);
        let extended: Vec<Vec<(usize, FreePath)>> = beams
            .par_iter()
            .zip(scores.par_chunks(of_user.max(1)))
            .map(|(beam, scores)| extend(width, beam, scores))
            .collect();
        rows.clear();
        let mut first_row = 0;
        for (extended, beam) in extended.into_iter().zip(&mut beams) {
            let row = |(parent, path): &(usize, FreePath)| BeamRow {
                parent: first_row + parent,
                code: path.codes[level],
            };
            rows.extend(extended.iter().map(row));
            first_row += beam.len();
            *beam = extended.into_iter().map(|(_, path)| path).collect();
        }
    }
    Ok(beams)
}

/// The best continuations of one user's hypotheses, each with the place of the one it extends.
fn extend(width: usize, beam: &[FreePath], scores: &[f32]) -> Vec<(usize, FreePath)> {
    let codes = scores.len() / beam.len();
    let mut all: Vec<(f32, usize)> =
        scores.iter().enumerate().map(|(at, score)| (beam[at / codes].score + score, at)).collect();
    let better =
        |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1));
    if all.len() > width {
        all.select_nth_unstable_by(width, better);
        all.truncate(width);
    }
    all.sort_unstable_by(better);
    let path = |(score, at): (f32, usize)| {
        let (parent, code) = (at / codes, (at % codes) as u32);
        let codes = beam[parent].codes.iter().copied().chain([code]).collect();
        (parent, FreePath { codes, score })
    };
    all.into_iter().map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two levels of three codes; the second level's scores depend on the first code and the user.
    struct Table {
        rows: Vec<BeamRow>,
    }

    const FIRST: [f32; 3] = [-1.0, -2.0, -3.0];
    const SECOND: [[f32; 3]; 3] = [[-5.0, -6.0, -9.0], [-1.0, -8.0, -2.0], [-9.0, -9.0, -0.5]];

    impl CodeScores for Table {
        fn scores(&mut self, level: usize, rows: &[BeamRow]) -> Result<Vec<f32>> {
            self.rows = rows.to_vec();
            if level == 0 {
                return Ok([FIRST, [0.0, -9.0, -9.0]].concat());
            }
            Ok(rows.iter().flat_map(|row| SECOND[row.code as usize]).collect())
        }
    }

    fn paths(found: &[FreePath]) -> Vec<(Vec<u32>, f32)> {
        found.iter().map(|path| (path.codes.clone(), path.score)).collect()
    }

    #[test]
    fn the_best_sequences_are_found_whatever_items_there_are() {
        let mut model = Table { rows: Vec::new() };
        let found = search_freely(3, 2, 2, &mut model).unwrap();
        let first = [(vec![1, 0], -3.0), (vec![2, 2], -3.5), (vec![1, 2], -4.0)];
        assert_eq!(paths(&found[0]), first);
        assert_eq!(paths(&found[1])[..2], [(vec![0, 0], -5.0), (vec![0, 1], -6.0)]);
        // The second user's rows extend that user's root, which was row 1 of the call before.
        assert!(model.rows[..3].iter().all(|row| row.parent == 0));
        assert!(model.rows[3..].iter().all(|row| row.parent == 1));
    }

    #[test]
    fn a_narrow_search_loses_what_began_badly() {
        let found = search_freely(1, 2, 2, &mut Table { rows: Vec::new() }).unwrap();
        assert_eq!(paths(&found[0]), [(vec![0, 0], -6.0)]);
    }

    #[test]
    fn a_wide_search_finds_every_sequence_once() {
        let found = search_freely(100, 2, 2, &mut Table { rows: Vec::new() }).unwrap();
        let mut all: Vec<Vec<u32>> = found[0].iter().map(|path| path.codes.clone()).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 9);
    }
}

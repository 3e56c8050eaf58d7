//! A TIGER as the scorer of beam search: histories are read once.

use crate::Result;
use crate::decode::{BeamRow, CodeScores};
use crate::model::sequential::{History, Memory, Reading, Tiger, Written};

/// Scores the codes of the item that follows each history.
pub struct TigerScorer<'a>(Way<'a>);

enum Way<'a> {
    /// Where it can: what was written is kept.
    ByHand(Reading<'a>),
    /// What is written of an item goes through the decoder anew at each level, which is a handful of tokens.
    Graph {
        network: &'a Tiger,
        memory: Memory,
        /// The history of every row, and what is written.
        rows: Vec<(usize, Vec<u32>)>,
    },
}

impl<'a> TigerScorer<'a> {
    /// Reads histories, none of them empty, for a search.
    pub fn new(network: &'a Tiger, histories: &[History<'_>]) -> Result<Self> {
        let way = match network.reading(histories)? {
            Some(reading) => Way::ByHand(reading),
            None => Way::Graph {
                network,
                memory: network.read(histories)?,
                rows: (0..histories.len()).map(|history| (history, Vec::new())).collect(),
            },
        };
        Ok(Self(way))
    }
}

impl CodeScores for TigerScorer<'_> {
    fn scores(&mut self, level: usize, rows: &[BeamRow]) -> Result<Vec<f32>> {
        let (network, memory, written) = match &mut self.0 {
            Way::ByHand(reading) => {
                let rows: Vec<(usize, u32)> =
                    rows.iter().map(|row| (row.parent, row.code)).collect();
                return Ok(reading.next(&rows)?);
            }
            Way::Graph { network, memory, rows } => (*network, memory, rows),
        };
        if level > 0 {
            let next = |row: &BeamRow| {
                let (history, codes) = &written[row.parent];
                (*history, codes.iter().copied().chain([row.code]).collect())
            };
            *written = rows.iter().map(next).collect();
        }
        let mut scores = Vec::new();
        for rows in written.chunks(Tiger::HYPOTHESES_AT_ONCE) {
            let rows = rows.iter().map(|(history, codes)| Written { history: *history, codes });
            let rows: Vec<Written<'_>> = rows.collect();
            let of_rows = network.log_probabilities(memory, &rows)?;
            scores.extend(of_rows.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(scores)
    }
}

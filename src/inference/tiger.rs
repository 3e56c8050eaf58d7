//! A TIGER as the scorer of beam search: histories are read once, what is written of an item anew at each level, which
//! is a handful of tokens.

use crate::Result;
use crate::decode::{BeamRow, CodeScores};
use crate::model::sequential::{History, Memory, Tiger, Written};

/// Hypotheses that go through the decoder together: what a pass holds does not grow with the beam.
const AT_ONCE: usize = 1024;

/// Scores the codes of the item that follows each history.
pub struct TigerScorer<'a> {
    network: &'a Tiger,
    memory: Memory,
    /// The history of every row, and what is written.
    rows: Vec<(usize, Vec<u32>)>,
}

impl<'a> TigerScorer<'a> {
    /// Reads histories, none of them empty, for a search.
    pub fn new(network: &'a Tiger, histories: &[History<'_>]) -> Result<Self> {
        let memory = network.read(histories)?;
        let rows = (0..histories.len()).map(|history| (history, Vec::new())).collect();
        Ok(Self { network, memory, rows })
    }
}

impl CodeScores for TigerScorer<'_> {
    fn scores(&mut self, level: usize, rows: &[BeamRow]) -> Result<Vec<f32>> {
        if level > 0 {
            let next = |row: &BeamRow| {
                let (history, codes) = &self.rows[row.parent];
                (*history, codes.iter().copied().chain([row.code]).collect())
            };
            self.rows = rows.iter().map(next).collect();
        }
        let mut scores = Vec::new();
        for rows in self.rows.chunks(AT_ONCE) {
            let written = rows.iter().map(|(history, codes)| Written { history: *history, codes });
            let written: Vec<Written<'_>> = written.collect();
            let of_rows = self.network.log_probabilities(&self.memory, &written)?;
            scores.extend(of_rows.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(scores)
    }
}

//! Samples packed into one forward pass.

use std::sync::Arc;

use crate::data::ItemId;
use crate::model::Packed;
use crate::ops::Rows;
use crate::tasks::Sample;

/// Samples one after another, with what each has to predict.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The tokens.
    pub input: Packed,
    /// Token whose hidden state predicts, for each label.
    pub label_rows: Vec<u32>,
    /// What it has to predict.
    pub labels: Vec<u32>,
    /// How many of the labels, the last ones, belong to sequence recommendation.
    pub recommended: usize,
    /// Every `<con>`.
    pub contrast_rows: Vec<u32>,
    /// The item it follows.
    pub contrast_items: Vec<ItemId>,
}

impl Batch {
    /// Packs `samples`.
    pub fn pack(samples: &[Sample]) -> Self {
        let tokens = samples.iter().map(|s| s.ids.len()).sum();
        let (mut ids, mut positions) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        let (mut label_rows, mut labels) = (Vec::new(), Vec::new());
        let (mut recommended_rows, mut recommended) = (Vec::new(), Vec::new());
        let (mut contrast_rows, mut contrast_items) = (Vec::new(), Vec::new());
        let mut lengths = Vec::with_capacity(samples.len());
        for sample in samples {
            let start = ids.len() as u32;
            ids.extend(&sample.ids);
            positions.extend(&sample.positions);
            lengths.push(sample.ids.len());
            let (rows, ids) = if sample.recommends {
                (&mut recommended_rows, &mut recommended)
            } else {
                (&mut label_rows, &mut labels)
            };
            for (at, label) in &sample.labels {
                rows.push(start + at);
                ids.push(*label);
            }
            for (at, item) in &sample.contrast {
                contrast_rows.push(start + at);
                contrast_items.push(*item);
            }
        }
        let mut rows = Rows::packed(&lengths);
        if !contrast_rows.is_empty() {
            let mut private = vec![false; tokens];
            for &row in &contrast_rows {
                private[row as usize] = true;
            }
            rows = rows.with_private(private);
        }
        label_rows.append(&mut recommended_rows);
        let recommended_count = recommended.len();
        labels.append(&mut recommended);
        let input = Packed { ids, positions, rows: Arc::new(rows) };
        Self {
            input,
            label_rows,
            labels,
            recommended: recommended_count,
            contrast_rows,
            contrast_items,
        }
    }
}

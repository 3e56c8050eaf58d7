//! Samples packed into one forward pass.

use std::ops::Range;
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
    /// How many of the labels, the last ones, belong to sequence recommendation at each level of the index,
    /// level after level; one number where levels are not told apart.
    pub recommended: Vec<usize>,
    /// The places of these labels in the order of the samples.
    pub order: Vec<u32>,
    /// Every `<con>`.
    pub contrast_rows: Vec<u32>,
    /// The item it follows.
    pub contrast_items: Vec<ItemId>,
}

impl Batch {
    /// Packs `samples`; with the ids of each level, labels of sequence recommendation stand level by level.
    pub fn pack(samples: &[Sample], levels: Option<&[Range<u32>]>) -> Self {
        let tokens = samples.iter().map(|s| s.ids.len()).sum();
        let (mut ids, mut positions) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        let (mut label_rows, mut labels) = (Vec::new(), Vec::new());
        let (mut recommended_rows, mut recommended_labels) = (Vec::new(), Vec::new());
        let (mut contrast_rows, mut contrast_items) = (Vec::new(), Vec::new());
        let mut lengths = Vec::with_capacity(samples.len());
        for sample in samples {
            let start = ids.len() as u32;
            ids.extend(&sample.ids);
            positions.extend(&sample.positions);
            lengths.push(sample.ids.len());
            let (rows, ids) = if sample.recommends {
                (&mut recommended_rows, &mut recommended_labels)
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
        let level = |&at: &u32| {
            let label = recommended_labels[at as usize];
            levels.and_then(|levels| levels.iter().position(|ids| ids.contains(&label)))
        };
        let mut order: Vec<u32> = (0..recommended_labels.len() as u32).collect();
        order.sort_by_key(level);
        let recommended = order.chunk_by(|a, b| level(a) == level(b)).map(<[u32]>::len).collect();
        label_rows.extend(order.iter().map(|&at| recommended_rows[at as usize]));
        labels.extend(order.iter().map(|&at| recommended_labels[at as usize]));
        let input = Packed { ids, positions, rows: Arc::new(rows) };
        Self { input, label_rows, labels, recommended, order, contrast_rows, contrast_items }
    }
}

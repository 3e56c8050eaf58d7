//! What users have already, of which a model with a repeat bias expects less (or more) than of the rest.
//!
//! A model that reads a history is drawn to its items, whether or not anybody takes an item twice. The bias says how often
//! that happens in training: it is added to the logit of the token that would end an item of the history. What depends on
//! the user and the item is left to the network. `RepeatNet` (Ren et al., 2019) learns a switch between both kinds.

use crate::data::{Dataset, ItemId};
use crate::tasks::Sample;
use crate::{Result, invalid};

/// The logarithm of the share of items that a user takes for another time; where nobody does, as if one had been.
pub fn log_repeats(dataset: &Dataset) -> f64 {
    let items: usize = dataset.train_sequences().map(<[ItemId]>::len).sum();
    dataset.repeats().max(1.0 / items.max(1) as f64).ln()
}

/// For each label of sequence recommendation in `samples`, in their order, the tokens that would end an item before the
/// label's own; none where the label does not end one. `items` has the tokens of every item.
///
/// # Errors
/// A sample whose labels are not the tokens of its target items.
pub(super) fn owned(items: &[Vec<u32>], samples: &[Sample]) -> Result<Vec<Vec<u32>>> {
    let mut rows = Vec::new();
    for sample in samples.iter().filter(|sample| sample.recommends) {
        let begin = rows.len();
        for at in sample.first_target..sample.items.len() {
            let Some((_, begun)) = items[sample.items[at] as usize].split_last() else { continue };
            rows.resize(rows.len() + begun.len(), Vec::new());
            let before = sample.items[..at].iter().map(|&item| items[item as usize].split_last());
            let ends = before.flatten().filter(|(_, others)| *others == begun);
            let mut ends: Vec<u32> = ends.map(|(end, _)| *end).collect();
            ends.sort_unstable();
            ends.dedup();
            rows.push(ends);
        }
        if rows.len() - begin != sample.labels.len() {
            invalid!("a repeat bias needs samples that tell their items");
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Item, User};

    #[test]
    fn what_ends_an_item_of_the_history_is_named_once_and_where_items_end() {
        // Items 0 and 1 begin alike, so do 2 and 3.
        let items = [[10, 12], [10, 13], [11, 12], [11, 13]].map(|tokens| tokens.to_vec());
        let sample = |items: &[ItemId], first_target: usize| Sample {
            items: items.to_vec(),
            first_target,
            labels: vec![(0, 0); 2 * (items.len() - first_target)],
            recommends: true,
            ..Sample::default()
        };
        let other = Sample { labels: vec![(0, 0)], ..Sample::default() };
        let rows = owned(&items, &[sample(&[1, 0, 1, 0, 2], 2), other, sample(&[3, 2], 1)]);
        let none = Vec::new;
        let expected =
            [none(), vec![12, 13], none(), vec![12, 13], none(), none(), none(), vec![13]];
        assert_eq!(rows.unwrap(), expected);
        let short = Sample { labels: vec![(0, 0)], ..sample(&[0, 1], 1) };
        assert!(owned(&items, &[short]).unwrap_err().to_string().contains("tell their items"));
    }

    #[test]
    fn the_bias_is_how_often_items_are_taken_again() {
        let users = |items: &[u32]| vec![User { id: "0".into(), items: items.to_vec() }];
        let bias = |items: &[u32]| {
            log_repeats(&Dataset::new("shop", users(items), vec![Item::default(); 6]).unwrap())
        };
        // The last two are held out: one of four targets is a repeat; of none, one in five items is taken for one.
        assert_eq!(bias(&[0, 1, 0, 2, 3, 4, 5]), 0.25f64.ln());
        assert_eq!(bias(&[0, 1, 2, 3, 4, 5, 5]), 0.2f64.ln());
    }
}

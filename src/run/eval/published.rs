//! What the LLM-BS paper prints of the same datasets, to stand beside what is measured here.

use serde::Serialize;

use crate::data::{Dataset, SplitRule};

/// A row of the paper's table 2, of a dataset: leave-one-out, all items ranked, those of the history too.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Published {
    /// The system, by the name it has here where it has one.
    pub system: &'static str,
    /// `recall@5`
    pub recall_5: f64,
    /// `recall@10`
    pub recall_10: f64,
    /// `ndcg@5`
    pub ndcg_5: f64,
    /// `ndcg@10`
    pub ndcg_10: f64,
}

/// Recall@5, Recall@10, NDCG@5, NDCG@10 of each system.
type Row = (&'static str, [f64; 4]);

const BEAUTY: [Row; 10] = [
    ("gru4rec", [0.0164, 0.0283, 0.0099, 0.0137]),
    ("caser", [0.0205, 0.0347, 0.0131, 0.0176]),
    ("hgn", [0.0325, 0.0512, 0.0206, 0.0266]),
    ("bert4rec", [0.0203, 0.0347, 0.0124, 0.0170]),
    ("s3rec", [0.0387, 0.0647, 0.0244, 0.0327]),
    ("fdsa", [0.0267, 0.0407, 0.0163, 0.0208]),
    ("p5-cid", [0.0400, 0.0590, 0.0274, 0.0335]),
    ("tiger", [0.0454, 0.0648, 0.0321, 0.0384]),
    ("lc-rec", [0.0482, 0.0681, 0.0327, 0.0409]),
    ("llm-bs", [0.0548, 0.0830, 0.0369, 0.0459]),
];
const SPORTS: [Row; 10] = [
    ("gru4rec", [0.0129, 0.0204, 0.0086, 0.0110]),
    ("caser", [0.0116, 0.0194, 0.0072, 0.0097]),
    ("hgn", [0.0189, 0.0313, 0.0120, 0.0159]),
    ("bert4rec", [0.0115, 0.0191, 0.0075, 0.0099]),
    ("s3rec", [0.0251, 0.0385, 0.0161, 0.0204]),
    ("fdsa", [0.0182, 0.0288, 0.0122, 0.0156]),
    ("p5-cid", [0.0313, 0.0431, 0.0224, 0.0262]),
    ("tiger", [0.0264, 0.0400, 0.0181, 0.0225]),
    ("lc-rec", [0.0304, 0.0451, 0.0196, 0.0246]),
    ("llm-bs", [0.0373, 0.0569, 0.0251, 0.0315]),
];
const INSTRUMENTS: [Row; 10] = [
    ("gru4rec", [0.0821, 0.1031, 0.0698, 0.0765]),
    ("caser", [0.0543, 0.0710, 0.0355, 0.0409]),
    ("hgn", [0.0813, 0.1048, 0.0668, 0.0744]),
    ("bert4rec", [0.0671, 0.0822, 0.0560, 0.0608]),
    ("s3rec", [0.0863, 0.1136, 0.0626, 0.0714]),
    ("fdsa", [0.0834, 0.1046, 0.0681, 0.0750]),
    ("p5-cid", [0.0827, 0.1016, 0.0708, 0.0768]),
    ("tiger", [0.0863, 0.1064, 0.0738, 0.0803]),
    ("lc-rec", [0.0964, 0.1177, 0.0819, 0.0890]),
    ("llm-bs", [0.0991, 0.1224, 0.0851, 0.0926]),
];

impl Published {
    /// The rows of `dataset`, told by its users and items; none of one that the paper does not have, or that is divided
    /// otherwise.
    pub fn of(dataset: &Dataset) -> Vec<Self> {
        if dataset.split_rule() != SplitRule::LeaveOneOut {
            return Vec::new();
        }
        let rows = match (dataset.users.len(), dataset.num_items()) {
            (22_363, 12_101) => BEAUTY,
            (35_598, 18_357) => SPORTS,
            (24_772, 9_922) => INSTRUMENTS,
            _ => return Vec::new(),
        };
        rows.map(|(system, [recall_5, recall_10, ndcg_5, ndcg_10])| Self {
            system,
            recall_5,
            recall_10,
            ndcg_5,
            ndcg_10,
        })
        .to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Item, User};

    #[test]
    fn a_dataset_is_told_by_its_users_and_items() {
        let dataset = |users: usize, items: usize| {
            let user = |id: usize| User { id: id.to_string(), items: vec![0, 1, 2] };
            let users = (0..users).map(user).collect();
            Dataset::new("any", users, vec![Item::default(); items]).unwrap()
        };
        let rows = Published::of(&dataset(22_363, 12_101));
        assert_eq!((rows.len(), rows[9].system, rows[9].ndcg_10), (10, "llm-bs", 0.0459));
        assert!(Published::of(&dataset(3, 5)).is_empty());
    }
}

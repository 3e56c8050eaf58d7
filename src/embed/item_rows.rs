//! Where the rows of item tokens point to when they are to begin at what is known of their items.

use ndarray::{Array2, ArrayView2, Axis, s};

use super::whiten::{unit_rows, whitened};
use crate::index::ItemIndex;
use crate::{Error, Result, invalid};

/// A direction for every item token in the order of the vocabulary, (item tokens, `width`), such that tokens of
/// items that are alike point alike: side by side z^s and z^b, (items, dim), both whitened, each as long as the
/// other. Where both are wider together, the last columns of z^s are left out: whitened columns say as much as
/// each other.
///
/// # Errors
/// Where there is neither, or z^b alone is wider.
pub fn item_token_directions(
    index: &ItemIndex,
    semantic: Option<&Array2<f32>>,
    behavior: Option<&Array2<f32>>,
    width: usize,
) -> Result<Array2<f32>> {
    let behavior = behavior.map(whitened).transpose()?;
    let left = match &behavior {
        Some(z) if z.ncols() > width => {
            invalid!(
                "train.item-token-init = \"whitened\": z^b has {} columns, the backbone {width}: set \
                 train.item-token-init = \"mean\"",
                z.ncols()
            )
        }
        Some(z) => width - z.ncols(),
        None => width,
    };
    let semantic = semantic.map(whitened).transpose()?;
    let semantic = semantic.map(|z| z.slice(s![.., ..left.min(z.ncols())]).to_owned());
    let mut joined = Array2::zeros((index.num_items(), width));
    let mut start = 0;
    for z in [semantic, behavior].into_iter().flatten() {
        let end = start + z.ncols();
        joined.slice_mut(s![.., start..end]).assign(&unit_rows(z.mapv(f64::from)));
        start = end;
    }
    if start == 0 {
        invalid!(
            "train.item-token-init = \"whitened\" needs z^s or z^b, and the index has neither; set \
             train.item-token-init = \"mean\""
        );
    }
    let mut directions = Array2::zeros((0, width));
    for (level, range) in index.level_ranges().into_iter().enumerate() {
        let position = |item| index.item_positions(item)[level] as usize;
        let sums = sums_by(joined.view(), range.len(), position);
        directions.append(Axis(0), sums.view()).map_err(|e| Error::Invalid(e.to_string()))?;
    }
    Ok(directions.mapv(|value| value as f32))
}

/// The sums of the rows that share a number below `count`.
fn sums_by(
    rows: ArrayView2<'_, f64>,
    count: usize,
    number_of: impl Fn(u32) -> usize,
) -> Array2<f64> {
    let mut sums = Array2::zeros((count, rows.ncols()));
    for (item, row) in (0..).zip(rows.rows()) {
        let mut sum = sums.row_mut(number_of(item));
        sum += &row;
    }
    sums
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::index::{Level, Source};

    #[test]
    fn directions_stand_side_by_side_and_are_added_by_token() {
        // Items 0 and 1 share their first code; each has a second of its own.
        let level = |num_codes| Level { source: Source::Semantic, num_codes };
        let codes = vec![0, 0, 0, 1, 1, 2];
        let index = ItemIndex::new(vec![level(2), level(3)], codes).unwrap();
        let semantic = array![[5.0f32, 1.0, 0.5], [6.0, 1.5, 2.0], [7.0, -1.0, 1.0]];
        let behavior = array![[1.0f32, 0.0], [0.0, 3.0], [-1.0, 1.0]];
        let all = |width| item_token_directions(&index, Some(&semantic), Some(&behavior), width);
        let found = all(4).unwrap();
        assert_eq!(found.dim(), (5, 4));
        let (s, b) = (whitened(&semantic).unwrap(), whitened(&behavior).unwrap());
        for item in 0..3 {
            let own = found.row(2 + item);
            let left = s.slice(s![item, ..2]).mapv(f64::from);
            let scale = left.dot(&left).sqrt();
            let expected = left.iter().map(|x| x / scale).chain(b.row(item).mapv(f64::from));
            for (value, expected) in own.iter().zip(expected) {
                assert!((f64::from(*value) - expected).abs() < 1e-6, "{found}");
            }
        }
        let shared = &found.row(2) + &found.row(3);
        assert!((&found.row(0) - &shared).iter().all(|x| x.abs() < 1e-6), "{found}");
        assert_eq!(found.row(1), found.row(4));
        // One of them is enough, and what is too wide or missing is refused.
        let alone = item_token_directions(&index, None, Some(&behavior), 4).unwrap();
        assert!(alone.slice(s![.., 2..]).iter().all(|x| *x == 0.0));
        assert!(all(1).unwrap_err().to_string().contains("2 columns"));
        let none = item_token_directions(&index, None, None, 4).unwrap_err();
        assert!(none.to_string().contains("neither"), "{none}");
    }

    #[test]
    fn items_of_one_number_are_added() {
        let rows = array![[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]];
        let sums = sums_by(rows.view(), 2, |item| usize::from(item == 1));
        assert_eq!(sums, array![[4.0, 4.0], [0.0, 2.0]]);
    }
}

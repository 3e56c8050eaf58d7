//! Indices as other programs have them: MiniOneRec's lines and GRID's matrices.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

use super::plan::MAX_LEVELS;
use super::store::parse_token;
use super::{Foreign, IndexError, ItemIndex};
use crate::data::{Dataset, ItemId};
use crate::error::short;
use crate::{Result, files};

/// A line: an item by the name it has there, and its codes.
struct Line<'a> {
    number: usize,
    name: &'a str,
    codes: Vec<u32>,
}

impl Foreign {
    /// Reads a file of lines `SID<TAB>title<TAB>id`, an SID such as `<a_12><b_3><c_200>`.
    ///
    /// The ids are numbers of items or raw ids: whichever the dataset knows all of.
    ///
    /// # Errors
    /// Names the file and the line: fewer columns, an SID that is none or of other levels than the first, an id of no
    /// item or one that comes twice; an item that no line has; ids that may be either, of other items each.
    pub fn read_lines(path: &Path, dataset: &Dataset) -> Result<Self> {
        let text = files::read_text(path)?;
        let wrong = |line, problem| IndexError::Line { path: path.into(), line, problem };
        let mut lines: Vec<Line<'_>> = Vec::new();
        for (number, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let columns = text
                .split_once('\t')
                .and_then(|(sid, rest)| Some((sid, rest.rsplit_once('\t')?.1)));
            let Some((sid, name)) = columns else {
                let problem = "expected an SID, a title and an id, with tabs between them";
                return Err(wrong(number, format!("{:?}: {problem}", short(text))).into());
            };
            let Some(codes) = codes_of(sid.trim()) else {
                let problem = "is no SID of at most 26 levels, such as <a_12><b_3><c_200>";
                return Err(wrong(number, format!("{:?} {problem}", short(sid))).into());
            };
            if let Some(first) = lines.first().filter(|first| first.codes.len() != codes.len()) {
                let (levels, expected, at) = (codes.len(), first.codes.len(), first.number);
                let problem = format!("{levels} levels, and line {at} has {expected}");
                return Err(wrong(number, problem).into());
            }
            lines.push(Line { number, name: name.trim(), codes });
        }
        let Some(first) = lines.first() else { return Err(IndexError::NoItems.into()) };
        let width = first.codes.len();

        let mut codes = vec![0; dataset.num_items() * width];
        let mut seen: Vec<Option<usize>> = vec![None; dataset.num_items()];
        let items = items_of(&lines, dataset).map_err(|(line, problem)| wrong(line, problem))?;
        for (line, item) in lines.iter().zip(items) {
            if let Some(before) = seen[item as usize].replace(line.number) {
                let problem = format!("item {:?} is on line {before} already", short(line.name));
                return Err(wrong(line.number, problem).into());
            }
            codes[item as usize * width..][..width].copy_from_slice(&line.codes);
        }
        if let Some(missing) =
            (0..).zip(&seen).find_map(|(item, line)| line.is_none().then_some(item))
        {
            let last = dataset.num_items() - 1;
            return Err(IndexError::MissingItem { path: path.into(), missing, last }.into());
        }
        Ok(Self::new(path, width, codes))
    }

    /// The index of a matrix of codes, `shape` rows and columns, for a dataset of `num_items` items: the axis that is
    /// as long is that of the items, the other that of the levels.
    ///
    /// # Errors
    /// If neither axis or both are as long, and of a number that is no code; names the file.
    pub fn of_matrix(
        path: &Path,
        shape: [usize; 2],
        values: &[i64],
        num_items: usize,
    ) -> Result<Self> {
        let is_items = shape.map(|length| length == num_items);
        if is_items[0] == is_items[1] {
            return Err(IndexError::Axes { path: path.into(), shape, num_items }.into());
        }
        let by_level = is_items[1];
        let levels = shape[usize::from(!by_level)];
        if !(1..=MAX_LEVELS).contains(&levels) {
            return Err(IndexError::LevelCount { levels }.into());
        }
        let place =
            |item, level| if by_level { level * num_items + item } else { item * levels + level };
        let mut codes = Vec::with_capacity(values.len());
        for (item, level) in
            (0..num_items).flat_map(|item| (0..levels).map(move |level| (item, level)))
        {
            let code = values[place(item, level)];
            match u32::try_from(code).ok().filter(|&code| code < u32::MAX) {
                Some(code) => codes.push(code),
                None => {
                    return Err(IndexError::NoCode { path: path.into(), item, level, code }.into());
                }
            }
        }
        Ok(Self::new(path, levels, codes))
    }
}

/// The codes that an SID spells.
fn codes_of(sid: &str) -> Option<Vec<u32>> {
    let tokens: Vec<&str> = sid.split_inclusive('>').take(MAX_LEVELS + 1).collect();
    if tokens.is_empty() || tokens.len() > MAX_LEVELS {
        return None;
    }
    tokens.iter().enumerate().map(|(level, token)| parse_token(token, level)).collect()
}

/// The items that lines are about; else the line at fault and what is wrong with it.
fn items_of(
    lines: &[Line<'_>],
    dataset: &Dataset,
) -> std::result::Result<Vec<ItemId>, (usize, String)> {
    let raw_ids: HashMap<&str, ItemId> = (0..)
        .zip(&dataset.items)
        .filter_map(|(item, of)| Some((of.raw_id.as_deref()?, item)))
        .collect();
    let last = dataset.num_items() as ItemId - 1;
    let number = |name: &str| {
        name.parse().ok().filter(|item: &ItemId| *item <= last && item.to_string() == name)
    };
    let items = |item: &dyn Fn(&str) -> Option<ItemId>| {
        lines.iter().map(|line| item(line.name)).collect::<Vec<Option<ItemId>>>()
    };
    let readings = [items(&number), items(&|name| raw_ids.get(name).copied())];
    let whole = readings.clone().map(|items| items.into_iter().collect::<Option<Vec<ItemId>>>());
    match whole {
        [Some(numbers), Some(raw)] => match numbers.iter().zip(&raw).position(|(a, b)| a != b) {
            None => Ok(numbers),
            Some(at) => Err((
                lines[at].number,
                format!(
                    "{:?} is the raw id of item {} and the number of another, and so may all be; give the index in \
                     LC-Rec's form, X.index.json, by number",
                    short(lines[at].name),
                    raw[at]
                ),
            )),
        },
        [Some(items), None] | [None, Some(items)] => Ok(items),
        // What is most likely meant is the reading that knows more of them.
        [None, None] => {
            let known = |items: &&Vec<Option<ItemId>>| items.iter().flatten().count();
            let meant = readings.iter().max_by_key(known).into_iter().flatten();
            let line =
                lines.iter().zip(meant).find_map(|(line, item)| item.is_none().then_some(line));
            let line = line.unwrap_or(&lines[0]);
            let raw_id = dataset.items.iter().find_map(|item| item.raw_id.as_ref());
            let or_raw =
                raw_id.map_or_else(String::new, |id| format!(" or a raw id such as {id:?}"));
            let expected = format!("expected a number from 0 to {last}{or_raw}");
            let name = short(line.name);
            Err((line.number, format!("{name:?} is no item of {}: {expected}", dataset.name)))
        }
    }
}

/// Writes the index of `dataset` as lines that [`Foreign::read_lines`] reads, items by number.
pub fn write_lines(path: &Path, index: &ItemIndex, dataset: &Dataset) -> Result<()> {
    files::write_with(path, |file| {
        (0..).zip(&dataset.items).take(index.num_items()).try_for_each(|(id, item)| {
            // A title may hold what ends a column or a line.
            let title = item.title.split_whitespace().collect::<Vec<_>>().join(" ");
            writeln!(file, "{}\t{title}\t{id}", index.tokens(id).concat())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Item, User};
    use crate::index::{OnCollision, Source};

    fn dataset(raw_ids: [Option<&str>; 3]) -> Dataset {
        let item = |raw_id: Option<&str>| Item {
            title: "a\ttitle of\ntwo lines".into(),
            raw_id: raw_id.map(String::from),
            ..Item::default()
        };
        let user = User { id: "u".into(), items: vec![0, 1, 2] };
        Dataset::new("shop", vec![user], raw_ids.map(item).to_vec()).unwrap()
    }

    fn read(text: &str, raw_ids: [Option<&str>; 3]) -> Result<Foreign> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.txt");
        std::fs::write(&path, text).unwrap();
        Foreign::read_lines(&path, &dataset(raw_ids))
    }

    fn codes(foreign: Foreign) -> Vec<u32> {
        foreign.into_index(&[Source::Semantic], OnCollision::Reject).unwrap().codes().to_vec()
    }

    const NUMBERS: &str = "<a_7><b_1>\tsoap\t2\n<a_2><b_0>\ta\tb\t0\r\n\n<a_7><b_0>\t\t1\n";

    #[test]
    fn lines_are_by_number_or_by_raw_id() {
        let expected = [2, 0, 7, 0, 7, 1];
        assert_eq!(codes(read(NUMBERS, [None; 3]).unwrap()), expected);
        let raw = NUMBERS.replace("\t2\n", "\tB02\n").replace("\t0\r", "\tB00\r");
        let raw = raw.replace("\t1\n", "\tB01\n");
        let raw_ids = [Some("B00"), Some("B01"), Some("B02")];
        assert_eq!(codes(read(&raw, raw_ids).unwrap()), expected);
        assert_eq!(codes(read(NUMBERS, raw_ids).unwrap()), expected);
        // Raw ids that are numbers: of the same items, of others, and of some alone.
        assert_eq!(codes(read(NUMBERS, [Some("0"), Some("1"), Some("2")]).unwrap()), expected);
        assert_eq!(codes(read(NUMBERS, [Some("2"), Some("1"), Some("9")]).unwrap()), expected);
        let error = read(NUMBERS, [Some("1"), Some("0"), Some("2")]).unwrap_err().to_string();
        let expected = "shop.txt:2: \"0\" is the raw id of item 1 and the number of another";
        assert!(error.contains(expected) && error.contains("X.index.json"), "{error}");
    }

    #[test]
    fn what_is_wrong_with_lines_is_named_by_line() {
        let error =
            |text: &str| read(text, [Some("B00"), Some("B01"), None]).unwrap_err().to_string();
        for (text, expected) in [
            (
                "<a_1>\tx\t0\n<a_2> soap 1\n",
                "shop.txt:2: \"<a_2> soap 1\": expected an SID, a title",
            ),
            ("<a_1>\t0\n", "shop.txt:1: \"<a_1>\\t0\": expected an SID, a title and an id"),
            ("<b_1>\tx\t0\n", "shop.txt:1: \"<b_1>\" is no SID"),
            ("<a_01>\tx\t0\n", "\"<a_01>\" is no SID"),
            ("\tx\t0\n", "shop.txt:1: \"\" is no SID"),
            ("<a_1>\tx\t0\n\n<a_1><b_2>\tx\t1\n", "shop.txt:3: 2 levels, and line 1 has 1"),
            (
                "<a_1>\tx\t0\n<a_2>\tx\t0\n<a_3>\tx\t1\n",
                "shop.txt:2: item \"0\" is on line 1 already",
            ),
            ("<a_1>\tx\t0\n<a_2>\tx\t2\n", "shop.txt: item 1 is missing"),
            (
                "<a_1>\tx\t0\n<a_2>\tx\t3\n",
                "shop.txt:2: \"3\" is no item of shop: expected a number from 0 to 2",
            ),
            (
                "<a_1>\tx\tB00\n<a_2>\tx\tB07\n",
                "\"B07\" is no item of shop: expected a number from 0 to 2 or a raw id such as \"B00\"",
            ),
            ("\n", "the index has no items"),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let long = "<a_1>".repeat(30) + "\tx\t0\n";
        assert!(error(&long).contains("is no SID of at most 26 levels"));
    }

    #[test]
    fn the_axis_of_the_items_is_told_by_their_number() {
        let path = Path::new("codes.pt");
        let of = |shape, values: &[i64]| Foreign::of_matrix(path, shape, values, 3);
        let expected = [7, 1, 2, 0, 7, 0];
        assert_eq!(codes(of([2, 3], &[7, 2, 7, 1, 0, 0]).unwrap()), expected);
        assert_eq!(codes(of([3, 2], &[7, 1, 2, 0, 7, 0]).unwrap()), expected);
        let error = |shape, values: &[i64]| of(shape, values).unwrap_err().to_string();
        let said = error([2, 4], &[0; 8]);
        assert!(
            said.contains("codes.pt: a matrix of 2 x 4 codes, and the dataset has 3 items"),
            "{said}"
        );
        assert!(said.contains("(levels, items) or (items, levels)"), "{said}");
        let said = error([3, 3], &[0; 9]);
        assert!(said.contains("cannot be told") && said.contains("X.index.json"), "{said}");
        let said = error([2, 3], &[0, 1, 2, 0, -1, 0]);
        assert!(said.contains("codes.pt: item 1, level 1: -1 is no code"), "{said}");
        assert!(error([1, 3], &[0, 1, 4_294_967_295]).contains("item 2, level 0"));
        assert!(error([0, 3], &[]).contains("0 asked for"));
        assert!(error([27, 3], &[0; 81]).contains("27 asked for"));
    }

    #[test]
    fn lines_that_are_written_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.txt");
        let dataset = dataset([None; 3]);
        let foreign = read(NUMBERS, [None; 3]).unwrap();
        let index = foreign.into_index(&[Source::Semantic], OnCollision::Reject).unwrap();
        write_lines(&path, &index, &dataset).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().next(), Some("<a_2><b_0>\ta title of two lines\t0"));
        assert_eq!(codes(Foreign::read_lines(&path, &dataset).unwrap()), index.codes());
    }
}

//! What is known of items in common: attributes, for models that read these rather than texts.

use std::collections::{BTreeMap, BTreeSet};

use super::Item;

/// Items that must share an attribute.
const SHARED_BY: usize = 5;
/// Attributes of an item at most: the first in its text.
const MOST: usize = 16;

/// The attributes of every item, by number, and how many there are: categories (told apart by commas) and brand where
/// any item has one; else the words of descriptions. What fewer than five items share is none. Nothing, where no
/// attributes are left.
pub fn attributes(items: &[Item]) -> Option<(Vec<Vec<u32>>, usize)> {
    let sorted = items.iter().any(|item| !item.categories.is_empty() || !item.brand.is_empty());
    let of = |item: &Item| -> Vec<String> {
        if sorted {
            let categories =
                item.categories.split(',').map(|name| format!("category {}", name.trim()));
            let brand = Some(&item.brand).filter(|brand| !brand.is_empty());
            let named = categories.filter(|name| name != "category ");
            named.chain(brand.map(|brand| format!("brand {}", brand.trim()))).collect()
        } else {
            let words = item.description.split(|c: char| !c.is_alphanumeric());
            words.filter(|word| word.chars().count() > 2).map(str::to_lowercase).collect()
        }
    };
    let names: Vec<Vec<String>> = items.iter().map(of).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for names in &names {
        for name in names.iter().collect::<BTreeSet<_>>() {
            *counts.entry(name).or_default() += 1;
        }
    }
    let shared = counts.iter().filter(|(_, count)| **count >= SHARED_BY);
    let numbers: BTreeMap<&str, u32> = shared.map(|(name, _)| *name).zip(0..).collect();
    let numbered = |names: &Vec<String>| {
        let mut own = Vec::new();
        for number in names.iter().filter_map(|name| numbers.get(name.as_str())) {
            if own.len() < MOST && !own.contains(number) {
                own.push(*number);
            }
        }
        own
    };
    (!numbers.is_empty()).then(|| (names.iter().map(numbered).collect(), numbers.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(description: &str, categories: &str, brand: &str) -> Item {
        Item {
            description: description.into(),
            categories: categories.into(),
            brand: brand.into(),
            ..Item::default()
        }
    }

    #[test]
    fn categories_and_brands_come_before_words() {
        let mut items = vec![item("red nail polish", "Nails, Polish", "Opi"); 5];
        items.push(item("blue nail polish", "Nails,,Rare", ""));
        let (of_items, count) = attributes(&items).unwrap();
        // A brand, "category Nails" and "category Polish", in the order of their names.
        assert_eq!((of_items[0].as_slice(), of_items[5].as_slice()), (&[1, 2, 0][..], &[1][..]));
        assert_eq!(count, 3);
    }

    #[test]
    fn words_serve_where_nothing_else_is_known() {
        let mut items = vec![item("Red nail nail of polish", "", ""); 5];
        items.push(item("blue NAIL", "", ""));
        items.push(item("", "", ""));
        let (of_items, count) = attributes(&items).unwrap();
        // nail, polish, red; what two letters spell is no word.
        assert_eq!(of_items[0], [2, 0, 1]);
        assert_eq!((of_items[5].as_slice(), of_items[6].len(), count), (&[0][..], 0, 3));
        assert_eq!(attributes(&items[5..]), None);
    }
}

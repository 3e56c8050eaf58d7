//! Item texts: what a buyer, or a language model, can read of an item, and nothing else.

use std::collections::HashSet;

use rand::Rng as _;
use rand::seq::SliceRandom as _;

use super::words::{BRANDS, CATEGORIES, Category, DEPARTMENTS, LINES};
use crate::data::Item;
use crate::rng::{Rng, stream};

/// What of an item's text the purchases depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traits {
    /// Index into [`CATEGORIES`].
    pub(super) category: usize,
    /// Index into [`BRANDS`].
    pub(super) brand: usize,
    /// Index into the variants of the category's department.
    pub(super) variant: usize,
}

/// How often a title that exists is drawn again before it is let stand.
const MAX_REDRAWS: usize = 20;

/// `n` items, as evenly over the categories as `n` allows, in random order.
pub(super) fn items(n: usize, seed: u64) -> (Vec<Item>, Vec<Traits>) {
    let mut rng = stream(seed, "synth/items", &[]);
    let mut categories: Vec<_> = (0..n).map(|i| i % CATEGORIES.len()).collect();
    categories.shuffle(&mut rng);
    let mut titles = HashSet::new();
    categories
        .into_iter()
        .enumerate()
        .map(|(id, category)| {
            let mut draw = || {
                let brand = rng.gen_range(0..BRANDS.len());
                let variant = rng.gen_range(0..DEPARTMENTS[0].variants.len());
                let traits = Traits { category, brand, variant };
                (describe(traits, &mut rng), traits)
            };
            let (mut item, mut traits) = draw();
            for _ in 0..MAX_REDRAWS {
                if !titles.contains(&item.title) {
                    break;
                }
                (item, traits) = draw();
            }
            titles.insert(item.title.clone());
            item.raw_id = Some(format!("S{id:05}"));
            (item, traits)
        })
        .unzip()
}

fn describe(traits: Traits, rng: &mut Rng) -> Item {
    let category = &CATEGORIES[traits.category];
    let Category { nouns, benefits, sizes, .. } = category;
    let department = &DEPARTMENTS[category.department];
    let (brand, variant) = (BRANDS[traits.brand], department.variants[traits.variant]);
    let line = pick(&LINES, rng);
    let feature = pick(&department.features, rng);
    let noun = pick(nouns, rng);
    let title = format!(
        "{brand} {line} {} {} {}, {}",
        capitalized(feature),
        capitalized(noun),
        department.variant_in_title.replace("{}", &capitalized(variant)),
        pick(sizes, rng),
    );
    let description = format!(
        "{} {noun} {} that {}; {}.",
        capitalized_first(pick(&department.textures, rng)),
        department.feature_in_description.replace("{}", feature),
        pick(benefits, rng),
        department.variant_in_description.replace("{}", variant),
    );
    Item {
        title,
        description,
        brand: brand.to_string(),
        categories: format!("Beauty, {}, {}", department.name, category.name),
        raw_id: None,
        is_gap: false,
    }
}

fn pick<'a>(words: &[&'a str], rng: &mut Rng) -> &'a str {
    words[rng.gen_range(0..words.len())]
}

fn capitalized(words: &str) -> String {
    words.split(' ').map(capitalized_first).collect::<Vec<_>>().join(" ")
}

fn capitalized_first(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_like_a_small_shop() {
        let (items, traits) = items(800, 3);
        let words = |text: &str| text.split_whitespace().count();
        let mean = |f: &dyn Fn(&Item) -> usize| items.iter().map(f).sum::<usize>() as f64 / 800.0;
        let (title, description) = (mean(&|i| words(&i.title)), mean(&|i| words(&i.description)));
        assert!((6.0..10.0).contains(&title), "{title} words a title");
        assert!((9.0..15.0).contains(&description), "{description} words a description");
        let titles: HashSet<_> = items.iter().map(|i| &i.title).collect();
        assert_eq!(titles.len(), items.len(), "titles differ");
        for (item, t) in items.iter().zip(&traits) {
            let category = &CATEGORIES[t.category];
            let variant = DEPARTMENTS[category.department].variants[t.variant];
            assert!(item.title.starts_with(BRANDS[t.brand]), "{item:?}");
            assert!(item.categories.ends_with(category.name), "{item:?}");
            assert!(item.description.contains(variant), "{item:?}");
            assert!(item.title.contains(&capitalized(variant)), "{item:?}");
        }
    }

    #[test]
    fn word_lists_fit_together() {
        for (i, category) in CATEGORIES.iter().enumerate() {
            let [first, second] = category.followers;
            assert!(first < CATEGORIES.len() && second < CATEGORIES.len());
            assert!(first != second && first != i && second != i, "{}", category.name);
        }
        for department in &DEPARTMENTS {
            assert!(department.variant_in_title.contains("{}"));
            assert!(department.variant_in_description.contains("{}"));
            assert!(department.feature_in_description.contains("{}"));
        }
    }
}

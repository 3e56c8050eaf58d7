//! Items by the words of their titles, for people who look for one.

use rayon::prelude::*;

use crate::data::{ItemId, Lookup};
use crate::run::{NamedItem, Service};

/// The `top` best items for `words`: the one with this id first, then those whose titles have all words or
/// words that begin so, those taken most in training first. Without words, the items taken most.
pub(super) fn search(
    service: &Service,
    lookup: &Lookup,
    words: &str,
    top: usize,
) -> Vec<NamedItem> {
    let wanted = words.trim();
    let words: Vec<String> = wanted.split_whitespace().map(str::to_lowercase).collect();
    let items = &service.dataset().items;
    let called = lookup.item(wanted).ok();
    let is_called = |item: ItemId| called == Some(item);
    let fits = |item: &&ItemId| {
        let title = items[**item as usize].title.to_lowercase();
        let starts = |word: &String| {
            let mut places = title.match_indices(&**word);
            places.any(|(at, _)| !title[..at].ends_with(char::is_alphanumeric))
        };
        is_called(**item) || words.iter().all(starts)
    };
    let mut found: Vec<ItemId> = service.by_popularity().par_iter().filter(fits).copied().collect();
    found.sort_by_key(|&item| !is_called(item));
    found.into_iter().take(top).map(|item| service.named(item)).collect()
}

//! The figures of an item index as text.

use std::cmp::Reverse;
use std::fmt::Write as _;

use crate::cli::recommend::short_title;
use crate::run::{AddedItem, Import, IndexReport, NamedItem, Run, TokenReport};

/// How many tokens a level are told of.
const TOKENS: usize = 3;

/// How many titles say what one is about.
const SHOWN: usize = 3;

/// The whole report.
pub(super) fn report(report: &IndexReport) -> String {
    let codes = &report.codes;
    let mut text = format!("{}: ", report.dataset);
    let _ = writeln!(
        text,
        "{} items, {} item tokens ({:.2} items a token), {} collisions",
        codes.num_items, codes.num_tokens, codes.compression_ratio, codes.collisions
    );
    if let Some(Import { file, items_sharing, .. }) = &report.imported {
        let _ = writeln!(text, "imported from {file}, where {items_sharing} items share an index");
    }
    let _ = writeln!(
        text,
        "\n{:<5}  {:<8}  {:>5}  {:>16}  {:>22}  {:>24}",
        "level", "source", "codes", "entropy (bits)", "items a code", "items a prefix"
    );
    for level in &codes.levels {
        let spread = |s: crate::run::Spread| format!("{} / {} / {}", s.min, s.median, s.max);
        let entropy = format!("{:.2} ({:.1} %)", level.entropy_bits, 100.0 * level.entropy_share);
        let _ = writeln!(
            text,
            "{:<5}  {:<8}  {:>5}  {entropy:>16}  {:>22}  {:>24}",
            level.level,
            level.source,
            level.used_codes,
            spread(level.items_per_code),
            spread(level.items_per_prefix)
        );
    }
    text += "(smallest / median / largest)\n";
    text += &similarity(report);
    let mut last = None;
    for token in most_used(report) {
        let level = token.meaning.token.chars().nth(1);
        if level != last {
            let _ = writeln!(text, "\nmost used tokens of level {}", level.unwrap_or(' '));
            last = level;
        }
        let _ = writeln!(
            text,
            "  {:<8}  {:>5} items  {}",
            token.meaning.token,
            token.meaning.items,
            titles(&examples(token)[..examples(token).len().min(SHOWN)])
        );
    }
    text
}

fn similarity(report: &IndexReport) -> String {
    if report.similarity.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\n{:<8}  {:>6}  {:>10}  {:>26}  {:>26}  {:>18}\n",
        "source", "shared", "pairs", "cosine z^s", "cosine z^b", "co-purchase"
    );
    for s in &report.similarity {
        let cosine = |likeness: Option<crate::run::Likeness>| {
            likeness.map_or_else(
                || "-".into(),
                |l| format!("{:.3} / {:.3} ({:.3})", l.siblings, l.strangers, l.closer),
            )
        };
        let lift = |lift: Option<f64>| lift.map_or_else(|| "-".into(), |l| format!("{l:.2}"));
        let both = format!("{} / {}", lift(s.co_purchase.siblings), lift(s.co_purchase.strangers));
        let _ = writeln!(
            text,
            "{:<8}  {:>6}  {:>10}  {:>26}  {:>26}  {both:>18}",
            s.source,
            s.prefix_length,
            s.pairs,
            cosine(s.semantic),
            cosine(s.behavior)
        );
    }
    let most = report.similarity.iter().map(|s| s.pairs_compared.max(s.strangers_compared)).max();
    let _ = writeln!(
        text,
        "(siblings / strangers; in brackets how often siblings are the closer; cosines of at most {} \
         pairs of each, co-purchase as a multiple of chance)",
        most.unwrap_or(0)
    );
    text
}

/// The tokens with most items, level by level.
fn most_used(report: &IndexReport) -> Vec<&TokenReport> {
    let mut found = Vec::new();
    for level in report.tokens.chunk_by(|a, b| a.meaning.token[..2] == b.meaning.token[..2]) {
        let mut level: Vec<&TokenReport> = level.iter().collect();
        level.sort_by_key(|token| Reverse(token.meaning.items));
        found.extend(level.into_iter().take(TOKENS));
    }
    found
}

/// One token.
pub(super) fn token(token: &TokenReport) -> String {
    let meaning = &token.meaning;
    let mut text = format!(
        "{}: {}, {} items in {} of the tree's nodes\n",
        meaning.token, meaning.source, meaning.items, token.prefixes
    );
    for (what, items) in [("most central", &token.central), ("bought most", &meaning.typical)] {
        if !items.is_empty() {
            let _ = writeln!(text, "{what}:");
        }
        for NamedItem { item, raw_id, title } in items {
            let _ = writeln!(text, "  {item:>8}  {}  {title}", raw_id.as_deref().unwrap_or(""));
        }
    }
    text
}

/// The items that show best what a token stands for.
pub(super) fn examples(token: &TokenReport) -> &[NamedItem] {
    if token.central.is_empty() { &token.meaning.typical } else { &token.central }
}

/// New items and their places.
pub(super) fn added(run: &Run, items: &[AddedItem]) -> String {
    let mut text = format!("{}: {} new items\n", run.dir().display(), items.len());
    for AddedItem { named, tokens, nearest } in items {
        let raw_id = named.raw_id.as_deref().unwrap_or("");
        let _ = writeln!(
            text,
            "{:>8}  {raw_id}  {}  {}\n          like {}",
            named.item,
            tokens.concat(),
            named.title,
            titles(nearest)
        );
    }
    text
}

fn titles(items: &[NamedItem]) -> String {
    items.iter().map(short_title).collect::<Vec<_>>().join("; ")
}

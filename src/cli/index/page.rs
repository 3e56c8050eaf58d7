//! The report as one page that needs nothing but itself: figures and plots are in it as they are, items
//! and codes as JSON, from which its script builds tree and search.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::{chart, text};
use crate::report::html::{escape, fill};
use crate::run::{IndexReport, Inspection, Likeness, SourceTree};

const TEMPLATE: &str = include_str!("page.html");

/// Characters of a title on the page.
const TITLE: usize = 160;

/// The most ranges that cluster sizes are counted in.
const RANGES: usize = 24;

/// What the page's script works on.
#[derive(Serialize)]
struct Data {
    /// By item id.
    titles: Vec<String>,
    /// The shop's own ids, by item id.
    ids: Vec<Option<String>>,
    /// By level, then by item id.
    codes: Vec<Vec<u32>>,
    trees: Vec<SourceTree>,
    /// By token without brackets, the items that show best what it stands for.
    tokens: BTreeMap<String, Vec<u32>>,
}

pub(super) fn render(inspection: &Inspection) -> serde_json::Result<String> {
    let report = &inspection.report;
    let cut = |title: String| match title.char_indices().nth(TITLE) {
        Some((end, _)) => format!("{}…", title[..end].trim_end()),
        None => title,
    };
    let (titles, ids) = inspection.items().map(|named| (cut(named.title), named.raw_id)).unzip();
    let bare = |token: &str| token.trim_matches(['<', '>']).to_string();
    let data = Data {
        titles,
        ids,
        codes: (0..report.codes.levels.len())
            .map(|level| inspection.codes(level).collect())
            .collect(),
        trees: inspection.trees(),
        tokens: report
            .tokens
            .iter()
            .map(|token| {
                let items = text::examples(token).iter().map(|named| named.item).collect();
                (bare(&token.meaning.token), items)
            })
            .collect(),
    };
    // A `<` in a title could end the script that holds it.
    let data = serde_json::to_string(&data)?.replace('<', "\\u003c");
    Ok(fill(
        TEMPLATE,
        &[
            ("name", escape(&report.dataset)),
            ("summary", summary(report)),
            ("levels", levels(inspection)),
            ("similarity", similarity(report)),
            ("data", data),
        ],
    ))
}

fn summary(report: &IndexReport) -> String {
    let codes = &report.codes;
    let mut html = String::new();
    if let Some(import) = &report.imported {
        let _ = write!(
            html,
            "<p>Imported from {}, where {} items share an index.</p>",
            escape(&import.file),
            import.items_sharing
        );
    }
    html += "<dl class=\"tiles\">";
    for (name, value) in [
        ("items", codes.num_items.to_string()),
        ("item tokens", codes.num_tokens.to_string()),
        ("items for each token (compression)", format!("{:.2}", codes.compression_ratio)),
        ("tokens an item", codes.levels.len().to_string()),
        ("collisions", codes.collisions.to_string()),
    ] {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    html + "</dl>"
}

fn levels(inspection: &Inspection) -> String {
    let report = &inspection.report;
    let mut html = String::from(
        "<div class=\"scroll\"><table><thead><tr><th>level</th><th class=\"word\">source</th>\
         <th>codes used</th><th>entropy, bits</th><th>of the most</th><th>items a code<br>\
         min / median / max</th><th>items a prefix<br>min / median / max</th></tr></thead><tbody>",
    );
    let mut charts = String::from("<div class=\"charts\">");
    for (at, level) in report.codes.levels.iter().enumerate() {
        let (letter, source) = (level.level, level.source);
        let (code, prefix) = (level.items_per_code, level.items_per_prefix);
        let _ = write!(
            html,
            "<tr><td>{letter}</td><td class=\"word {source}\">{source}</td><td>{}</td>\
             <td>{:.2}</td><td>{:.1} %</td><td>{} / {} / {}</td><td>{} / {} / {}</td></tr>",
            level.used_codes,
            level.entropy_bits,
            100.0 * level.entropy_share,
            code.min,
            code.median,
            code.max,
            prefix.min,
            prefix.median,
            prefix.max
        );
        let of_level = |token: &&crate::run::TokenReport| {
            token.meaning.token.starts_with(&format!("<{letter}_"))
        };
        let tokens: Vec<_> = report.tokens.iter().filter(of_level).collect();
        let name = |token: Option<&&crate::run::TokenReport>| {
            token.map_or(String::new(), |t| escape(&t.meaning.token))
        };
        let counts: Vec<usize> = tokens.iter().map(|token| token.meaning.items).collect();
        let ends = [name(tokens.first()), name(tokens.last())];
        let what = format!("items of each code of level {letter}");
        let _ = write!(
            charts,
            "<figure class=\"{source}\"><figcaption><b>level {letter}</b>: items of each code\
             </figcaption>{}</figure>",
            chart::bars(&what, "code", [&ends[0], &ends[1]], &counts)
        );
        let (least, most, clusters) = chart::histogram(&inspection.cluster_sizes(at), RANGES);
        let what = format!("prefixes of each size up to level {letter}");
        let _ = write!(
            charts,
            "<figure class=\"{source}\"><figcaption><b>level {letter}</b>: clusters of each size\
             </figcaption>{}</figure>",
            chart::bars(
                &what,
                "items in the cluster",
                [&least.to_string(), &most.to_string()],
                &clusters
            )
        );
    }
    html + "</tbody></table></div>\
            <p class=\"quiet\">A prefix is an item's codes of one source up to a level; its items are a \
            cluster. The most entropy that a number of codes can have is that of equally used ones.</p>"
        + &charts
        + "</div>"
}

fn similarity(report: &IndexReport) -> String {
    if report.similarity.is_empty() {
        return "<p>No two items share a first code.</p>".into();
    }
    let compared = report.similarity.iter().map(|s| s.pairs_compared.max(s.strangers_compared));
    let mut html = format!(
        "<p>Are items that share the first codes of a source more alike than strangers, whose first \
         codes differ? By cosine of their semantic (z<sup>s</sup>) and behavior (z<sup>b</sup>) \
         embeddings, over at most {} drawn pairs of each kind, and by how often the same user takes \
         both in training, as a multiple of chance, over all pairs. The dashed line is the strangers'.\
         </p><div class=\"charts\">",
        compared.max().unwrap_or(0)
    );
    let mut table = String::from(
        "<div class=\"scroll\"><table><thead><tr><th>source</th><th>codes shared</th><th>pairs</th>\
         <th>siblings closer, z<sup>s</sup></th><th>siblings closer, z<sup>b</sup></th>\
         <th>co-purchase, siblings</th><th>strangers</th></tr></thead><tbody>",
    );
    for of_source in report.similarity.chunk_by(|a, b| a.source == b.source) {
        let source = of_source[0].source;
        let likeness = |get: fn(&crate::run::Similarity) -> Option<Likeness>| {
            let found: Vec<Likeness> = of_source.iter().filter_map(get).collect();
            let baseline = found.first().map(|l| l.strangers);
            (found.iter().map(|l| l.siblings).collect::<Vec<_>>(), baseline)
        };
        let lifts = of_source.iter().filter_map(|s| s.co_purchase.siblings).collect();
        for (what, (values, baseline)) in [
            ("cosine in the semantic embedding", likeness(|s| s.semantic)),
            ("cosine in the behavior embedding", likeness(|s| s.behavior)),
            ("co-purchase, times chance", (lifts, of_source[0].co_purchase.strangers)),
        ] {
            if !values.is_empty() {
                let label = format!("{what}, by {source} codes shared");
                let plot = chart::points(&label, "codes shared", &values, baseline);
                let _ = write!(
                    html,
                    "<figure class=\"{source}\"><figcaption><b>{source} codes</b>: {what}\
                     </figcaption>{plot}</figure>"
                );
            }
        }
        for s in of_source {
            let closer = |l: Option<Likeness>| {
                l.map_or_else(|| "–".into(), |l| format!("{:.1} %", 100.0 * l.closer))
            };
            let lift = |l: Option<f64>| l.map_or_else(|| "–".into(), |l| format!("{l:.2}"));
            let _ = write!(
                table,
                "<tr><td class=\"word {source}\">{source}</td><td>{}</td><td>{}</td><td>{}</td>\
                 <td>{}</td><td>{}</td><td>{}</td></tr>",
                s.prefix_length,
                s.pairs,
                closer(s.semantic),
                closer(s.behavior),
                lift(s.co_purchase.siblings),
                lift(s.co_purchase.strangers)
            );
        }
    }
    html + "</div><h3>The same in figures</h3>"
        + &table
        + "</tbody></table></div><p class=\"quiet\">Siblings closer: how often a pair of siblings has \
           the larger cosine than a pair of strangers; 50 % says that sharing the codes means nothing.</p>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_asks_for_nothing_from_outside() {
        let values =
            ["name", "summary", "levels", "similarity", "data"].map(|n| (n, n.to_uppercase()));
        let page = fill(TEMPLATE, &values);
        for (name, value) in values {
            assert!(page.contains(&value) && !page.contains(&format!("{{{{{name}}}}}")), "{name}");
        }
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        let nested = fill(TEMPLATE, &[("name", "{{data}}".into()), ("data", "secret".into())]);
        assert!(nested.contains("<h1>Item index of {{data}}</h1>"));
    }
}

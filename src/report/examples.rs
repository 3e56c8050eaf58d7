//! Some users, drawn by the run's seed: what they took, what the model recommended and why, and what they took next.

use std::fmt::Write as _;

use super::Reported;
use super::duel::{Duel, Lacking, Pair, history, place};
use super::html::{escape, missing, remark};
use crate::data::ItemId;
use crate::run::{Explainer, NamedItem, SharedPrefix, Stage, TokenMeaning};
use crate::{Result, rng};

/// How many users are shown.
const USERS: usize = 5;

/// Recommended items that are shown of each, and the places in which a target counts as found.
const TOP: usize = 10;

/// Items of a history that are shown, the last ones.
const HISTORY: usize = 12;

/// Letters of a title that are shown.
const TITLE: usize = 110;

/// Who found a target among its first places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Won,
    Lost,
    Both,
    Neither,
}

impl Kind {
    fn of(pair: &Pair) -> Self {
        let found = |rank: Option<usize>| rank.is_some_and(|rank| rank <= TOP);
        let model = found(pair.model.rank());
        match &pair.baseline {
            Some(baseline) => match (model, found(baseline.rank())) {
                (true, false) => Self::Won,
                (false, true) => Self::Lost,
                (true, true) => Self::Both,
                (false, false) => Self::Neither,
            },
            None if model => Self::Won,
            None => Self::Lost,
        }
    }
}

/// The places in `kinds` of those that are shown: two won, two lost and one that both found, as far as there are such;
/// others in place of those that are missing.
fn chosen(kinds: &[Kind], seed: u64) -> Vec<usize> {
    let drawn = |kind: Kind, most: usize| -> Vec<usize> {
        let of_kind: Vec<usize> = (0..kinds.len()).filter(|&i| kinds[i] == kind).collect();
        let mut stream = rng::stream(seed, "users of the report", &[kind as u64]);
        rng::subset(&mut stream, of_kind.len(), most).into_iter().map(|i| of_kind[i]).collect()
    };
    let wanted = [(Kind::Won, 2), (Kind::Lost, 2), (Kind::Both, 1)];
    let mut found: Vec<usize> =
        wanted.into_iter().flat_map(|(kind, most)| drawn(kind, most)).collect();
    for kind in [Kind::Neither, Kind::Both, Kind::Won, Kind::Lost] {
        for at in drawn(kind, USERS) {
            if found.len() < USERS && !found.contains(&at) {
                found.push(at);
            }
        }
    }
    found
}

pub(super) fn section(
    reported: &Reported,
    duel: &std::result::Result<Duel<'_>, Lacking>,
    several: bool,
) -> Result<String> {
    let (name, folder) = (&reported.name, &reported.folder);
    let duel = match duel {
        Ok(duel) => duel,
        Err(lacking) => return Ok(missing(lacking)),
    };
    if !reported.run.is_done(Stage::Index) {
        return Ok(missing(&format!("{name}: no index: run `llmbs --run {folder} index`")));
    }
    let explainer = reported.run.explainer()?;
    let kinds: Vec<Kind> = duel.pairs.iter().map(Kind::of).collect();
    let baseline = duel.baseline_name();
    let model = super::ranker_name(duel.model);
    let of_run = if several { format!("{name}, ") } else { String::new() };
    let beside = baseline.as_ref().map_or(String::new(), |name| format!(", beside {name}"));
    let mut html = remark(&format!(
        "{of_run}{model}{beside}; history ranked. Users are drawn by the run's seed: such that the model found the \
         next item in its first {TOP} and the baseline did not, such that it was the other way round, and others. \
         Open an item to see what its tokens stand for."
    ));
    for at in chosen(&kinds, reported.run.config().seed) {
        html += &user(reported, &explainer, &duel.pairs[at], kinds[at], baseline.as_deref());
    }
    Ok(html)
}

fn user(
    reported: &Reported,
    explainer: &Explainer<'_>,
    pair: &Pair,
    kind: Kind,
    baseline: Option<&str>,
) -> String {
    let seen = history(reported, pair.target);
    let told = |rank: Option<usize>, who: &str| match place(rank) {
        Some(place) => format!("place {place} of {who}"),
        None => format!("not among the first 20 of {who}"),
    };
    let verdict = match kind {
        Kind::Won => "<span class=\"better\">won</span>",
        Kind::Lost => "<span class=\"worse\">lost</span>",
        Kind::Both => "both found it",
        Kind::Neither => "neither found it",
    };
    let mut places = told(pair.model.rank(), "the model");
    if let (Some(name), Some(prediction)) = (baseline, &pair.baseline) {
        let _ = write!(places, "; {}", told(prediction.rank(), name));
    }
    let mut html = format!(
        "<article class=\"user\"><h3>User {}: {verdict}</h3><p class=\"quiet\">Next item: {}</p>\
         <div class=\"columns\"><div><h4>History, oldest first{}</h4><ol start=\"{}\">",
        escape(&pair.model.user),
        escape(&places),
        match seen.len().saturating_sub(HISTORY) {
            0 => String::new(),
            more => format!(", {more} before it"),
        },
        seen.len().saturating_sub(HISTORY) + 1
    );
    for &item in &seen[seen.len().saturating_sub(HISTORY)..] {
        let _ = write!(html, "<li>{}</li>", title(&explainer.named(item)));
    }
    let _ = write!(
        html,
        "</ol></div><div><h4>Recommended, with scores (probabilities)</h4><ol class=\"items\">"
    );
    let ranked = pair.model.items.iter().zip(&pair.model.scores);
    for (i, (&item, &score)) in ranked.enumerate().take(TOP) {
        let truth = item == pair.model.target;
        html += &line(explainer, item, seen, &(i + 1).to_string(), Some(score), truth);
    }
    if !pair.model.items.iter().take(TOP).any(|&item| item == pair.model.target) {
        let score = pair.model.rank().and_then(|rank| pair.model.scores.get(rank - 1));
        let place = pair.model.rank().map_or_else(|| "–".into(), |rank| rank.to_string());
        html += &line(explainer, pair.model.target, seen, &place, score.copied(), true);
    }
    html + "</ol></div></div></article>"
}

/// An item with its tokens, which say when opened what they stand for.
fn line(
    explainer: &Explainer<'_>,
    item: ItemId,
    seen: &[ItemId],
    place: &str,
    score: Option<f32>,
    truth: bool,
) -> String {
    let explanation = explainer.explain(item, seen);
    let class = if truth { " class=\"truth\"" } else { "" };
    let mut html = format!(
        "<li{class}><span class=\"place\">{place}</span> {}",
        title(&explainer.named(item))
    );
    if truth {
        html += " <span class=\"tag\">✓ taken next</span>";
    }
    html += "<details><summary>";
    for token in &explanation.tokens {
        let _ =
            write!(html, "<span class=\"token {}\">{}</span>", token.source, escape(&token.token));
    }
    if let Some(score) = score {
        let share = 100.0 * f64::from(score).exp();
        let _ = write!(html, "<span class=\"score\">{score:.3} ({share:.2} %)</span>");
    }
    html += "</summary><ul>";
    for token in &explanation.tokens {
        html += &meaning(token);
    }
    for shared in &explanation.shared {
        html += &shared_prefix(shared);
    }
    html + "</ul></details></li>"
}

/// What a token stands for, after those of its source before it.
fn meaning(token: &TokenMeaning) -> String {
    let titles: Vec<String> = token.typical.iter().map(title).collect();
    let items = match token.items {
        1 => "this item alone".to_string(),
        count => format!("{count} items, such as {}", titles.join("; ")),
    };
    format!(
        "<li><span class=\"token {}\">{}</span> {}: {items}</li>",
        token.source,
        escape(&token.token),
        token.source
    )
}

/// What of the history begins alike.
fn shared_prefix(shared: &SharedPrefix) -> String {
    if shared.tokens.is_empty() {
        return format!("<li>shares no {} token with the history</li>", shared.source);
    }
    let titles: Vec<String> = shared.history.iter().map(title).collect();
    format!(
        "<li>shares <span class=\"token {}\">{}</span> with {}</li>",
        shared.source,
        escape(&shared.tokens.concat()),
        titles.join("; ")
    )
}

/// The title of an item, or its id where it has none.
fn title(named: &NamedItem) -> String {
    if named.title.trim().is_empty() {
        let id = named.raw_id.clone().unwrap_or_else(|| named.item.to_string());
        return format!("item {}", escape(&id));
    }
    match named.title.char_indices().nth(TITLE) {
        Some((end, _)) => format!("{}…", escape(named.title[..end].trim_end())),
        None => escape(&named.title),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::{Both, Lost, Neither, Won};

    #[test]
    fn users_are_of_every_kind_and_the_seed_alone_chooses_them() {
        let kinds: Vec<Kind> = (0..400).map(|i| [Won, Lost, Both, Neither][i % 4]).collect();
        let found = chosen(&kinds, 1);
        let shown: Vec<Kind> = found.iter().map(|&at| kinds[at]).collect();
        assert_eq!(shown, [Won, Won, Lost, Lost, Both]);
        assert_eq!(found, chosen(&kinds, 1));
        assert_ne!(found, chosen(&kinds, 2));
    }

    #[test]
    fn where_a_kind_is_missing_others_are_shown_once() {
        let found = chosen(&[Won, Won, Won, Neither], 1);
        assert_eq!((found.len(), found.contains(&3)), (4, true));
        assert!(chosen(&[], 1).is_empty());
        let mut sorted = chosen(&[Lost; 9], 1);
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 5);
    }
}

//! `llmbs recommend`: one request, a file of them, or line by line, all answered by one service.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use clap::Args as ClapArgs;

use super::parquet::Table;
use super::progress::Bars;
use super::show::{self, out};
use super::switch::Switch;
use crate::data::{ItemId, Lookup, User};
use crate::files;
use crate::run::{
    Explanation, Monitor, NamedItem, Query, RecommendOptions, Recommendation, Run, Service,
    ServiceOptions, SharedPrefix, Wanted, check_beam,
};
use crate::server::{Answer, Fallback, Outcome, Request, answer, history};

/// Lines of a batch that are answered together: enough that like ones fill the model's batches.
const WINDOW: usize = 1024;

/// Characters of a title where several share a line.
const SHORT_TITLE: usize = 40;

#[derive(Debug, ClapArgs)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
#[command(group(
    clap::ArgGroup::new("whom")
        .required(true)
        .args(["user", "history", "text", "batch", "all_users", "interactive"])
))]
pub(super) struct RecommendArgs {
    /// A user of the dataset, by raw id, or by number where the dataset has no raw ids of users; the history is everything
    /// the user took
    #[arg(long, value_name = "ID")]
    pub(super) user: Option<String>,
    /// Items, oldest first, by id or by the shop's own id
    #[arg(long, value_name = "ID,ID,…")]
    pub(super) history: Option<String>,
    /// A description of what is wanted, for somebody without a history
    #[arg(long)]
    pub(super) text: Option<String>,
    /// A file of requests, a JSON object a line; the answers are JSON lines in the same order
    #[arg(long, value_name = "FILE")]
    pub(super) batch: Option<PathBuf>,
    /// Every user of the dataset who took three items or more, each after everything the user took; the answers are JSON
    /// lines, or with --out X.parquet a table with a row an item
    #[arg(long)]
    pub(super) all_users: bool,
    /// Load the model once and answer each line of stdin, a history or a JSON object, at once; an empty
    /// line ends
    #[arg(long)]
    pub(super) interactive: bool,
    /// Where the answers to --batch and --all-users go [default: stdout]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "history", "text", "interactive"])]
    pub(super) out: Option<PathBuf>,
    /// How many items; fewer where there are not as many to recommend
    #[arg(long, default_value_t = 10)]
    pub(super) top: usize,
    /// Beam width; at least --top in effect [default: eval.beam of the configuration]
    #[arg(long)]
    pub(super) beam: Option<usize>,
    /// With or without the annealing adapter [default: on for histories if there is one, off for texts]
    #[arg(long)]
    pub(super) adapter: Option<Switch>,
    /// Never recommend an item of the history
    #[arg(long)]
    pub(super) exclude_history: bool,
    /// Recommend only the items in this file: an id or shop's own id a line, # for comments
    #[arg(long, value_name = "FILE")]
    pub(super) only: Option<PathBuf>,
    /// Say what each token of an item stands for, and what of the history shares it
    #[arg(long)]
    pub(super) explain: bool,
    /// Recommend by a trained baseline in place of the model: the name of one of this run, or a folder such as
    /// runs/NAME/baseline/sasrec/seed-1
    #[arg(long, value_name = "NAME|FOLDER", conflicts_with_all = ["text", "beam", "adapter", "explain"])]
    pub(super) baseline: Option<PathBuf>,
    /// Recommend by the model and this trained baseline together, as `llmbs eval --fuse` ranks; run that first; may be
    /// given several times
    #[arg(long, value_name = "NAME|FOLDER", conflicts_with_all = ["text", "baseline"])]
    pub(super) fuse: Vec<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn recommend(run: &Run, args: &RecommendArgs, bars: &mut Bars) -> anyhow::Result<()> {
    let catalogue = run.catalogue()?;
    let lookup = Lookup::new(catalogue.dataset());
    // Whatever is mistyped is told before the model is loaded.
    let single = single(args, &lookup)?;
    if args.top == 0 {
        bail!("--top must be at least 1");
    }
    let only = args.only.as_deref().map(|path| read_items(path, &lookup)).transpose()?;
    if let Some(only) = &only {
        check_beam(args.beam, only.len())?;
    }
    let adapter = args.adapter.map(|switch| switch == Switch::On);
    let options = ServiceOptions { beam: args.beam, adapter, fuse: args.fuse.clone() };
    let load = || match &args.baseline {
        Some(dir) => run.baseline_service(&catalogue, dir),
        None => run.service(&catalogue, &options),
    };
    let defaults = RecommendOptions {
        top: args.top,
        only,
        exclude: Vec::new(),
        exclude_history: args.exclude_history,
        explain: args.explain,
    };
    if let Some(path) = args.out.as_deref() {
        if path.is_dir() {
            bail!("--out {}: is a folder, not a file", path.display());
        }
        if is_parquet(path) && (!args.all_users || args.explain) {
            bail!(
                "--out {}: a table holds the answers to --all-users, without --explain; call the file .jsonl",
                path.display()
            );
        }
    }
    if let Some(path) = &args.batch {
        let text = fs::read(path).with_context(|| path.display().to_string())?;
        let text =
            files::without_mark(text).map_err(|what| anyhow!("{}: {what}", path.display()))?;
        let service = load()?;
        let lines = (1..).zip(text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii));
        let lines: Vec<(usize, &[u8])> = lines.filter(|(_, line)| !line.is_empty()).collect();
        let read =
            |(line, text): &(usize, &[u8])| Ok(Request::from_json(text, *line, &lookup, &defaults));
        return batch(&service, &lines, &read, args, bars);
    }
    let service = load()?;
    if args.all_users {
        if !lookup.has_users() {
            bail!("{}: its users were left out: give histories, by --batch", run.dataset().name);
        }
        let short = run.dataset().short_users;
        if short > 0 {
            tracing::info!(
                "users with fewer than three interactions, who are passed over: {short}"
            );
        }
        let users: Vec<(usize, &User)> = run.dataset().users.iter().enumerate().collect();
        let ask = |&(place, user): &(usize, &User)| Request::of_user(user, place, &defaults);
        return batch(&service, &users, &ask, args, bars);
    }
    match single {
        Some(wanted) => {
            let user = args.user.as_deref().and_then(|key| lookup.place(key));
            one(&service, Query { wanted, user, options: defaults }, args)
        }
        None => interactive(&service, &lookup, &defaults, args.json),
    }
}

/// What the command line itself asks for, if it does.
fn single(args: &RecommendArgs, lookup: &Lookup) -> crate::Result<Option<Wanted>> {
    Ok(match (&args.user, &args.history, &args.text) {
        (Some(key), _, _) => Some(Wanted::History(lookup.user(key)?.items.clone())),
        (_, Some(items), _) => Some(history(items, lookup)?),
        (_, _, Some(text)) => Some(Wanted::Text(text.clone())),
        (None, None, None) => None,
    })
}

/// The items of a file: one a line, by id or raw id; blank lines and those that begin with # do not count.
fn read_items(path: &Path, lookup: &Lookup) -> anyhow::Result<Arc<[ItemId]>> {
    let text = files::read_text(path)?;
    let lines = (1..).zip(text.lines().map(str::trim));
    let mut items: Vec<ItemId> = lines
        .filter(|(_, name)| !name.is_empty() && !name.starts_with('#'))
        .map(|(line, name)| lookup.item(name).with_context(|| format!("{}:{line}", path.display())))
        .collect::<anyhow::Result<_>>()?;
    if items.is_empty() {
        bail!("{}: names no items", path.display());
    }
    items.sort_unstable();
    items.dedup();
    Ok(items.into())
}

fn one(service: &Service, query: Query, args: &RecommendArgs) -> anyhow::Result<()> {
    let items = service.answer(&[query])?.swap_remove(0)?;
    if items.len() < args.top {
        tracing::info!("there are {} items to recommend, not {}", items.len(), args.top);
    }
    if args.json { show::json(&items) } else { out(&table(&items)) }
}

/// Answers what `request` makes of each of `asked`, a line each, in their order; what cannot be answered has a
/// line that says why.
///
/// # Errors
/// At the end, if there was any such line.
fn batch<T>(
    service: &Service,
    asked: &[T],
    request: &dyn Fn(&T) -> crate::Result<Request>,
    args: &RecommendArgs,
    bars: &mut Bars,
) -> anyhow::Result<()> {
    let start = Instant::now();
    bars.begin("recommend", asked.len() as u64);
    let (mut done, mut bad, mut short, mut popular) = (0, 0, 0, 0);
    let mut first = None;
    let mut job = |keep: &mut dyn FnMut(Answer) -> io::Result<()>| -> io::Result<()> {
        for window in asked.chunks(WINDOW) {
            let requests = window.iter().map(request).collect::<crate::Result<_>>();
            let answers = requests.and_then(|requests| answer(service, requests));
            for answer in answers.map_err(io::Error::other)? {
                match &answer.outcome {
                    Outcome::Error { .. } => bad += 1,
                    Outcome::Items { fallback, is_short, .. } => {
                        popular += usize::from(fallback.is_some());
                        short += usize::from(*is_short);
                    }
                }
                keep(answer)?;
            }
            done += window.len();
            let rate = done as f64 / start.elapsed().as_secs_f64();
            bars.advance(done as u64, &format!("{rate:.1} requests/s"));
        }
        Ok(())
    };
    let line =
        |answer: Answer, out: &mut dyn Write| out.write_all(files::json_line(&answer)?.as_bytes());
    match &args.out {
        Some(path) if is_parquet(path) => files::write_with(path, |file| {
            let mut table = Table::new(file)?;
            job(&mut |answer| row(answer, &mut table, &mut first))?;
            table.finish()
        })?,
        Some(path) => files::write_with(path, |file| job(&mut |answer| line(answer, file)))?,
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            show::written(job(&mut |answer| line(answer, &mut out)).and_then(|()| out.flush()))?;
        }
    }
    bars.end();
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!("{done} requests answered in {seconds:.1} s");
    if short > 0 {
        tracing::info!("{short} answers have fewer items than were asked for: there are no more");
    }
    if popular > 0 {
        tracing::info!("{popular} answers go by popularity; their lines say why");
    }
    match first {
        Some(why) => bail!(
            "{bad} of {done} users have no rows, for they could not be answered; the first: {why}"
        ),
        None if bad > 0 => {
            bail!("{bad} of {done} requests could not be answered; their lines say why")
        }
        None => {}
    }
    Ok(())
}

/// Adds the answer for a user, by raw id, to a table; of the first who cannot be answered it notes why.
fn row<W: Write + Send>(
    answer: Answer,
    table: &mut Table<W>,
    first: &mut Option<String>,
) -> io::Result<()> {
    let user = answer.fields.get("user").map_or("\"\"", |user| user.get());
    let user: String = serde_json::from_str(user)?;
    match answer.outcome {
        Outcome::Items { items, .. } => table.push(&user, items),
        Outcome::Error { error, .. } => {
            first.get_or_insert_with(|| format!("user {user:?}: {error}"));
            Ok(())
        }
    }
}

/// Whether the answers go into a table.
fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"))
}

/// Answers each line of stdin as it comes, up to an empty one.
fn interactive(
    service: &Service,
    lookup: &Lookup,
    defaults: &RecommendOptions,
    json: bool,
) -> anyhow::Result<()> {
    tracing::info!("ready: ids joined by commas, or a JSON object; an empty line ends");
    for (line, text) in (1..).zip(io::stdin().lock().split(b'\n')) {
        let text = text.context("stdin")?;
        let text = text.trim_ascii();
        if text.is_empty() {
            break;
        }
        let request = Request::from_line(text, line, lookup, defaults);
        for answer in answer(service, vec![request])? {
            let text = match &answer.outcome {
                _ if json => files::json_line(&answer)?,
                Outcome::Items { fallback, items, .. } => {
                    if let Some(Fallback { reason, .. }) = fallback {
                        tracing::info!("by popularity: {reason}");
                    }
                    table(items)
                }
                Outcome::Error { error, .. } => {
                    show::fault(error);
                    continue;
                }
            };
            out(&text)?;
        }
    }
    Ok(())
}

/// Recommended items, a line each, and under each what there is to explain.
fn table(items: &[Recommendation]) -> String {
    let width = items.iter().filter_map(|r| Some(r.named.raw_id.as_ref()?.chars().count())).max();
    let width = width.unwrap_or(0).max(2);
    let mut text = format!(
        "{:>4}  {:>8}  {:<width$}  {:>9}  {:>11}  title\n",
        "rank", "item", "id", "score", "probability"
    );
    for (rank, r) in (1..).zip(items) {
        let NamedItem { item, raw_id, title } = &r.named;
        let raw_id = raw_id.as_deref().unwrap_or("");
        let decimal = |value: Option<f32>, places| {
            value.map_or_else(|| "–".into(), |value| format!("{value:.places$}"))
        };
        let (score, probability) = (decimal(r.score, 4), decimal(r.probability, 6));
        let _ = writeln!(
            text,
            "{rank:>4}  {item:>8}  {raw_id:<width$}  {score:>9}  {probability:>11}  {title}"
        );
        if let Some(known) = &r.scored_as {
            let _ =
                writeln!(text, "      new; scored as item {}, {}", known.item, short_title(known));
        }
        if let Some(explanation) = &r.explanation {
            text += &explained(explanation);
        }
    }
    text
}

fn explained(explanation: &Explanation) -> String {
    let titles = |items: &[NamedItem]| items.iter().map(short_title).collect::<Vec<_>>().join("; ");
    let mut text = String::new();
    for token in &explanation.tokens {
        let items = if token.items == 1 { "item" } else { "items" };
        let _ = writeln!(
            text,
            "      {:<8}  {:<8}  {:>5} {items:<5}  {}",
            token.token,
            token.source,
            token.items,
            titles(&token.typical)
        );
    }
    for SharedPrefix { source, tokens, history } in &explanation.shared {
        let _ = if tokens.is_empty() {
            writeln!(text, "      shares no {source} token with the history")
        } else {
            writeln!(text, "      shares {source} {} with {}", tokens.concat(), titles(history))
        };
    }
    text
}

/// What to call an item among others: its title, cut to a few words, or else its id.
pub(super) fn short_title(named: &NamedItem) -> String {
    match (&named.raw_id, named.title.as_str()) {
        (Some(raw_id), "") => raw_id.clone(),
        (None, "") => format!("item {}", named.item),
        (_, title) if title.chars().count() <= SHORT_TITLE => title.to_string(),
        (_, title) => {
            let cut: String = title.chars().take(SHORT_TITLE - 1).collect();
            format!("{}…", cut.trim_end())
        }
    }
}

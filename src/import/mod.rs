//! Datasets out of the files that shops and other programs have, into the project's own folder.
//!
//! A file goes through one of the readers (`table`, `json`, `parquet`, `lcrec`, `sequences`), which yield
//! rows of fields by role; `collect` makes numbers of ids and keeps 16 bytes an interaction in `log`; rules
//! drop some; `catalogue` keeps the texts of the items that are left. No file is ever whole in memory: the
//! most that is kept are 24 bytes an interaction, each raw id (its length and some 50 bytes), and the texts
//! of the items that are kept.
//!
//! Users are numbered in order of first appearance in the files, items in order of first appearance when
//! one user after another is read, or, where all items of a file of items are kept, in its order.

mod append;
mod catalogue;
mod collect;
mod columns;
mod faults;
mod ids;
mod json;
mod lcrec;
mod log;
mod names;
mod parquet;
mod plan;
mod python;
mod record;
mod report;
mod sequences;
mod source;
mod table;
mod text;
mod time;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use catalogue::Keep;
use collect::Collector;
use columns::{Texts, Wanted};
use faults::Faults;
use log::Sequences;
use plan::{Plan, Planned, Shape};
use record::Take;
use source::{Counter, Input};

use crate::data::{self, Item, ItemId, UserTexts, Wish};
use crate::files::Place;
use crate::{Error, Result, invalid};

pub use append::append;
pub use columns::Columns;
pub use log::Dropped;
pub use plan::Format;
pub use record::Role;
pub use report::{Appended, Report};
pub use source::LONGEST_LINE;
pub use time::TimeKind;

/// What to import, and by which rules.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "rules that are on or off")]
pub struct Request {
    /// Files or folders of interactions, one after another.
    pub sources: Vec<PathBuf>,
    /// Files of item texts; without any, those that belong to the sources' format, or the sources' rows.
    pub items: Vec<PathBuf>,
    /// The format of the sources, where it is not to be told from them.
    pub format: Option<Format>,
    /// Which column is which.
    pub columns: Columns,
    /// Tables have no header: columns are called 1, 2, 3 and on, and the id in one of items is the first.
    pub no_header: bool,
    /// A quote is a character like any other.
    pub no_quotes: bool,
    /// Skip and count bad lines.
    pub lenient: bool,
    /// Keep users and items with so many interactions at least, iteratively.
    pub core: u32,
    /// Keep what a user took more than once.
    pub keep_duplicates: bool,
    /// Leave out interactions rated lower.
    pub min_rating: Option<f64>,
    /// Leave out items without text.
    pub drop_textless: bool,
    /// Keep the items of the files of items that are in no interaction.
    pub all_items: bool,
    /// Keep texts as they are.
    pub raw_texts: bool,
}

impl Request {
    /// `source` by the default rules.
    pub fn new(source: impl Into<PathBuf>) -> Self {
        Self {
            sources: vec![source.into()],
            items: Vec::new(),
            format: None,
            columns: Columns::default(),
            no_header: false,
            no_quotes: false,
            lenient: false,
            core: 1,
            keep_duplicates: false,
            min_rating: None,
            drop_textless: false,
            all_items: false,
            raw_texts: false,
        }
    }

    /// How many bytes there are to read, as far as is known before.
    pub fn bytes(&self) -> u64 {
        let size = |path: &PathBuf| {
            fs::metadata(path).map_or(0, |m| if m.is_file() { m.len() } else { 0 })
        };
        self.sources.iter().chain(&self.items).map(size).sum()
    }
}

/// Imports into the folder `out`; `show` is told now and then how many bytes were read.
///
/// # Errors
/// If the folder is there and `force` is not given or it holds anything but a dataset; if a file cannot be
/// read, or has a bad line and the request is not lenient; if nothing is left.
pub fn import(
    request: &Request,
    out: &Path,
    force: bool,
    show: &mut dyn FnMut(u64),
) -> Result<Report> {
    let place = Place::claim(out, force, data::is_dataset_file)?;
    let name = match out.file_name().and_then(|name| name.to_str()) {
        Some(name) => name.to_string(),
        None => invalid!("{}: give a folder a name of its own", out.display()),
    };
    let counter = Counter::default();
    let mut gathered = Gathered::read(request, &counter, show)?;
    let items = gathered.collector.items.len();
    let (mut outside_core, mut core_rounds) = gathered.sequences.core(request.core, items);
    gathered.read_items(request, &counter, show)?;
    let Gathered { collector, sequences, .. } = &mut gathered;
    let mut textless = Dropped::default();
    if request.drop_textless {
        if collector.catalogue.is_empty() {
            invalid!(
                "--drop-textless would drop every item: there are no texts; name a file with --items"
            );
        }
        textless = sequences.drop_items(|item| collector.catalogue.has_text(item), items);
        // The core of what is left is that of what has text: a core of a part lies within that of the whole.
        let (more, rounds) = sequences.core(request.core, items);
        outside_core += more;
        core_rounds += rounds;
    }
    if sequences.len() == 0 {
        gathered.nothing_left()?;
    }

    let Gathered { plan, collector, sequences, .. } = &mut gathered;
    let chosen = numbered(request, collector, sequences);
    write(plan, collector, sequences, &chosen, place, &name)?;

    let taken: Vec<usize> = taking(sequences, collector).map(|(_, items)| items.len()).collect();
    let without_text = chosen.iter().filter(|&&id| !collector.catalogue.has_text(id)).count();
    Ok(Report {
        core: request.core,
        outside_core,
        core_rounds,
        drop_textless: request.drop_textless,
        textless,
        keeps_times: sequences.has_times(),
        users: taken.len() as u64,
        short_users: taken.iter().filter(|&&items| items < 3).count() as u64,
        items: chosen.len() as u64,
        items_without_text: without_text as u64,
        interactions: sequences.len() as u64,
        ..gathered.report(request)
    })
}

/// What was read of the sources, in order and by number.
struct Gathered {
    plan: Plan,
    collector: Collector,
    faults: Faults,
    sequences: Sequences,
    /// Interactions that were not rated too low.
    read: u64,
    tied: u64,
    duplicates: u64,
}

impl Gathered {
    /// Reads the interactions of `request`.
    fn read(request: &Request, counter: &Counter, show: &mut dyn FnMut(u64)) -> Result<Self> {
        let plan = Plan::of(request)?;
        if plan.items.is_empty() && request.all_items {
            invalid!("--all-items keeps the items of a file of items; name one with --items");
        }
        let mut faults = Faults::new(request.lenient);
        let mut collector = Collector::default();
        collector.min_rating = request.min_rating;
        collector.catalogue.raw = request.raw_texts;
        read_interactions(request, &plan, counter, &mut collector, &mut faults, show)?;
        if collector.clock.has_units() {
            tracing::warn!(
                "times are told in several units, such as seconds and milliseconds: they order interactions as the \
                 numbers that they are, and are not kept"
            );
        }
        if collector.clock.are_dates() {
            tracing::warn!(
                "times are dates without signs, such as 20240131: they order interactions as the numbers that they \
                 are, and are not kept; spell them 2024-01-31"
            );
        }
        let second = collector.clock.second();
        let seconds = move |time: i64| time.div_euclid(second.unwrap_or(1));
        let kept: Option<&dyn Fn(i64) -> i64> =
            if second.is_some() { Some(&seconds) } else { None };
        let log = std::mem::take(&mut collector.log);
        let (mut sequences, tied) = log.into_sequences(collector.users.len(), kept);
        let read = sequences.len() as u64;
        let items = collector.items.len();
        let duplicates = if request.keep_duplicates { 0 } else { sequences.drop_duplicates(items) };
        Ok(Self { plan, collector, faults, sequences, read, tied, duplicates })
    }

    /// Reads the texts of the items that are left.
    fn read_items(
        &mut self,
        request: &Request,
        counter: &Counter,
        show: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let Self { plan, collector, faults, sequences, .. } = self;
        let counts = sequences.counts(collector.items.len());
        read_items(request, plan, counter, collector, &counts, faults, show)
    }

    /// The files of interactions, in one line.
    fn sources(&self) -> String {
        paths(&self.plan.sources).join(", ")
    }

    /// Interactions read, those rated too low included.
    fn rows(&self) -> u64 {
        self.read + self.collector.low_rated
    }

    /// What was read and left out; nothing yet of what is written.
    fn report(self, request: &Request) -> Report {
        let Collector { catalogue, clock, low_rated, .. } = &self.collector;
        let tied = if clock.kind.is_some() { self.tied } else { 0 };
        Report {
            sources: paths(&self.plan.sources),
            item_files: paths(&self.plan.items),
            rows: self.rows(),
            min_rating: request.min_rating,
            below_min_rating: *low_rated,
            keep_duplicates: request.keep_duplicates,
            duplicates: self.duplicates,
            times: clock.kind,
            days: clock.dates(),
            tied,
            tied_share: tied as f64 / self.read.max(1) as f64,
            listed_items: catalogue.rows,
            listed_twice: catalogue.twice,
            unused_items: catalogue.unused,
            all_items: request.all_items,
            skipped_lines: self.faults.count,
            first_faults: self.faults.first,
            ..Report::default()
        }
    }

    /// The error where no interaction is left, which says where they went.
    fn nothing_left(&self) -> Result<()> {
        let files = self.sources();
        if self.rows() == 0 {
            let first = self
                .faults
                .first
                .first()
                .map_or(String::new(), |fault| format!("; the first: {fault}"));
            invalid!(
                "{files}: no interaction could be read; {} lines were skipped{first}",
                self.faults.count
            );
        }
        Err(Error::Invalid(format!(
            "{files}: nothing is left of {} interactions ({} rated too low); ask for less with --min-rating, \
             --core or without --drop-textless",
            self.rows(),
            self.collector.low_rated
        )))
    }
}

fn paths(planned: &[Planned]) -> Vec<String> {
    planned.iter().map(|file| file.path.display().to_string()).collect()
}

/// The users with any interactions, by raw id, and what they took.
fn taking<'a>(
    sequences: &'a Sequences,
    collector: &'a Collector,
) -> impl Iterator<Item = (&'a str, &'a [u32])> {
    let all = (0..).zip(sequences.users()).filter(|(_, items)| !items.is_empty());
    all.map(|(user, items)| (collector.users.name(user), items))
}

/// Writes the dataset; `chosen` are its items in the order of their numbers.
fn write(
    plan: &Plan,
    collector: &Collector,
    sequences: &Sequences,
    chosen: &[u32],
    place: Place,
    name: &str,
) -> Result<()> {
    let users = || taking(sequences, collector);
    let items = || {
        chosen.iter().map(|&id| {
            let raw_id = Some(collector.items.name(id).to_string());
            Item { raw_id, ..collector.catalogue.get(id).cloned().unwrap_or_default() }
        })
    };
    let numbers: HashMap<&str, u32> =
        chosen.iter().map(|&id| collector.items.name(id)).zip(0..).collect();
    let user_texts = texts_of_users(plan, |raw| numbers.get(raw).copied())?;
    place.build(|dir| {
        if let Some(texts) = &user_texts {
            let of_user = |(number, (raw, _)): (usize, (&str, _))| Some((number, texts.get(raw)?));
            data::write_user_texts(dir, name, users().enumerate().filter_map(of_user))?;
        }
        let times = sequences.times().into_iter().flatten().filter(|times| !times.is_empty());
        Ok(data::write_named(dir, name, users, items, times)?)
    })
}

fn read_interactions(
    request: &Request,
    plan: &Plan,
    counter: &Counter,
    collector: &mut Collector,
    faults: &mut Faults,
    show: &mut dyn FnMut(u64),
) -> Result<()> {
    // The title of a review is none of the item's, and a file of items has the better texts.
    let texts = match request.format {
        _ if !plan.items.is_empty() => Texts::Elsewhere,
        Some(Format::Amazon) => Texts::Named,
        _ => Texts::Usual,
    };
    let wanted = Wanted::interactions(&request.columns, request.min_rating.is_some(), texts);
    wanted.check()?;
    for file in &plan.sources {
        let mut since = 0;
        let mut take = |record: &record::Record<'_>| {
            since += 1;
            if since % 8192 == 0 {
                show(counter.bytes());
            }
            collector.take(record)
        };
        read_file(file, counter, &wanted, &mut take, faults)?;
    }
    collector.settle().map_err(Error::Invalid)
}

fn read_items(
    request: &Request,
    plan: &Plan,
    counter: &Counter,
    collector: &mut Collector,
    counts: &[u32],
    faults: &mut Faults,
    show: &mut dyn FnMut(u64),
) -> Result<()> {
    let keep = Keep { counts, all: request.all_items };
    for file in &plan.items {
        let mut columns = request.columns.clone();
        // Without names of columns none is usual; other files have names all the same.
        if columns.item_key.is_none() && matches!(file.shape, Shape::Table(table) if !table.header)
        {
            columns.item_key = Some("1".into());
        }
        let wanted = Wanted::items(&columns);
        wanted.check()?;
        let mut since = 0;
        let Collector { catalogue, items, .. } = &mut *collector;
        let mut take = |record: &record::Record<'_>| {
            since += 1;
            if since % 1024 == 0 {
                show(counter.bytes());
            }
            catalogue.listed(record, items, keep)
        };
        read_file(file, counter, &wanted, &mut take, faults)?;
    }
    Ok(())
}

/// Reads a file by its shape.
fn read_file(
    file: &Planned,
    counter: &Counter,
    wanted: &Wanted,
    take: &mut Take<'_>,
    faults: &mut Faults,
) -> Result<()> {
    let open = || Input::open(&file.path, counter);
    match file.shape {
        Shape::Table(dialect) => table::read(open()?, dialect, wanted, take, faults),
        Shape::Objects => json::read(open()?, wanted, take, faults),
        Shape::Parquet => parquet::read(&file.path, counter, wanted, take, faults),
        Shape::LcrecInter => lcrec::read(open()?, &file.names, take, faults),
        Shape::LcrecItem => lcrec::read_items(open()?, &file.names, take, faults),
        Shape::Sequences => sequences::read(open()?, &file.names, take, faults),
        Shape::PlainText => sequences::read_plain_text(open()?, take, faults),
    }
}

/// The items that are written, in the order of their new numbers, by which `sequences` goes from then on.
fn numbered(request: &Request, collector: &Collector, sequences: &mut Sequences) -> Vec<u32> {
    let mut numbers = vec![u32::MAX; collector.items.len()];
    let mut chosen = Vec::new();
    let mut choose = |item: u32| {
        let number = &mut numbers[item as usize];
        if *number == u32::MAX {
            *number = chosen.len() as u32;
            chosen.push(item);
        }
    };
    if request.all_items {
        let catalogue = &collector.catalogue;
        let kept = |&item: &u32| !request.drop_textless || catalogue.has_text(item);
        catalogue.listed.iter().copied().filter(kept).for_each(&mut choose);
    }
    sequences.users().flatten().copied().for_each(choose);
    sequences.renumber(&numbers);
    chosen
}

/// What LC-Rec's files say about users, by raw id, items by their new numbers, which `item_of` says of raw ids; `None`
/// where there are no such files.
fn texts_of_users(
    plan: &Plan,
    item_of: impl Fn(&str) -> Option<ItemId>,
) -> Result<Option<HashMap<String, UserTexts>>> {
    let mut found: Option<HashMap<String, UserTexts>> = None;
    for source in plan.sources.iter().filter(|source| source.shape == Shape::LcrecInter) {
        let Some(path) = data::beside(&source.path, ".inter.json", ".user.json") else { continue };
        let wrong = |what: String| Error::Invalid(format!("{}: {what}", path.display()));
        for (user, texts) in data::read_user_texts(&path)? {
            let raw = source.names.user(&user).map_err(wrong)?.to_string();
            let wish = texts.wish.map(|wish| -> Result<Option<Wish>> {
                let number = wish.item.to_string();
                let item = source.names.item(&number).map_err(wrong)?;
                // An item that went takes the search for it along.
                Ok(item_of(item).map(|item| Wish { item, ..wish }))
            });
            let wish = wish.transpose()?.flatten();
            found.get_or_insert_default().insert(raw, UserTexts { wish, ..texts });
        }
    }
    Ok(found)
}

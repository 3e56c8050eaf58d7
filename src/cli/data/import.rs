//! `llmbs data import`: what can be typed, and what is printed.

use std::path::PathBuf;

use clap::Args;

use crate::cli::progress::Bars;
use crate::cli::show;
use crate::import::{self, Appended, Columns, Format, Request, Role};
use crate::run::Monitor;

/// Make a dataset folder out of a shop's log, or of another program's files
///
/// Formats: CSV, TSV, JSON lines and Parquet with named columns; Amazon reviews of 2014, 2018 and 2023 with
/// their metadata; RecBole (.inter, .item); LC-Rec folders; user_sequence.txt with item_plain_text.txt;
/// S3-Rec. All but Parquet may be compressed (.gz, .zst). Raw ids are kept as they are spelt. docs/import.md
/// has every rule.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches")]
#[expect(clippy::doc_markdown, reason = "printed as it stands")]
pub(in crate::cli) struct ImportArgs {
    /// Files or folders of interactions, one after another
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// csv, tsv, jsonl, parquet, amazon, recbole, lcrec, user-sequence or s3rec [default: told from names
    /// and contents]
    #[arg(long)]
    format: Option<Format>,
    /// Item texts: CSV, TSV, JSON lines, Parquet, Amazon metadata, .item, .item.json or item_plain_text.txt
    /// [default: the file that belongs to the format, else columns of SOURCE]
    #[arg(long, value_name = "FILE")]
    items: Vec<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Tables have no header: columns are called 1, 2, 3 and on
    #[arg(long)]
    no_header: bool,
    /// In tables a quote is a character like any other
    #[arg(long)]
    no_quotes: bool,
    #[command(flatten)]
    rules: RuleArgs,
    /// Stop at the first bad line and say where it is (the default)
    #[arg(long, conflicts_with = "lenient")]
    strict: bool,
    /// Skip bad lines; they are counted and the first ten shown
    #[arg(long)]
    lenient: bool,
    /// Replace the dataset that is in the folder
    #[arg(long)]
    force: bool,
    /// Append new days to the dataset in the folder; users and items keep their numbers, and known interactions
    /// are skipped
    #[arg(long, conflicts_with_all = ["force", "core", "drop_textless"])]
    append: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Which column is which. Without an option the usual names are tried, such as user_id.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "printed as it stands")]
struct ColumnArgs {
    /// Column of the user [default: user_id, user, reviewerID, uid, customer_id, customer,
    /// visitor_id]
    #[arg(long, value_name = "COLUMN")]
    user: Option<String>,
    /// Column of the item [default: item_id, item, parent_asin, asin, product_id, product, sku,
    /// article_id, movie_id, iid]
    #[arg(long, value_name = "COLUMN")]
    item: Option<String>,
    /// Column of the time [default: timestamp, time, unixReviewTime, datetime, date, event_time,
    /// created_at, ts]
    #[arg(long, value_name = "COLUMN")]
    time: Option<String>,
    /// Column of the rating, which --min-rating needs [default: rating, overall, stars, score]
    #[arg(long, value_name = "COLUMN", requires = "min_rating")]
    rating: Option<String>,
    /// Column of the item's title [default: title, item_name, product_name, movie_title; in the files of --items
    /// name, too]
    #[arg(long, value_name = "COLUMN")]
    title: Option<String>,
    /// Column of its description [default: description, desc]
    #[arg(long, value_name = "COLUMN")]
    description: Option<String>,
    /// Column of its brand [default: brand, store, manufacturer]
    #[arg(long, value_name = "COLUMN")]
    brand: Option<String>,
    /// Column of its categories [default: categories, category, genres, genre]
    #[arg(long, value_name = "COLUMN")]
    categories: Option<String>,
    /// Column of the item's id in the files of --items [default: what --item says, a usual name, or id]
    #[arg(long, value_name = "COLUMN")]
    item_key: Option<String>,
}

/// What is left out.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches")]
struct RuleArgs {
    /// Keep users and items with at least so many interactions, iteratively; research uses 5
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    core: u32,
    /// Keep every interaction of a user with an item, not the first alone
    #[arg(long)]
    keep_duplicates: bool,
    /// Leave out interactions rated lower
    #[arg(long, value_name = "RATING", allow_negative_numbers = true, value_parser = finite)]
    min_rating: Option<f64>,
    /// Leave out items without any text
    #[arg(long)]
    drop_textless: bool,
    /// Keep items of the items file that are in no interaction, and number items in its order
    #[arg(long)]
    all_items: bool,
    /// Keep texts as they are: do not decode HTML entities, drop tags and join lines
    #[arg(long)]
    raw_texts: bool,
}

fn finite(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| "a rating is a finite number".into())
}

/// Imports, with a bar of the bytes read, and prints the report.
pub(in crate::cli) fn run(args: &ImportArgs, bars: &mut Bars) -> anyhow::Result<()> {
    let request = request(args);
    bars.begin("import, bytes", request.bytes());
    let mut show = |done| bars.advance(done, "");
    let report = if args.append {
        import::append(&request, &args.out, &mut show)
    } else {
        import::import(&request, &args.out, args.force, &mut show)
    };
    bars.end();
    let report = report?;
    if args.json {
        return show::json(&report);
    }
    let is_new = |new: &Appended| new.interactions > 0 || new.items > 0;
    let what =
        if report.appended.as_ref().is_none_or(is_new) { "wrote" } else { "nothing new for" };
    show::out(&format!("{report}{what} {}\n", args.out.display()))
}

fn request(args: &ImportArgs) -> Request {
    let mut columns = Columns::default();
    let names = &args.columns;
    for (role, name) in [
        (Role::User, &names.user),
        (Role::Item, &names.item),
        (Role::Time, &names.time),
        (Role::Rating, &names.rating),
        (Role::Title, &names.title),
        (Role::Description, &names.description),
        (Role::Brand, &names.brand),
        (Role::Categories, &names.categories),
    ] {
        columns.set(role, name.clone());
    }
    columns.item_key.clone_from(&names.item_key);
    Request {
        sources: args.sources.clone(),
        items: args.items.clone(),
        format: args.format,
        columns,
        no_header: args.no_header,
        no_quotes: args.no_quotes,
        lenient: args.lenient,
        core: args.rules.core,
        keep_duplicates: args.rules.keep_duplicates,
        min_rating: args.rules.min_rating,
        drop_textless: args.rules.drop_textless,
        all_items: args.rules.all_items,
        raw_texts: args.rules.raw_texts,
    }
}

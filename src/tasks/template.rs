//! Templates as text with places to fill, and the item texts that fill them.

use rayon::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::data::{Item, ItemId, TextField};
use crate::text::TextEncoder;
use crate::{Result, invalid};

/// The templates shipped with the program.
const SHIPPED: &str = include_str!("templates.toml");

/// Those for texts about users, which few datasets have.
const FOR_USERS: &str = include_str!("user-templates.toml");

/// What a template asks of the model, and in which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Sequence recommendation (SRT): history to next item.
    Sequence,
    /// Semantic reconstruction: text to index.
    TextToIndex,
    /// Semantic reconstruction: index to text.
    IndexToText,
    /// Preference reconstruction: history to text of the next item.
    HistoryToText,
    /// Preference reconstruction: titles of the history to the next item.
    TitlesToIndex,
    /// Preference reconstruction: history to what the user prefers.
    HistoryToPreference,
    /// Preference reconstruction: what the user prefers, and the history, to the next item.
    PreferenceToIndex,
    /// Preference reconstruction: what the user was looking for to the item.
    QueryToIndex,
}

/// One part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    /// The history's item tokens, with this between items.
    History(String),
    /// Titles of the history, with this between them.
    Titles(String),
    Index,
    Field(TextField),
    /// A text about the user.
    OfUser,
}

/// A template, taken apart.
#[derive(Debug, Clone)]
pub(super) struct Template {
    pub(super) input: Vec<Piece>,
    pub(super) output: Vec<Piece>,
}

impl Template {
    /// The text fields the template needs of its item.
    pub(super) fn fields(&self) -> impl Iterator<Item = TextField> {
        self.input.iter().chain(&self.output).filter_map(|piece| match piece {
            Piece::Field(field) => Some(*field),
            _ => None,
        })
    }

    /// Whether the response is text, which ends with EOS, and not an index, which does not.
    pub(super) fn answers_in_text(&self) -> bool {
        !self.output.contains(&Piece::Index)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    input: String,
    output: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    sequence: Vec<Source>,
    text_to_index: Vec<Source>,
    index_to_text: Vec<Source>,
    history_to_text: Vec<Source>,
    titles_to_index: Vec<Source>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct UserFile {
    history_to_preference: Vec<Source>,
    preference_to_index: Vec<Source>,
    query_to_index: Vec<Source>,
}

/// All templates, by direction.
#[derive(Debug, Clone)]
pub(super) struct Templates {
    by_direction: [Vec<Template>; 8],
}

impl Templates {
    /// The shipped templates.
    pub(super) fn shipped() -> Result<Self> {
        let file: File = read(SHIPPED, "templates.toml")?;
        let of_users: UserFile = read(FOR_USERS, "user-templates.toml")?;
        let parsed = |sources: Vec<Source>| -> Result<Vec<Template>> {
            sources
                .into_iter()
                .map(|s| Ok(Template { input: parse(&s.input)?, output: parse(&s.output)? }))
                .collect()
        };
        Ok(Self {
            by_direction: [
                parsed(file.sequence)?,
                parsed(file.text_to_index)?,
                parsed(file.index_to_text)?,
                parsed(file.history_to_text)?,
                parsed(file.titles_to_index)?,
                parsed(of_users.history_to_preference)?,
                parsed(of_users.preference_to_index)?,
                parsed(of_users.query_to_index)?,
            ],
        })
    }

    pub(super) fn of(&self, direction: Direction) -> &[Template] {
        &self.by_direction[direction as usize]
    }
}

fn read<T: DeserializeOwned>(text: &str, name: &str) -> Result<T> {
    match toml::from_str(text) {
        Ok(file) => Ok(file),
        Err(e) => invalid!("tasks/{name}: {e}"),
    }
}

/// The words of the shipped templates that a dataset, perhaps with texts about users, calls for; for a tokenizer to
/// be learnt on.
pub fn template_texts(with_user_texts: bool) -> Result<Vec<String>> {
    let templates = Templates::shipped()?;
    let of_items = &templates.by_direction[..Direction::HistoryToPreference as usize];
    let called = if with_user_texts { &templates.by_direction[..] } else { of_items };
    let pieces =
        called.iter().flatten().flat_map(|template| template.input.iter().chain(&template.output));
    let texts = pieces.filter_map(|piece| match piece {
        Piece::Text(text) => Some(text.clone()),
        _ => None,
    });
    Ok(texts.collect())
}

/// Splits a template's text at its placeholders.
fn parse(text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        if !before.is_empty() {
            pieces.push(Piece::Text(before.into()));
        }
        let Some((name, after)) = after.split_once('}') else {
            invalid!("tasks/templates.toml: {text:?} opens a placeholder without closing it");
        };
        pieces.push(match name {
            "titles" => Piece::Titles(";".into()),
            "index" => Piece::Index,
            "preference" | "query" => Piece::OfUser,
            "title" => Piece::Field(TextField::Title),
            "description" => Piece::Field(TextField::Description),
            "brand" => Piece::Field(TextField::Brand),
            "categories" => Piece::Field(TextField::Categories),
            _ => match name.strip_prefix("history") {
                Some("") => Piece::History(String::new()),
                Some(separator) => Piece::History(separator.into()),
                None => invalid!("tasks/templates.toml: {text:?} has the unknown {{{name}}}"),
            },
        });
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    Ok(pieces)
}

/// Every item's text fields, cut; each brings its own leading space.
#[derive(Debug, Clone)]
pub(super) struct ItemTexts {
    fields: Vec<[String; 4]>,
}

impl ItemTexts {
    pub(super) fn cut(items: &[Item], encoder: &TextEncoder, max_tokens: usize) -> Result<Self> {
        let cut = |item: &Item| -> Result<[String; 4]> {
            let mut fields: [String; 4] = Default::default();
            for (field, text) in TextField::ALL.into_iter().zip(&mut fields) {
                *text = cut_field(field.of(item), encoder, max_tokens)?;
            }
            Ok(fields)
        };
        Ok(Self { fields: items.par_iter().map(cut).collect::<Result<_>>()? })
    }

    /// The text of a field, empty where the item lacks it.
    pub(super) fn field(&self, item: ItemId, field: TextField) -> &str {
        &self.fields[item as usize][field as usize]
    }
}

/// A text as a field has it: with its leading space, cut after `max_tokens`; empty for an empty text.
pub(super) fn cut_field(text: &str, encoder: &TextEncoder, max_tokens: usize) -> Result<String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(String::new());
    }
    encoder.cut(&format!(" {text}"), max_tokens)
}

//! Templates: their text form, and their form as token ids, ready to be filled.

use serde::Deserialize;

use crate::data::{Item, ItemId};
use crate::text::Tokenizer;
use crate::{Result, invalid};

/// The templates shipped with the program.
const SHIPPED: &str = include_str!("templates.toml");

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
}

/// A text field of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The product's name.
    Title,
    /// A sentence or more about it.
    Description,
    /// Who makes it.
    Brand,
    /// Where the shop files it.
    Categories,
}

impl Field {
    pub(super) const ALL: [Self; 4] =
        [Self::Title, Self::Description, Self::Brand, Self::Categories];

    pub(super) fn of(self, item: &Item) -> &str {
        match self {
            Self::Title => &item.title,
            Self::Description => &item.description,
            Self::Brand => &item.brand,
            Self::Categories => &item.categories,
        }
    }
}

/// One part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(Vec<u32>),
    /// The history's item tokens, with these ids between items.
    History(Vec<u32>),
    /// Titles of the history, with these ids between them.
    Titles(Vec<u32>),
    Index,
    Field(Field),
}

/// A template as token ids with places to fill.
#[derive(Debug, Clone)]
pub(super) struct Template {
    pub(super) input: Vec<Piece>,
    pub(super) output: Vec<Piece>,
}

impl Template {
    /// The text fields the template needs of its item.
    pub(super) fn fields(&self) -> impl Iterator<Item = Field> {
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

/// All templates, by direction.
#[derive(Debug, Clone)]
pub(super) struct Templates {
    by_direction: [Vec<Template>; 5],
}

impl Templates {
    /// The shipped templates, encoded once.
    pub(super) fn shipped(tokenizer: &Tokenizer) -> Result<Self> {
        let file: File = match toml::from_str(SHIPPED) {
            Ok(file) => file,
            Err(e) => invalid!("tasks/templates.toml: {e}"),
        };
        let encode = |sources: Vec<Source>| -> Result<Vec<Template>> {
            let encode = |text: &str| parse(text, tokenizer);
            sources
                .into_iter()
                .map(|s| Ok(Template { input: encode(&s.input)?, output: encode(&s.output)? }))
                .collect()
        };
        Ok(Self {
            by_direction: [
                encode(file.sequence)?,
                encode(file.text_to_index)?,
                encode(file.index_to_text)?,
                encode(file.history_to_text)?,
                encode(file.titles_to_index)?,
            ],
        })
    }

    pub(super) fn of(&self, direction: Direction) -> &[Template] {
        &self.by_direction[direction as usize]
    }
}

/// The words of the shipped templates, for a tokenizer to be learnt on.
pub fn template_texts() -> impl Iterator<Item = &'static str> {
    let quoted = SHIPPED.lines().filter_map(|line| line.split_once(" = \"")?.1.strip_suffix('"'));
    quoted.flat_map(|text| text.split(['{', '}']).step_by(2)).filter(|text| !text.is_empty())
}

/// Splits a template's text at its placeholders.
fn parse(text: &str, tokenizer: &Tokenizer) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        if !before.is_empty() {
            pieces.push(Piece::Text(tokenizer.encode(before)?));
        }
        let Some((name, after)) = after.split_once('}') else {
            invalid!("tasks/templates.toml: {text:?} opens a placeholder without closing it");
        };
        pieces.push(match name {
            "titles" => Piece::Titles(tokenizer.encode(";")?),
            "index" => Piece::Index,
            "title" => Piece::Field(Field::Title),
            "description" => Piece::Field(Field::Description),
            "brand" => Piece::Field(Field::Brand),
            "categories" => Piece::Field(Field::Categories),
            _ => match name.strip_prefix("history") {
                Some("") => Piece::History(Vec::new()),
                Some(separator) => Piece::History(tokenizer.encode(separator)?),
                None => invalid!("tasks/templates.toml: {text:?} has the unknown {{{name}}}"),
            },
        });
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(tokenizer.encode(rest)?));
    }
    Ok(pieces)
}

/// The ids of every item's text fields, truncated; each brings its own leading space.
#[derive(Debug, Clone)]
pub(super) struct ItemTexts {
    fields: Vec<[Vec<u32>; 4]>,
}

impl ItemTexts {
    pub(super) fn encode(items: &[Item], tokenizer: &Tokenizer, max_tokens: usize) -> Result<Self> {
        let encode = |item: &Item| -> Result<[Vec<u32>; 4]> {
            let mut fields: [Vec<u32>; 4] = Default::default();
            for (field, ids) in Field::ALL.into_iter().zip(&mut fields) {
                *ids = encode_field(field.of(item), tokenizer, max_tokens)?;
            }
            Ok(fields)
        };
        Ok(Self { fields: items.iter().map(encode).collect::<Result<_>>()? })
    }

    /// Ids of a field, empty where the item lacks it.
    pub(super) fn field(&self, item: ItemId, field: Field) -> &[u32] {
        &self.fields[item as usize][field as usize]
    }
}

/// The ids of a text as a field has them: with its leading space, truncated; none for an empty text.
pub(super) fn encode_field(
    text: &str,
    tokenizer: &Tokenizer,
    max_tokens: usize,
) -> Result<Vec<u32>> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut ids = tokenizer.encode(&format!(" {text}"))?;
    ids.truncate(max_tokens);
    Ok(ids)
}

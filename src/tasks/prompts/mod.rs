//! Building one sample: a filled template, or a user's whole sequence.

use super::template::{Direction, ItemTexts, Piece, Template, Templates, cut_field};
use crate::data::{Dataset, ItemId, TextField};
use crate::rng::{self, Rng};
use crate::text::{Part, TextEncoder, Tokenizer};
use crate::{Error, Result, invalid};

/// One row of training input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Position id of every token.
    pub positions: Vec<u32>,
    /// (index of the token whose hidden state predicts, id it has to predict)
    pub labels: Vec<(u32, u32)>,
    /// (index of a `<con>`, item it follows); such a token is seen by nobody but itself.
    pub contrast: Vec<(u32, ItemId)>,
    /// Whether it is sequence recommendation: all labels are item tokens.
    pub recommends: bool,
    /// Of sequence recommendation: the items, the history's and then the targets.
    pub items: Vec<ItemId>,
    /// Which of them is the first target: the labels are the tokens of the items from here on.
    pub first_target: usize,
}

impl Sample {
    /// The tokens before the response.
    pub fn prompt(&self) -> &[u32] {
        let end = self.labels.first().map_or(self.ids.len(), |(at, _)| *at as usize + 1);
        &self.ids[..end]
    }

    /// The tokens to be predicted, the end of a text included.
    pub fn response(&self) -> impl Iterator<Item = u32> {
        self.labels.iter().map(|(_, id)| *id)
    }

    /// Marks it as sequence recommendation of `item` after `history`.
    fn recommend(&mut self, history: &[ItemId], item: ItemId) {
        self.recommends = true;
        self.items = [history, &[item]].concat();
        self.first_target = history.len();
    }

    fn push(&mut self, ids: &[u32]) {
        for &id in ids {
            self.positions.push(self.next_position());
            self.ids.push(id);
        }
    }

    /// Appends tokens, each a label of the token before it.
    fn push_labeled(&mut self, ids: &[u32]) {
        for &id in ids {
            let predictor = self.last_visible();
            self.push(&[id]);
            self.labels.push((predictor, id));
        }
    }

    /// Appends `<con>` for `item`; the next token takes the same position.
    fn push_contrast(&mut self, con: u32, item: ItemId) {
        self.contrast.push((self.ids.len() as u32, item));
        self.positions.push(self.next_position());
        self.ids.push(con);
    }

    fn ends_in_contrast(&self) -> bool {
        self.contrast.last().is_some_and(|(at, _)| *at as usize + 1 == self.ids.len())
    }

    /// Index of the last token others may see.
    fn last_visible(&self) -> u32 {
        (self.ids.len() - 1 - usize::from(self.ends_in_contrast())) as u32
    }

    fn next_position(&self) -> u32 {
        match self.positions.last() {
            None => 0,
            Some(&last) => last + u32::from(!self.ends_in_contrast()),
        }
    }
}

/// Everything needed to turn items and histories into token ids.
///
/// A filled template has the ids of its whole text, items excepted: texts are joined first and encoded
/// then.
#[derive(Debug, Clone)]
pub struct Prompts {
    bos: Option<u32>,
    eos: u32,
    con: u32,
    items: Vec<Vec<u32>>,
    encoder: TextEncoder,
    texts: Option<ItemTexts>,
    templates: Templates,
    /// BOS, if any, and the beginning of the first SRT and the first text → index template.
    instruction: Vec<u32>,
    text_instruction: Vec<u32>,
    max_text_tokens: usize,
    max_titles: usize,
}

impl Prompts {
    /// - `items`: the item tokens of every item, as vocabulary ids;
    /// - `con`: the id of `<con>`;
    /// - `max_text_tokens`: where a text field is cut;
    /// - `max_titles`: how many of a history's latest titles a prompt spells out.
    pub fn new(
        tokenizer: &Tokenizer,
        dataset: &Dataset,
        items: Vec<Vec<u32>>,
        con: u32,
        max_text_tokens: usize,
        max_titles: usize,
    ) -> Result<Self> {
        let encoder = tokenizer.text_encoder().clone();
        let texts = dataset
            .has_text()
            .then(|| ItemTexts::cut(&dataset.items, &encoder, max_text_tokens))
            .transpose()?;
        let templates = Templates::shipped()?;
        let first = |direction| templates.of(direction).first().map(|t| t.input.as_slice());
        let Some([Piece::Text(instruction), Piece::History(separator)]) =
            first(Direction::Sequence)
        else {
            invalid!(
                "tasks/templates.toml: the first sequence template must be an instruction and \
                 {{history}}, with nothing after it"
            );
        };
        if !separator.is_empty() {
            invalid!("tasks/templates.toml: the first sequence template puts text between items");
        }
        let Some([Piece::Text(text_instruction), Piece::Field(TextField::Title), Piece::Text(_)]) =
            first(Direction::TextToIndex)
        else {
            invalid!(
                "tasks/templates.toml: the first text-to-index template must be an instruction, \
                 {{title}}, and what leads over to the index"
            );
        };
        let bos = tokenizer.bos();
        let start = |text| Ok::<_, Error>(bos.into_iter().chain(encoder.encode(text)?).collect());
        let (instruction, text_instruction) = (start(instruction)?, start(text_instruction)?);
        Ok(Self {
            bos,
            eos: tokenizer.eos(),
            con,
            items,
            encoder,
            texts,
            templates,
            instruction,
            text_instruction,
            max_text_tokens,
            max_titles,
        })
    }

    /// The same with another text in place of the instruction of template 0 where a whole sequence follows it.
    pub fn begun_with(self, text: &str) -> Result<Self> {
        let instruction = self.bos.into_iter().chain(self.encoder.encode(text)?).collect();
        Ok(Self { instruction, ..self })
    }

    /// The tokens every SRT prompt starts with: BOS, if any, and the instruction of template 0.
    pub fn instruction(&self) -> Vec<u32> {
        self.instruction.clone()
    }

    /// The item tokens of `history`, as they follow [`Prompts::instruction`].
    pub fn history(&self, history: &[ItemId]) -> Vec<u32> {
        history.iter().flat_map(|&item| &self.items[item as usize]).copied().collect()
    }

    /// What text → index prompts start with, unless the tokenizer writes its end otherwise before a text.
    pub fn text_instruction(&self) -> Vec<u32> {
        self.text_instruction.clone()
    }

    /// The text → index prompt of template 0 for `text`, which stands where an item's title stood in
    /// training and is cut where a title is.
    pub fn text(&self, text: &str) -> Result<Vec<u32>> {
        let text = cut_field(text, &self.encoder, self.max_text_tokens)?;
        let parts =
            self.templates.of(Direction::TextToIndex)[0].input.iter().map(|piece| match piece {
                Piece::Text(template) => Part::Text(template),
                _ => Part::Text(&text),
            });
        let ids = self.encoder.encode_parts(&parts.collect::<Vec<_>>())?;
        Ok(self.bos.into_iter().chain(ids).collect())
    }

    /// Whether items have texts, so that the text tasks can be trained.
    pub fn has_texts(&self) -> bool {
        self.texts.is_some()
    }

    /// One row for a run of `items`, with a loss on every item from `first_target` (at least 1) on,
    /// each followed by a `<con>` where `contrast` is set.
    pub fn sequence(&self, items: &[ItemId], first_target: usize, contrast: bool) -> Sample {
        let mut sample =
            Sample { recommends: true, items: items.to_vec(), first_target, ..Sample::default() };
        sample.push(&self.instruction);
        for (i, &item) in items.iter().enumerate() {
            let tokens = &self.items[item as usize];
            if i < first_target {
                sample.push(tokens);
            } else {
                sample.push_labeled(tokens);
                if contrast {
                    sample.push_contrast(self.con, item);
                }
            }
        }
        sample
    }

    /// A filled template of `direction` for `item` after `history`; `None` where no template fits the
    /// texts the item has. With `contrast`, an index response is followed by `<con>`.
    pub fn sample(
        &self,
        direction: Direction,
        history: &[ItemId],
        item: ItemId,
        contrast: bool,
        stream: &mut Rng,
    ) -> Result<Option<Sample>> {
        self.sample_about(direction, history, item, "", contrast, stream)
    }

    /// [`Prompts::sample`] of a direction that asks or answers with a text about the user, which is cut where the
    /// texts of items are.
    pub fn user_sample(
        &self,
        direction: Direction,
        history: &[ItemId],
        item: ItemId,
        text: &str,
        stream: &mut Rng,
    ) -> Result<Option<Sample>> {
        let text = cut_field(text, &self.encoder, self.max_text_tokens)?;
        self.sample_about(direction, history, item, &text, false, stream)
    }

    fn sample_about(
        &self,
        direction: Direction,
        history: &[ItemId],
        item: ItemId,
        text: &str,
        contrast: bool,
        stream: &mut Rng,
    ) -> Result<Option<Sample>> {
        let fitting: Vec<&Template> =
            self.templates.of(direction).iter().filter(|t| self.fits(t, item)).collect();
        let pick = (rng::uniform(stream) * fitting.len() as f64) as usize;
        let Some(template) = fitting.get(pick) else { return Ok(None) };
        let mut sample = self.fill(template, history, item, text, contrast)?;
        if direction == Direction::Sequence {
            sample.recommend(history, item);
        }
        Ok(Some(sample))
    }

    /// A filled template 0 of SRT: what `sequence` holds of one target, as a sample of its own.
    pub fn first_sequence_sample(
        &self,
        history: &[ItemId],
        item: ItemId,
        contrast: bool,
    ) -> Result<Sample> {
        let template = &self.templates.of(Direction::Sequence)[0];
        let mut sample = self.fill(template, history, item, "", contrast)?;
        sample.recommend(history, item);
        Ok(sample)
    }

    /// The first template of `direction` that answers with `field` alone, filled for `item` after
    /// `history`; `None` where there is no such template or the item lacks the text.
    pub fn first_text_sample(
        &self,
        direction: Direction,
        field: TextField,
        history: &[ItemId],
        item: ItemId,
    ) -> Result<Option<Sample>> {
        let template = self.text_template(direction, field, item);
        template.map(|template| self.fill(template, history, item, "", false)).transpose()
    }

    /// Whether [`Prompts::first_text_sample`] has one for `item`, without making it.
    pub fn has_text_sample(&self, direction: Direction, field: TextField, item: ItemId) -> bool {
        self.text_template(direction, field, item).is_some()
    }

    /// The first template of `direction` that answers with `field` alone, if it fits the texts that `item` has.
    fn text_template(
        &self,
        direction: Direction,
        field: TextField,
        item: ItemId,
    ) -> Option<&Template> {
        let answers = |t: &&Template| t.output == [Piece::Field(field)];
        let template = self.templates.of(direction).iter().find(answers);
        template.filter(|template| self.fits(template, item))
    }

    /// Whether some template of `direction` fits the texts that `item` has.
    pub(super) fn has_template(&self, direction: Direction, item: ItemId) -> bool {
        self.templates.of(direction).iter().any(|template| self.fits(template, item))
    }

    /// Whether `item` has the texts that `template` asks for.
    fn fits(&self, template: &Template, item: ItemId) -> bool {
        template.fields().all(|field| !self.field(item, field).is_empty())
    }

    fn fill(
        &self,
        template: &Template,
        history: &[ItemId],
        item: ItemId,
        text: &str,
        contrast: bool,
    ) -> Result<Sample> {
        let parts = |pieces| self.parts(pieces, history, item, text);
        let (input, output) =
            self.encoder.encode_pair(&parts(&template.input), &parts(&template.output))?;
        let mut sample = Sample::default();
        sample.push(self.bos.as_slice());
        sample.push(&input);
        sample.push_labeled(&output);
        if template.answers_in_text() {
            sample.push_labeled(&[self.eos]);
        } else if contrast {
            sample.push_contrast(self.con, item);
        }
        Ok(sample)
    }

    fn parts<'a>(
        &'a self,
        pieces: &'a [Piece],
        history: &[ItemId],
        item: ItemId,
        text: &'a str,
    ) -> Vec<Part<'a>> {
        let ids = |item: ItemId| Part::Ids(&self.items[item as usize]);
        let mut parts = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => parts.push(Part::Text(text)),
                Piece::Index => parts.push(ids(item)),
                Piece::OfUser => parts.push(Part::Text(text)),
                Piece::Field(field) => parts.push(Part::Text(self.field(item, *field))),
                Piece::History(separator) => {
                    for (i, &item) in history.iter().enumerate() {
                        if i > 0 {
                            parts.push(Part::Text(separator));
                        }
                        parts.push(ids(item));
                    }
                }
                Piece::Titles(separator) => {
                    let titles =
                        history.iter().rev().map(|&item| self.field(item, TextField::Title));
                    let mut latest: Vec<&str> =
                        titles.filter(|title| !title.is_empty()).take(self.max_titles).collect();
                    latest.reverse();
                    for (i, title) in latest.into_iter().enumerate() {
                        if i > 0 {
                            parts.push(Part::Text(separator));
                        }
                        parts.push(Part::Text(title));
                    }
                }
            }
        }
        parts
    }

    /// Whether an item of `history` has a title.
    pub(super) fn has_titles(&self, history: &[ItemId]) -> bool {
        history.iter().any(|&item| !self.field(item, TextField::Title).is_empty())
    }

    fn field(&self, item: ItemId, field: TextField) -> &str {
        self.texts.as_ref().map_or("", |texts| texts.field(item, field))
    }
}

#[cfg(test)]
mod tests;

//! Building one sample: a filled template, or a user's whole sequence.

use super::template::{Direction, Field, ItemTexts, Piece, Template, Templates, encode_field};
use crate::data::{Dataset, ItemId};
use crate::rng::{self, Rng};
use crate::text::Tokenizer;
use crate::{Result, invalid};

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
#[derive(Debug, Clone)]
pub struct Prompts {
    bos: Option<u32>,
    eos: u32,
    con: u32,
    items: Vec<Vec<u32>>,
    texts: Option<ItemTexts>,
    templates: Templates,
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
        let texts = dataset
            .has_text()
            .then(|| ItemTexts::encode(&dataset.items, tokenizer, max_text_tokens));
        let prompts = Self {
            bos: tokenizer.bos(),
            eos: tokenizer.eos(),
            con,
            items,
            texts: texts.transpose()?,
            templates: Templates::shipped(tokenizer)?,
            max_text_tokens,
            max_titles,
        };
        let first = |direction| prompts.templates.of(direction).first().map(|t| t.input.as_slice());
        match first(Direction::Sequence) {
            Some([Piece::Text(_), Piece::History(separator)]) if separator.is_empty() => {}
            _ => invalid!(
                "tasks/templates.toml: the first sequence template must be an instruction and \
                 {{history}}, with nothing after it"
            ),
        }
        match first(Direction::TextToIndex) {
            Some([Piece::Text(_), Piece::Field(Field::Title), Piece::Text(_)]) => Ok(prompts),
            _ => invalid!(
                "tasks/templates.toml: the first text-to-index template must be an instruction, \
                 {{title}}, and what leads over to the index"
            ),
        }
    }

    /// The tokens every SRT prompt starts with: BOS, if any, and the instruction of template 0.
    pub fn instruction(&self) -> Vec<u32> {
        self.start_of(Direction::Sequence)
    }

    /// The item tokens of `history`, as they follow [`Prompts::instruction`].
    pub fn history(&self, history: &[ItemId]) -> Vec<u32> {
        history.iter().flat_map(|&item| &self.items[item as usize]).copied().collect()
    }

    /// The tokens every text → index prompt starts with: BOS, if any, and the start of template 0.
    pub fn text_instruction(&self) -> Vec<u32> {
        self.start_of(Direction::TextToIndex)
    }

    /// The rest of that prompt, in which `text` stands where an item's title stood in training; cut
    /// where a title is.
    pub fn text(&self, text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let mut ids = encode_field(text, tokenizer, self.max_text_tokens)?;
        if let Some(Piece::Text(after)) = self.templates.of(Direction::TextToIndex)[0].input.last()
        {
            ids.extend(after);
        }
        Ok(ids)
    }

    /// BOS, if any, and the text that template 0 of `direction` begins with.
    fn start_of(&self, direction: Direction) -> Vec<u32> {
        let mut ids: Vec<u32> = self.bos.into_iter().collect();
        if let Some(Piece::Text(text)) = self.templates.of(direction)[0].input.first() {
            ids.extend(text);
        }
        ids
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
        sample.push(&self.instruction());
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
    ) -> Option<Sample> {
        let fitting: Vec<&Template> =
            self.templates.of(direction).iter().filter(|t| self.fits(t, item)).collect();
        let pick = (rng::uniform(stream) * fitting.len() as f64) as usize;
        let mut sample = self.fill(fitting.get(pick)?, history, item, contrast);
        if direction == Direction::Sequence {
            sample.recommend(history, item);
        }
        Some(sample)
    }

    /// A filled template 0 of SRT: what `sequence` holds of one target, as a sample of its own.
    pub fn first_sequence_sample(
        &self,
        history: &[ItemId],
        item: ItemId,
        contrast: bool,
    ) -> Sample {
        let template = &self.templates.of(Direction::Sequence)[0];
        let mut sample = self.fill(template, history, item, contrast);
        sample.recommend(history, item);
        sample
    }

    /// The first template of `direction` that answers with `field` alone, filled for `item` after
    /// `history`; `None` where there is no such template or the item lacks the text.
    pub fn first_text_sample(
        &self,
        direction: Direction,
        field: Field,
        history: &[ItemId],
        item: ItemId,
    ) -> Option<Sample> {
        let answers = |t: &&Template| t.output == [Piece::Field(field)];
        let template = self.templates.of(direction).iter().find(answers)?;
        self.fits(template, item).then(|| self.fill(template, history, item, false))
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
        contrast: bool,
    ) -> Sample {
        let mut sample = Sample::default();
        sample.push(self.bos.as_slice());
        sample.push(&self.pieces(&template.input, history, item));
        sample.push_labeled(&self.pieces(&template.output, history, item));
        if template.answers_in_text() {
            sample.push_labeled(&[self.eos]);
        } else if contrast {
            sample.push_contrast(self.con, item);
        }
        sample
    }

    fn pieces(&self, pieces: &[Piece], history: &[ItemId], item: ItemId) -> Vec<u32> {
        let mut ids = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => ids.extend(text),
                Piece::Index => ids.extend(&self.items[item as usize]),
                Piece::Field(field) => ids.extend(self.field(item, *field)),
                Piece::History(separator) => {
                    for (i, &item) in history.iter().enumerate() {
                        if i > 0 {
                            ids.extend(separator);
                        }
                        ids.extend(&self.items[item as usize]);
                    }
                }
                Piece::Titles(separator) => {
                    let latest = &history[history.len().saturating_sub(self.max_titles)..];
                    for (i, &item) in latest.iter().enumerate() {
                        if i > 0 {
                            ids.extend(separator);
                        }
                        ids.extend(self.field(item, Field::Title));
                    }
                }
            }
        }
        ids
    }

    fn field(&self, item: ItemId, field: Field) -> &[u32] {
        self.texts.as_ref().map_or(&[], |texts| texts.field(item, field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Item, User};

    #[test]
    fn a_text_is_asked_about_as_titles_were_in_training() {
        let title = "Rose body wash with a very long name".to_string();
        let item = Item { title: title.clone(), ..Item::default() };
        let user = User { id: "0".into(), items: vec![0; 3] };
        let dataset = Dataset::new("shop", vec![user], vec![item]).unwrap();
        let tokenizer = Tokenizer::train_bpe([title.as_str()].into_iter(), 300).unwrap();
        for longest in [4, 100] {
            let items = vec![vec![7, 8]];
            let prompts = Prompts::new(&tokenizer, &dataset, items, 9, longest, 1).unwrap();
            let template = &prompts.templates.of(Direction::TextToIndex)[0];
            let trained = prompts.fill(template, &[], 0, false);
            let mut asked = prompts.text_instruction();
            asked.extend(prompts.text(&format!(" {title}\n"), &tokenizer).unwrap());
            assert_eq!(asked, trained.ids[..trained.ids.len() - 2]);
        }
    }
}

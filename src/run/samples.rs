//! Training samples as text, for those who train elsewhere.

use serde::Serialize;

use super::artifacts::{extended_backbone, load_index};
use super::{Run, Stage};
use crate::Result;
use crate::tasks::{Layout, Mixture, SrtSelection, TasksConfig};

/// What a model is asked, and what it should answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrainingSample {
    /// `sequence`, `semantic` or `preference`.
    pub task: &'static str,
    /// Instruction and history or text.
    pub prompt: String,
    /// Item tokens or text.
    pub response: String,
}

impl Run {
    /// Gives the samples of an epoch of stage `initial` to `take`, task by task: those of sequence recommendation
    /// with one target each, whatever the layout in training, and worded as there.
    ///
    /// # Errors
    /// If there is no index, or `take` fails.
    pub fn training_samples(
        &self,
        epoch: u64,
        take: &mut dyn FnMut(TrainingSample) -> Result<()>,
    ) -> Result<()> {
        self.require(Stage::Index)?;
        let index = load_index(self)?;
        let (_, _, tokens) = extended_backbone(self, &index)?;
        self.require_same(&[Stage::Index])?;
        let tasks = self.config.train.tasks;
        let prompts = tokens.prompts(&self.dataset, &tasks)?;
        let (history, seed) = (self.config.data.history, self.config.seed);
        let sequence = TasksConfig { layout: Layout::Prefix, ..tasks.sequence_only() };
        let none = SrtSelection { max_samples: Some(0), ..SrtSelection::default() };
        let of_tasks = [
            ("sequence", sequence, SrtSelection::default()),
            ("semantic", TasksConfig { semantic: tasks.semantic, ..sequence }, none),
            ("preference", TasksConfig { preference: tasks.preference, ..sequence }, none),
        ];
        for (task, config, selection) in of_tasks {
            let mixture = Mixture::new(&config, &self.dataset, &prompts, history, seed);
            for mut sample in (Mixture { selection, ..mixture }).epoch(epoch)? {
                if sample.recommends && tasks.layout == Layout::Sequence {
                    sample = prompts.sequence(&sample.items, sample.first_target, false);
                }
                let response: Vec<u32> = sample.response().collect();
                let prompt = tokens.tokenizer.decode(sample.prompt())?;
                let response = tokens.tokenizer.decode(&response)?;
                take(TrainingSample { task, prompt, response })?;
            }
        }
        Ok(())
    }
}

//! The training tasks: how interactions and texts become instructions and responses.
//!
//! - sequence recommendation (SRT): history of indices to the next item's index, laid out as one
//!   sample a target (`prefix`) or one sample a user (`sequence`);
//! - semantic reconstruction: index to text and back;
//! - preference reconstruction: history to the text of what comes next, and titles to the next index.
//!
//! (Paper, section 3.3.2.) Samples are token ids from the start: nothing is written as text and parsed
//! back. They come from [`Dataset::train`](crate::data::Dataset::train) alone, never from a validation or
//! test item.

mod config;
mod mixture;
mod prompts;
mod template;

pub use config::{Instruction, Layout, SrtSelection, TasksConfig};
pub use mixture::{Mixture, Seen};
pub use prompts::{Prompts, Sample};
pub use template::{Direction, template_texts};

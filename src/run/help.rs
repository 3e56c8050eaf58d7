//! What the other ranks do while rank 0 does what the program does alone: they wait for its calls to work that all
//! share.

use candle_core::Device;

use super::eval::EvalRequest;
use super::stages::index::{help_embed, help_embed_behavior, help_warm_up};
use super::stages::{anneal, initial};
use super::work::{Call, Work, wait_for_all};
use super::{Run, Silent};
use crate::config::RunConfig;
use crate::interrupt::Listener;
use crate::ranks::Ranks;
use crate::{Error, Result};

/// Lets the other ranks go, which are in [`help`].
pub fn let_go(ranks: &dyn Ranks) -> Result<()> {
    ranks.broadcast_value(None::<Call>).map(drop)
}

/// Does what rank 0 calls for, until it lets go; for the other ranks.
///
/// # Errors
/// What went wrong; rank 0 is waiting then, and has to be ended.
pub fn help(ranks: &dyn Ranks, device: &Device) -> Result<()> {
    // Whether a signal stops them all is for rank 0 to say.
    let _signals = Listener::new();
    while let Some(call) = ranks.broadcast_value(None::<Call>)? {
        let outcome = call.answer(device);
        wait_for_all(ranks, &outcome);
        match outcome {
            Ok(()) | Err(Error::Interrupted { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Call {
    fn answer(self, device: &Device) -> Result<()> {
        let config = RunConfig::parse(&self.config, "the configuration of rank 0", &[])?;
        let run = Run::open(&self.dir, config, device.clone())?;
        match self.work {
            Work::WarmUp { state } => help_warm_up(&run, &state),
            Work::Embed => help_embed(&run),
            Work::Behavior { state } => help_embed_behavior(&run, &state),
            Work::Baseline { name, seed, state } => run.help_baseline(&name, seed, &state),
            Work::Initial { before } => {
                let before = before.map(|dir| run.open_before(&dir)).transpose()?;
                initial::run(&run, before.as_ref(), &mut Silent).map(drop)
            }
            Work::Anneal => anneal::run(&run, &mut Silent).map(drop),
            Work::Evaluate { split, adapter, beam, limit, fuse, before } => {
                let (fuse, before) = (&fuse[..], before.as_deref());
                run.help_evaluate(EvalRequest { split, adapter, beam, limit, fuse, before })
            }
        }
    }
}

//! `llmbs run`: all stages, and how good the model is beside what it has to be better than.

use std::fmt::Write as _;
use std::slice;

use super::eval::{Column, Shown, adapters, evaluation, of_adapter, table, verdict};
use super::progress::Bars;
use super::show::{self, out};
use crate::data::Split;
use crate::run::{Baseline, BaselineRequest, EvalRequest, Run, Stage};

/// Index, both stages, two baselines, and the evaluation: whatever is not done yet.
pub(super) fn whole(run: &mut Run, bars: &mut Bars) -> anyhow::Result<()> {
    if !run.is_done(Stage::Initial) {
        // Rather than after hours of the index.
        run.check_teachers()?;
    }
    for stage in [Stage::Index, Stage::Initial, Stage::Anneal] {
        let report = run.stage(stage, false, bars)?;
        for line in show::stage(run, &report).lines() {
            tracing::info!("{line}");
        }
    }
    beside_baselines(run, bars)
}

/// Evaluates the trained models on the test split, alone and ranked together with neighbours of items, which a second
/// of counting makes, beside these and a SASRec, and says what is better than the SASRec.
fn beside_baselines(run: &Run, bars: &mut Bars) -> anyhow::Result<()> {
    let (split, seed) = (Split::Test, run.config().seed);
    let request = |baseline| BaselineRequest { baseline, split, seed };
    let [sasrec, neighbours] = [Baseline::SasRec, Baseline::ItemKnn].map(request);
    let baselines = [sasrec, neighbours].map(|request| {
        let result = run.baseline(request, false, bars)?;
        anyhow::Ok((request.baseline.name(), result.report.report))
    });
    let baselines = baselines.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let (sasrec, neighbours) = (sasrec.folder(run.dir()), neighbours.folder(run.dir()));
    let beam = run.config().eval.beam;
    let (mut shown, mut verdicts) = (Vec::new(), String::new());
    for adapter in adapters(run) {
        for fuse in [&[][..], slice::from_ref(&neighbours)] {
            let request = EvalRequest { split, adapter, beam, limit: None, fuse, before: None };
            let ranking = evaluation(run, request, false, bars)?.report;
            let (alone, adapter) = (of_adapter(&ranking.settings), &ranking.settings.adapter);
            let (heading, with) = match fuse {
                [] => (alone.clone(), ""),
                _ => (format!("{adapter} + item-knn"), ", with item-knn"),
            };
            let _ = writeln!(verdicts, "{alone}{with}, beside SASRec:");
            verdicts += &verdict(&run.compare(request, &sasrec)?);
            shown.push((heading, Shown { ranking, comparison: None }));
        }
    }
    let evaluations: Vec<&Shown> = shown.iter().map(|(_, shown)| shown).collect();
    let of_baselines = baselines.iter().map(|(name, report)| Column {
        heading: (*name).into(),
        report,
        legal: None,
    });
    let own = shown.iter().map(|(heading, shown)| Column::of(shown, heading.clone()));
    let columns: Vec<Column<'_>> = of_baselines.chain(own).collect();
    let hint =
        "recommended by both: `llmbs recommend --fuse item-knn`, `llmbs serve --fuse item-knn`\n";
    out(&(table("metric", &evaluations, &columns) + &verdicts + hint))
}

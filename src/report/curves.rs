//! Losses by part and the validation figure over the steps of each training stage, from `log.jsonl`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::Reported;
use super::html::{escape, figure, figures, key, missing, remark};
use super::plot::{self, Line};
use crate::Result;

/// The parts of the loss in the log, and what they are called.
const PARTS: [(&str, &str); 4] = [
    ("total", "total"),
    ("gen", "responses, L_gen"),
    ("con_s", "contrast with z^s"),
    ("con_b", "contrast with z^b"),
];

/// The most points of a line.
const MOST_POINTS: usize = 500;

/// What the log tells of a stage's last training.
#[derive(Debug, Default, PartialEq)]
struct Course {
    stage: String,
    /// By part, (step, loss).
    losses: [Vec<(u64, f64)>; PARTS.len()],
    /// The name of the validation figure.
    metric: String,
    validation: Vec<Epoch>,
    /// The step of the last line.
    step: u64,
}

#[derive(Debug, PartialEq)]
struct Epoch {
    /// From 1; 0 for the model before the first step.
    number: u64,
    /// The last step that was logged before it.
    step: u64,
    figure: f64,
    best: bool,
}

/// The last training of each stage, in the order in which they were begun.
fn courses(log: &[Value]) -> Vec<Course> {
    let mut courses: Vec<Course> = Vec::new();
    for line in log {
        let Some(stage) = line["stage"].as_str() else { continue };
        let at = courses.iter().position(|course| course.stage == stage);
        let at = at.unwrap_or_else(|| {
            courses.push(Course { stage: stage.into(), ..Course::default() });
            courses.len() - 1
        });
        let course = &mut courses[at];
        if let Some(done) = line["done_steps"].as_u64() {
            // What an earlier process did after this counts no more.
            for part in &mut course.losses {
                part.retain(|&(step, _)| step <= done);
            }
            let epochs = line["done_epochs"].as_u64().unwrap_or(0);
            course.validation.retain(|epoch| done > 0 && epoch.number <= epochs);
            course.step = done;
            continue;
        }
        if let Some(step) = line["step"].as_u64() {
            for (part, (name, _)) in course.losses.iter_mut().zip(PARTS) {
                part.extend(line[name].as_f64().map(|loss| (step, loss)));
            }
            course.step = step;
            continue;
        }
        let epoch = line["epoch"].as_u64().unwrap_or(0);
        let fields = line.as_object().into_iter().flatten();
        let figure =
            fields.filter_map(|(name, value)| Some((name.strip_prefix("validation_")?, value)));
        for (metric, figure) in figure.filter_map(|(name, value)| Some((name, value.as_f64()?))) {
            course.metric = metric.into();
            // The model before the first step.
            let step = if epoch == 0 { 0 } else { course.step };
            let best = line["best"].as_bool().unwrap_or(false);
            course.validation.push(Epoch { number: epoch, step, figure, best });
        }
    }
    courses
}

pub(super) fn section(runs: &[Reported]) -> Result<String> {
    let mut html = String::new();
    let mut by_run = Vec::new();
    let mut stages: Vec<String> = Vec::new();
    for reported in runs {
        let courses = courses(&reported.run.log()?);
        if courses.is_empty() {
            html += &missing(&format!(
                "{}: no log of a training: `llmbs --run {} run` trains",
                reported.name, reported.folder
            ));
        }
        for course in &courses {
            if !stages.contains(&course.stage) {
                stages.push(course.stage.clone());
            }
        }
        by_run.push((reported, courses));
    }
    for stage in &stages {
        let found: Vec<(usize, &Reported, &Course)> = by_run
            .iter()
            .enumerate()
            .flat_map(|(i, (run, courses))| courses.iter().map(move |course| (i, *run, course)))
            .filter(|(_, _, course)| course.stage == *stage)
            .collect();
        let _ = write!(html, "<h3>Stage {}</h3>", escape(stage));
        let mut plots = String::new();
        for (_, reported, course) in &found {
            plots += &losses(stage, reported, course, runs.len() > 1)?;
        }
        plots += &validations(stage, &found, runs.len() > 1)?;
        html += &figures(&plots);
        if found.iter().all(|(_, _, course)| course.validation.is_empty()) {
            html += &missing("Without figures of the validation split.");
        }
    }
    if !stages.is_empty() {
        html += &remark(
            "Losses are means over the steps between two lines of the log, or over more where there are many. A \
             figure of the validation split stands at the last step that was logged in its epoch; the ring is the \
             epoch that was kept.",
        );
    }
    Ok(html)
}

/// The points of a line: where there are more than can be seen, neighbours share one.
fn as_points(values: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let mean = |chunk: &[(u64, f64)]| {
        let count = chunk.len() as f64;
        let sum = |of: fn(&(u64, f64)) -> f64| chunk.iter().map(of).sum::<f64>();
        (sum(|(step, _)| *step as f64) / count, sum(|(_, value)| *value) / count)
    };
    values.chunks(values.len().div_ceil(MOST_POINTS).max(1)).map(mean).collect()
}

fn losses(stage: &str, reported: &Reported, course: &Course, several: bool) -> Result<String> {
    // Where one part is all there is, the total is the same line.
    let parts = course.losses.iter().filter(|part| !part.is_empty()).count();
    let shown = |&(part, _): &(usize, &Vec<(u64, f64)>)| parts > 2 || part != 0;
    let all = course.losses.iter().enumerate().filter(|(_, part)| !part.is_empty());
    let shown: Vec<(usize, &Vec<(u64, f64)>)> = all.filter(shown).collect();
    let Some((_, first)) = shown.first() else { return Ok(String::new()) };
    if first.len() < 2 {
        return Ok(missing(&format!(
            "{}: the log has one line of stage {stage}: a lower train.{stage}.log-every logs more",
            reported.name
        )));
    }
    let mut caption = format!("<b>loss{}</b><br>", of_run(reported, several));
    let mut lines = Vec::new();
    for &(part, values) in &shown {
        caption += &key(part, PARTS[part].1);
        let points = as_points(values);
        lines.push(Line { series: part, points, marked: false, best: None });
    }
    let what = format!("losses of stage {stage} of {}", reported.name);
    Ok(figure(&caption, &plot::lines(&what, "step", &lines)?))
}

/// ` of RUN`, where there are several.
fn of_run(reported: &Reported, several: bool) -> String {
    if several { format!(" of {}", escape(&reported.name)) } else { String::new() }
}

fn validations(
    stage: &str,
    found: &[(usize, &Reported, &Course)],
    several: bool,
) -> Result<String> {
    let with_figures = found.iter().filter(|(_, _, course)| !course.validation.is_empty());
    let mut html = String::new();
    let metrics: BTreeSet<&str> = with_figures.clone().map(|(_, _, c)| c.metric.as_str()).collect();
    for metric in metrics {
        let of_metric = with_figures.clone().filter(|(_, _, course)| course.metric == metric);
        html += &of_one_metric(stage, metric, &of_metric.collect::<Vec<_>>(), several)?;
    }
    Ok(html)
}

fn of_one_metric(
    stage: &str,
    metric: &str,
    found: &[&(usize, &Reported, &Course)],
    several: bool,
) -> Result<String> {
    let mut caption = format!("<b>{} on the validation split</b><br>", escape(metric));
    let mut lines = Vec::new();
    for (i, reported, course) in found {
        if several {
            caption += &key(*i, &reported.name);
        }
        let at = |epoch: &Epoch| (epoch.step as f64, epoch.figure);
        let best = course.validation.iter().rfind(|epoch| epoch.best).map(at);
        let points = course.validation.iter().map(at).collect();
        lines.push(Line { series: *i, points, marked: true, best });
    }
    let what = format!("validation of stage {stage}");
    Ok(figure(&caption, &plot::lines(&what, "step", &lines)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn step(step: u64, epoch: u64, loss: f64) -> Value {
        json!({ "stage": "initial", "step": step, "epoch": epoch, "total": loss, "gen": loss, "con_s": null })
    }

    fn epoch(epoch: u64, figure: f64) -> Value {
        json!({ "stage": "initial", "epoch": epoch, "best": true, "validation_ndcg@10": figure })
    }

    #[test]
    fn a_long_line_keeps_its_course_in_fewer_points() {
        let values: Vec<(u64, f64)> = (1..=1200).map(|step| (step, step as f64)).collect();
        let points = as_points(&values);
        assert_eq!((points.len(), points[0], points[399]), (400, (2.0, 2.0), (1199.0, 1199.0)));
        assert_eq!(as_points(&values[..2]), [(1.0, 1.0), (2.0, 2.0)]);
    }

    fn begun(steps: u64, epochs: u64) -> Value {
        json!({ "stage": "initial", "done_steps": steps, "done_epochs": epochs })
    }

    #[test]
    fn steps_that_were_done_again_count_once() {
        let mut log = vec![
            begun(0, 0),
            epoch(0, 0.05),
            step(10, 1, 3.0),
            epoch(1, 0.1),
            step(20, 2, 2.0),
            epoch(2, 0.2),
            begun(10, 1),
            step(20, 2, 2.5),
            epoch(2, 0.3),
        ];
        let told = |log: &[Value]| {
            let course = courses(log).remove(0);
            assert!(course.losses[2].is_empty() && course.metric == "ndcg@10");
            let [losses, ..] = course.losses;
            (losses, course.validation.iter().map(|e| (e.step, e.figure)).collect::<Vec<_>>())
        };
        let went_on = (vec![(10, 3.0), (20, 2.5)], vec![(0, 0.05), (10, 0.1), (20, 0.3)]);
        assert_eq!(told(&log), went_on);
        // Done anew, it counts alone, though it logs more seldom or has no line of its steps yet.
        log.extend([begun(0, 0), epoch(0, 0.06)]);
        assert_eq!(told(&log), (vec![], vec![(0, 0.06)]));
        log.extend([step(15, 1, 1.0), epoch(1, 0.4)]);
        assert_eq!(told(&log), (vec![(15, 1.0)], vec![(0, 0.06), (15, 0.4)]));
    }
}

//! Texts: what the model writes, cached against uncached, and how the program measures it.

use std::fs;
use std::path::Path;

use crate::common::program::{fails, run, tiny, train};
use llmbs::decode::{Sampler, Sampling, likeliest};
use llmbs::eval::response_losses;
use llmbs::inference::{Continuation, generate};
use llmbs::model::Llama;
use llmbs::ops;
use llmbs::tasks::Sample;
use serde_json::Value;

const PROMPTS: [&[u32]; 3] = [&[4, 9, 2], &[7], &[1, 1, 30, 60, 5, 2, 8]];
/// A token that no prompt is continued by.
const NEVER: u32 = u32::MAX;

fn greedy(model: &Llama, prompts: &[&[u32]], eos: u32, max_tokens: usize) -> Vec<Continuation> {
    generate(model, prompts, eos, max_tokens, &mut |_, logits| likeliest(logits)).unwrap()
}

/// The logits after each token of `ids`, by one pass over all of them.
fn logits(model: &Llama, ids: &[u32]) -> Vec<Vec<f32>> {
    let hidden = crate::common::hidden(model, &[ids]);
    let hidden = candle_core::Tensor::new(hidden, &candle_core::Device::Cpu).unwrap();
    ops::linear(&hidden, model.lm_head(), ops::Precision::Full).unwrap().to_vec2().unwrap()
}

#[test]
fn generation_on_the_cache_equals_full_passes() {
    let model = crate::common::model();
    let written = greedy(&model, &PROMPTS, NEVER, 12);
    for (prompt, written) in PROMPTS.iter().zip(&written) {
        let mut ids = prompt.to_vec();
        for _ in 0..12 {
            ids.push(likeliest(logits(&model, &ids).last().unwrap()));
        }
        assert_eq!(written.ids, ids[prompt.len()..]);
        assert!(!written.ended);
    }
    assert!(written[0].ids != written[1].ids && written[1].ids != written[2].ids);
}

#[test]
fn training_samples_are_written_as_text() {
    let dir = tiny();
    let dir = dir.path();
    let (_, stderr) = run(dir, &["data", "samples"], 1);
    assert!(stderr.contains("run `llmbs index` first") && !stderr.contains("stdout"), "{stderr}");
    run(dir, &["index"], 0);
    let samples = |words: &[&str]| -> Vec<Value> {
        let (text, _) = run(dir, &[&["data", "samples"], words].concat(), 0);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let plain = samples(&[]);
    let index = fs::read_to_string(dir.join("runs/llmbs/index/index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    let indices: Vec<String> = index
        .as_object()
        .unwrap()
        .values()
        .map(|tokens| {
            tokens.as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect()
        })
        .collect();
    // One for each item of training that has another before it, all of them with an item for an answer.
    run(dir, &["data", "synth", "--out", "Shop"], 0);
    let shop = fs::read_to_string(dir.join("Shop/Shop.inter.json")).unwrap();
    let shop: Value = serde_json::from_str(&shop).unwrap();
    let due: usize =
        shop.as_object().unwrap().values().map(|u| u.as_array().unwrap().len() - 3).sum();
    let of_task = |task: &str| plain.iter().filter(|s| s["task"] == task).collect::<Vec<_>>();
    assert_eq!(of_task("sequence").len(), due);
    for sample in of_task("sequence") {
        assert!(indices.iter().any(|index| sample["response"] == index.as_str()), "{sample}");
        assert!(sample["prompt"].as_str().unwrap().contains("<a_"), "{sample}");
    }
    // Worded as in training, where each row begins alike.
    let begins = |samples: &[Value], with: &str| {
        let sequence = samples.iter().filter(|s| s["task"] == "sequence");
        sequence.map(|s| s["prompt"].as_str().unwrap()).all(|prompt| prompt.starts_with(with))
    };
    let prompt = of_task("sequence")[0]["prompt"].as_str().unwrap();
    assert!(begins(&plain, &prompt[..prompt.find("<a_").unwrap()]));
    let words =
        ["train.tasks.semantic=0", "train.tasks.preference=0", "train.tasks.instruction=word"];
    let sets: Vec<&str> = words.iter().flat_map(|set| ["--set", set]).collect();
    assert!(begins(&samples(&sets), "Next:\n<a_"));
    // A quarter of the items is held out from the two directions of texts.
    assert_eq!(of_task("semantic").len(), 2 * 45);
    assert!(!of_task("preference").is_empty());
    let alpaca = samples(&["--format", "alpaca"]);
    assert_eq!(alpaca.len(), plain.len());
    for (alpaca, plain) in alpaca.iter().zip(&plain) {
        assert_eq!(
            (&alpaca["instruction"], &alpaca["output"]),
            (&plain["prompt"], &plain["response"])
        );
        assert_eq!(alpaca["input"], "");
    }
    // Texts are drawn anew in another epoch, and written to a file as to the terminal.
    let second = samples(&["--epoch", "2"]);
    assert!(second.len() == plain.len() && second != plain);
    run(dir, &["data", "samples", "--out", "samples.jsonl"], 0);
    let file = fs::read_to_string(dir.join("samples.jsonl")).unwrap();
    assert_eq!(file.lines().count(), plain.len());
}

#[test]
fn each_text_stops_at_its_own_end() {
    let model = crate::common::model();
    let whole = greedy(&model, &PROMPTS, NEVER, 12);
    // What the first prompt is continued by in the fifth place ends it, and others where they have it.
    let eos = whole[0].ids[4];
    let cut = greedy(&model, &PROMPTS, eos, 12);
    for (whole, cut) in whole.iter().zip(&cut) {
        let end = whole.ids.iter().position(|&id| id == eos);
        assert_eq!(cut.ids, whole.ids[..end.unwrap_or(12)]);
        assert_eq!(cut.ended, end.is_some());
    }
    assert!(cut.iter().any(|c| !c.ended), "one text ends later than another");
}

#[test]
fn a_prompt_without_tokens_is_refused() {
    let error = generate(&crate::common::model(), &[&[]], NEVER, 3, &mut |_, _| 0).unwrap_err();
    assert!(error.to_string().contains("no tokens"), "{error}");
}

#[test]
fn the_seed_decides_what_is_drawn_and_the_best_token_alone_is_greedy() {
    let model = crate::common::model();
    let draw = |sampling, seed| {
        let mut sampler = Sampler::new(sampling, seed);
        generate(&model, &PROMPTS[..1], NEVER, 20, &mut |_, l| sampler.choose(l)).unwrap()
    };
    let sampling = Sampling { temperature: 1.0, top_k: None, top_p: 1.0 };
    assert_eq!(draw(sampling, 5), draw(sampling, 5));
    assert_ne!(draw(sampling, 5), draw(sampling, 6));
    let best = Sampling { top_k: Some(1), ..sampling };
    assert_eq!(draw(best, 5), greedy(&model, &PROMPTS[..1], NEVER, 20));
}

#[test]
fn losses_of_responses_equal_the_log_softmax_of_full_passes() {
    let model = crate::common::model();
    let sample = |ids: &[u32], prompt: usize| Sample {
        ids: ids.to_vec(),
        positions: (0..ids.len() as u32).collect(),
        labels: (prompt..ids.len()).map(|i| (i as u32 - 1, ids[i])).collect(),
        ..Sample::default()
    };
    let samples = [sample(&[4, 9, 2, 17, 3], 3), sample(&[7, 90, 11, 5], 1)];
    assert_eq!(samples[0].prompt(), [4, 9, 2]);
    let mut expected = Vec::new();
    for sample in &samples {
        let logits = logits(&model, &sample.ids);
        for (at, id) in &sample.labels {
            let row = &logits[*at as usize];
            let total: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
            expected.push(total.ln() - f64::from(row[*id as usize]));
        }
    }
    let losses = response_losses(&model, &samples).unwrap();
    assert_eq!(losses.len(), expected.len());
    for (loss, expected) in losses.iter().zip(expected) {
        assert!((f64::from(*loss) - expected).abs() < 1e-4, "{loss} against {expected}");
    }
}

fn json(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&run(dir, args, 0).0).unwrap()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// All models and figures are there, and what the adapter changes of each figure, with intervals.
fn assert_texts_are_told(table: &str, again: &Value) {
    for word in [
        "backbone",
        "adapter off",
        "adapter on",
        "item_title",
        "item_description",
        "new_title",
        "new_description",
        "next_title",
        "perplexity",
        "exact_match",
        "token_f1",
        "rouge_l",
        "on - off",
    ] {
        assert!(table.contains(word), "{word} is not in {table}");
    }
    for (task, figures) in again["difference"].as_object().unwrap() {
        for (figure, found) in figures.as_object().unwrap() {
            let of = |model: &str| again[model]["metrics"][task][figure].as_f64().unwrap();
            let difference = found["difference"].as_f64().unwrap();
            assert!((difference - (of("on") - of("off"))).abs() < 1e-9, "{task} {figure}");
            let bounds = |of: &Value| [0, 1].map(|bound| of[bound].as_f64().unwrap());
            let [low, high] = bounds(&found["interval"]);
            assert!(low <= high, "{task} {figure}");
            let [low, high] = bounds(&again["on"]["metrics"][task]["intervals"][figure]);
            assert!(low <= of("on") && of("on") <= high, "{task} {figure}");
        }
    }
    assert_eq!(again["difference"].as_object().unwrap().len(), 5);
}

#[test]
fn the_program_continues_prompts_and_measures_texts() {
    let dir = tiny();
    let dir = dir.path();
    fails(dir, &["generate", "--prompt", "What"], &["run `llmbs index` first"]);
    fails(dir, &["eval", "--task", "text"], &["run `llmbs index` first"]);
    run(dir, &["run"], 0);
    let files = dir.join("runs/llmbs");

    // Item tokens in a prompt are those of the vocabulary.
    let index = read(&files.join("index/index.json"));
    let item: Vec<&str> =
        index["3"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let tokenizer = read(&files.join("initial/tokenizer.json"));
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let id = |token: &str| &added.iter().find(|t| t["content"] == token).unwrap()["id"];
    let prompt = format!("What is {}?", item.concat());
    let ask = ["generate", "--json", "--max-tokens", "8", "--prompt", &prompt];
    let greedy = json(dir, &ask);
    let ids = greedy["prompt_ids"].as_array().unwrap();
    let first = ids.iter().position(|found| found == id(item[0])).unwrap();
    for (found, token) in ids[first..].iter().zip(&item) {
        assert_eq!(found, id(token));
    }
    assert!(greedy["ids"].as_array().unwrap().len() <= 8);
    // All else is text, whatever it spells.
    let spelled = ["generate", "--json", "--prompt", "Soap <|endoftext|> <con>"];
    let ids = json(dir, &spelled)["prompt_ids"].clone();
    let control = [id("<|endoftext|>"), id("<con>")];
    assert!(!ids.as_array().unwrap().iter().any(|found| control.contains(&found)), "{ids}");

    // A backbone that was trained on an index is refused before anything is embedded.
    let path = format!("backbone.path={:?}", files.join("initial").display().to_string());
    let other = tiny();
    fails(other.path(), &["--set", &path, "index"], &["<a_0>", "item tokens already"]);
    assert!(greedy["stop"] == "eos" || greedy["stop"] == "length");
    // The seed of the draws is none of the configuration, whose own may be told beside it.
    let seeds = ["--set", "seed=42", "--seed", "7"];
    run(dir, &[&seeds[..], &["generate", "--max-tokens", "2", "--prompt", &prompt]].concat(), 0);
    let (text, _) = run(dir, &["generate", "--max-tokens", "8", "--prompt", &prompt], 0);
    assert_eq!(text.strip_suffix('\n'), greedy["text"].as_str());

    // Draws are of the seed, and the seed asks for no other model.
    let draw = |seed: &str, more: &[&str]| {
        let sampled = ["--temperature", "2", "--seed", seed];
        json(dir, &[&ask[..], &sampled, more].concat())["ids"].clone()
    };
    assert_eq!(draw("1", &[]), draw("1", &[]));
    assert_ne!(draw("1", &[]), draw("2", &[]));
    assert_eq!(draw("1", &["--top-k", "1"]), greedy["ids"]);
    assert_eq!(draw("1", &["--top-p", "1e-9"]), greedy["ids"]);
    json(dir, &[&ask[..], &["--adapter", "on"]].concat());
    fails(dir, &["generate", "--prompt", ""], &["--prompt"]);
    fails(dir, &["generate", "--prompt", "a", "--max-tokens", "9999"], &["2048", "--max-tokens"]);
    fails(dir, &["generate", "--prompt", "a", "--temperature", "nan"], &["--temperature"]);
    fails(dir, &["generate", "--prompt", "a", "--temperature", "1", "--top-p", "2"], &["--top-p"]);
    run(dir, &["generate", "--prompt", "a", "--top-k", "2"], 2);

    let measure = ["eval", "--task", "text", "--limit", "20"];
    let (table, _) = run(dir, &measure, 0);
    let again = json(dir, &[&measure[..], &["--json"]].concat());
    let perplexity = |model: &str| again[model]["metrics"]["item_title"]["perplexity"].as_f64();
    assert!(1.0 < perplexity("off").unwrap());
    assert!(perplexity("off") < perplexity("backbone"), "training is of these texts");
    assert_eq!(again["on"]["metrics"]["next_title"]["samples"], 20);
    assert_texts_are_told(&table, &again);
    let kept = read(&files.join("eval/text-off-lim20.json"));
    for (field, value) in again["off"].as_object().unwrap() {
        assert_eq!(&kept[field], value);
    }
    let lines = fs::read_to_string(files.join("eval/text-off-lim20.predictions.jsonl")).unwrap();
    assert_eq!(again["on"]["metrics"]["new_title"]["samples"], 15, "a quarter of the 60 items");
    assert_eq!(lines.lines().count(), 90);
    let of = |task: &str| -> Vec<String> {
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_task = lines.filter(|line| line["task"] == task);
        of_task.map(|line| line["of"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(of("new_title"), of("new_description"));
    assert!(of("item_title").iter().all(|item| !of("new_title").contains(item)));

    // The next title is that of the user's last item, which no training sample ends with.
    run(dir, &["data", "synth", "--out", "Shop"], 0);
    let bought = read(&dir.join("Shop/Shop.inter.json"));
    let texts = read(&dir.join("Shop/Shop.item.json"));
    for line in lines.lines().skip(70) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["task"], "next_title");
        let target = bought[line["of"].as_str().unwrap()].as_array().unwrap().last().unwrap();
        let title = texts[target.to_string()]["title"].as_str().unwrap();
        assert!(title.starts_with(line["truth"].as_str().unwrap()), "{line} of {title}");
    }

    let (anew, _) = run(dir, &[&measure[..], &["--force"]].concat(), 0);
    assert_eq!(anew, table, "the same seed gives the same figures");
    let one = json(dir, &[&measure[..], &["--json", "--adapter", "on"]].concat());
    assert_eq!(one["on"]["metrics"], again["on"]["metrics"]);
    assert_eq!(one.as_object().unwrap().len(), 1);
    fails(dir, &["eval", "--task", "text", "--beam", "5"], &["--beam"]);
}

#[test]
fn an_annealing_adapter_that_does_harm_changes_nothing() {
    let dir = tiny();
    let dir = dir.path();
    train(dir, &[]);
    // At such a rate every epoch is worse than the model before the first.
    let of = |words: &[&'static str]| [&["--set", "train.anneal.learning-rate=10"], words].concat();
    let (_, stderr) = run(dir, &of(&["train", "--stage", "anneal"]), 0);
    assert!(stderr.contains("the adapter changes nothing"), "{stderr}");
    let files = dir.join("runs/llmbs");
    let manifest = read(&files.join("manifest.json"));
    let figures = &manifest["stages"]["anneal"]["figures"];
    assert_eq!(figures["best_epoch"], 0, "{figures}");
    let measured = json(dir, &of(&["eval", "--task", "text", "--limit", "20", "--json"]));
    assert_eq!(measured["on"]["metrics"], measured["off"]["metrics"]);
    let ranked = |adapter| json(dir, &of(&["eval", "--json", "--adapter", adapter]));
    assert_eq!(ranked("on")["metrics"], ranked("off")["metrics"]);
}

#[test]
fn measuring_texts_asks_for_texts() {
    let dir = tiny();
    run(dir.path(), &["data", "synth", "--out", "Shop"], 0);
    fs::remove_file(dir.path().join("Shop/Shop.item.json")).unwrap();
    let args = ["--set", "data.path=Shop", "eval", "--task", "text"];
    fails(dir.path(), &args, &["Shop has no item texts", "item.json"]);
}

use super::*;
use crate::data::{Item, TextField, User, UserTexts, Wish};
use crate::tasks::{Mixture, TasksConfig};
use crate::text::kinds;

const TITLES: [&str; 4] =
    ["hair dryer, 2,000 W!", "the shampoo (for dry hair)", "crème brûlée 🍓", "'s lip balm;"];

/// A text about a user, as a template takes it.
const SAID: &str = " something, for 'dry' hair";

fn shop() -> Dataset {
    let item = |title: &&str| Item {
        title: (*title).into(),
        description: format!("{title}; more of it."),
        brand: "hair & co.".into(),
        categories: "lips > balm".into(),
        ..Item::default()
    };
    let user = User { id: "0".into(), items: vec![0, 1, 2, 3] };
    Dataset::new("shop", vec![user], TITLES.iter().map(item).collect()).unwrap()
}

/// Prompts over a tokenizer with two tokens an item, and the names of these.
fn prompts(tokenizer: &mut Tokenizer, dataset: &Dataset, longest: usize) -> (Prompts, Vec<String>) {
    let names = |item: usize| [format!("<a_{item}>"), format!("<b_{item}>")];
    let all: Vec<String> =
        (0..dataset.num_items()).flat_map(names).chain(["<con>".into()]).collect();
    let ids = tokenizer.add_item_tokens(&all).unwrap();
    let (con, items) = ids.split_last().unwrap();
    let items = items.chunks(2).map(<[u32]>::to_vec).collect();
    let prompts = Prompts::new(tokenizer, dataset, items, *con, longest, 3).unwrap();
    (prompts, (0..dataset.num_items()).map(|item| names(item).concat()).collect())
}

/// A template filled with text alone.
fn filled(pieces: &[Piece], names: &[String], dataset: &Dataset, history: &[ItemId]) -> String {
    let text =
        |item: ItemId, field: TextField| format!(" {}", field.of(&dataset.items[item as usize]));
    let joined = |texts: Vec<String>, separator: &str| texts.join(separator);
    let target = 3;
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::Index => names[target as usize].clone(),
        Piece::OfUser => SAID.into(),
        Piece::Field(field) => text(target, *field),
        Piece::History(separator) => {
            joined(history.iter().map(|&item| names[item as usize].clone()).collect(), separator)
        }
        Piece::Titles(separator) => {
            joined(history.iter().map(|&item| text(item, TextField::Title)).collect(), separator)
        }
    };
    pieces.iter().map(piece).collect()
}

#[test]
fn a_filled_template_has_the_ids_of_its_whole_text() {
    const ALL: [Direction; 8] = [
        Direction::Sequence,
        Direction::TextToIndex,
        Direction::IndexToText,
        Direction::HistoryToText,
        Direction::TitlesToIndex,
        Direction::HistoryToPreference,
        Direction::PreferenceToIndex,
        Direction::QueryToIndex,
    ];
    let (dataset, dir) = (shop(), tempfile::tempdir().unwrap());
    for (kind, mut tokenizer) in kinds::all() {
        let (prompts, names) = prompts(&mut tokenizer, &dataset, 1000);
        tokenizer.save(dir.path()).unwrap();
        let whole = tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
        let ids = |text: String| whole.encode_fast(text, true).unwrap().get_ids().to_vec();
        for direction in ALL {
            for template in prompts.templates.of(direction) {
                let history = [2, 0, 1];
                let sample = prompts.fill(template, &history, 3, SAID, false).unwrap();
                let [input, output] = [&template.input, &template.output]
                    .map(|pieces| filled(pieces, &names, &dataset, &history));
                let text = format!("{input}{output}");
                let mut expected = ids(text.clone());
                if template.answers_in_text() {
                    expected.push(tokenizer.eos());
                }
                assert_eq!(sample.ids, expected, "{kind}: {text:?}");
                // What is written is asked for as it was in training.
                assert_eq!(sample.prompt(), ids(input), "{kind}: {text:?}");
            }
        }
        // Both layouts begin alike.
        let sequence = prompts.sequence(&[2, 0, 1, 3], 3, false);
        assert_eq!(
            sequence,
            prompts.first_sequence_sample(&[2, 0, 1], 3, false).unwrap(),
            "{kind}"
        );
        assert!(sequence.ids.starts_with(&prompts.instruction()), "{kind}");
        // With another beginning the items and what they are asked for stay.
        let begun = prompts.clone().begun_with("Next:\n").unwrap();
        let short = begun.sequence(&[2, 0, 1, 3], 3, false);
        let items = [2, 0, 1, 3].map(|item: usize| names[item].clone()).concat();
        assert_eq!(short.ids, ids(format!("Next:\n{items}")), "{kind}");
        assert!(short.ids.starts_with(&begun.instruction()), "{kind}");
        assert_ne!(short.prompt(), sequence.prompt(), "{kind}");
        assert!(short.response().eq(sequence.response()), "{kind}");
    }
}

#[test]
fn texts_about_users_are_learnt_with_training_items_alone() {
    let users = [vec![0, 1, 2, 3, 0], vec![3, 2, 1, 0]];
    let users = users.into_iter().enumerate();
    let users = users.map(|(user, items)| User { id: user.to_string(), items }).collect();
    let wish = |query: &str, item| Some(Wish { queries: vec![query.into()], item });
    let texts = vec![
        UserTexts { preferences: vec!["likes dry hair".into()], wish: wish("some lip balm", 1) },
        // This ended with what is to be predicted.
        UserTexts { preferences: Vec::new(), wish: wish("the answer", 1) },
    ];
    let mut data = Dataset::new("shop", users, shop().items).unwrap();
    data.user_texts = Some(texts);
    let (_, mut tokenizer) = kinds::all().remove(0);
    let (prompts, names) = prompts(&mut tokenizer, &data, 1000);
    let tasks = TasksConfig { semantic: 0.0, preference: 1.0, ..TasksConfig::default() };
    let samples = |held_out, seed| {
        let tasks = TasksConfig { held_out, ..tasks };
        let samples = Mixture::new(&tasks, &data, &prompts, 20, seed).epoch(0).unwrap();
        let text = |sample: &Sample| tokenizer.decode(&sample.ids).unwrap();
        samples.iter().map(text).collect::<Vec<String>>()
    };
    let found = samples(0.0, 1);
    let with = |text: &str| found.iter().filter(|sample| sample.contains(text)).collect::<Vec<_>>();
    // History to preference, and preference with history to the next item.
    let likes = with("likes dry hair");
    assert_eq!(likes.len(), 2, "{found:?}");
    let history: String = [0, 1, 2].map(|item: usize| names[item].clone()).join(", ");
    assert!(likes.iter().any(|sample| sample.contains(&history) && sample.ends_with("dry hair")));
    assert!(likes.iter().any(|sample| sample.ends_with(&names[1]) || sample.ends_with(&names[2])));
    let searches = with("some lip balm");
    assert!(searches.len() == 1 && searches[0].ends_with(&names[1]), "{found:?}");
    assert!(with("the answer").is_empty(), "{found:?}");
    // An item held out is not searched for.
    for seed in 1..9 {
        let held_out = TasksConfig { held_out: 0.5, ..tasks }.items_held_out(4, seed)[1];
        let asked = samples(0.5, seed).iter().any(|sample| sample.contains("some lip balm"));
        assert!(asked != held_out, "seed {seed}");
    }
}

#[test]
fn epochs_are_equally_long_where_some_items_lack_texts() {
    let user =
        |id: u32| User { id: id.to_string(), items: (0..8).map(|at| (id + at) % 9).collect() };
    let item = |item: usize| Item {
        title: if item.is_multiple_of(3) { String::new() } else { "a balm".into() },
        categories: "lips".into(),
        ..Item::default()
    };
    let mut data =
        Dataset::new("shop", (0..20).map(user).collect(), (0..9).map(item).collect()).unwrap();
    let (_, mut tokenizer) = kinds::all().remove(0);
    let (with_titles, _) = prompts(&mut tokenizer, &data, 1000);
    let tasks = TasksConfig { semantic: 1.0, preference: 1.0, ..TasksConfig::default() };
    let mixture = Mixture::new(&tasks, &data, &with_titles, 20, 1);
    let samples = |epoch| mixture.epoch(epoch).unwrap();
    // A row of each user; categories of nine items and titles of six; a title after the items of each user, and the
    // other way.
    for epoch in 0..9 {
        assert_eq!(samples(epoch).len(), 20 + 9 + 6 + 2 * 20, "epoch {epoch}");
    }
    // Without a title there is nothing to ask by titles, and none to answer with.
    data.items.iter_mut().for_each(|item| item.title.clear());
    let (_, mut tokenizer) = kinds::all().remove(0);
    let (without, _) = prompts(&mut tokenizer, &data, 1000);
    let samples = Mixture::new(&tasks, &data, &without, 20, 1).epoch(0).unwrap();
    assert_eq!(samples.len(), 20 + 9);
}

#[test]
fn a_text_is_asked_about_as_titles_were_in_training() {
    for (kind, mut tokenizer) in kinds::all() {
        let dataset = shop();
        let plain = tokenizer.clone();
        for longest in [4, 1000] {
            tokenizer = plain.clone();
            let (prompts, _) = prompts(&mut tokenizer, &dataset, longest);
            let template = &prompts.templates.of(Direction::TextToIndex)[0];
            for (item, title) in (0..).zip(TITLES) {
                let trained = prompts.fill(template, &[], item, "", false).unwrap();
                let asked = prompts.text(&format!(" {title}\n")).unwrap();
                assert_eq!(asked, trained.prompt(), "{kind}: {title}");
                assert!(asked.starts_with(&prompts.text_instruction()), "{kind}: {title}");
            }
        }
    }
}

#[test]
fn titles_and_queries_never_become_item_or_control_tokens() {
    let title = "A <|endoftext|> </s> <a_1> <con>";
    for (kind, mut tokenizer) in kinds::all() {
        let mut dataset = shop();
        dataset.items[1].title = title.into();
        let (prompts, _) = prompts(&mut tokenizer, &dataset, 1000);
        let of_items = |ids: &[u32]| {
            let items = prompts.items.iter().flatten().chain([&prompts.con, &prompts.eos]);
            let items: Vec<&u32> = items.collect();
            ids.iter().filter(|id| items.contains(id)).count()
        };
        assert_eq!(of_items(&prompts.text(title).unwrap()), 0, "{kind}");
        let sample = prompts.first_text_sample(Direction::IndexToText, TextField::Title, &[], 1);
        let sample = sample.unwrap().unwrap();
        let response: Vec<u32> = sample.response().collect();
        assert_eq!(of_items(&response[..response.len() - 1]), 0, "{kind}");
        assert_eq!(of_items(sample.prompt()), 2, "{kind}: the item that is asked about");
    }
}

#[test]
fn whether_an_item_has_a_sample_is_known_before_it_is_made() {
    let mut dataset = shop();
    dataset.items[1].description.clear();
    dataset.items[2].title.clear();
    let (prompts, _) = prompts(&mut kinds::all().swap_remove(0).1, &dataset, 20);
    let mut counts = [0, 0];
    for direction in [Direction::IndexToText, Direction::HistoryToText] {
        for field in [TextField::Title, TextField::Description] {
            for item in 0..4 {
                let made = prompts.first_text_sample(direction, field, &[0, 3], item).unwrap();
                let has = prompts.has_text_sample(direction, field, item);
                assert_eq!(has, made.is_some(), "{direction:?}, {field:?} of item {item}");
                counts[usize::from(has)] += 1;
            }
        }
    }
    assert!(counts.iter().all(|&count| count > 1), "{counts:?}");
}

#[test]
fn a_tokenizer_learns_the_words_of_templates_as_they_are_asked() {
    let texts = crate::tasks::template_texts(false).unwrap();
    assert!(texts.iter().any(|text| text.contains('\n')));
    assert!(!texts.iter().any(|text| text.contains(['\\', '{', '}'])));
    assert!(crate::tasks::template_texts(true).unwrap().len() > texts.len());
}

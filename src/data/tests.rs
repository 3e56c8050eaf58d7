//! Reading, checking, fingerprinting and writing datasets.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

const INTER: &str = r#"{"0": [0, 1, 2, 1], "1": [2, 0, 1]}"#;
const ITEM: &str = r#"{
"0": {"title": "soap", "description": "a bar", "brand": "B", "categories": "Bath, Soap", "asin": "B00"},
"1": {"title": " foam ", "description": null, "price": 3.5, "item_id": 17},
"2": {}
}"#;

/// A folder `shop` with these two files; an empty text stands for no file.
fn folder(inter: &str, item: &str) -> (TempDir, PathBuf) {
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("shop");
    fs::create_dir(&dir).unwrap();
    for (name, text) in [("shop.inter.json", inter), ("shop.item.json", item)] {
        if !text.is_empty() {
            fs::write(dir.join(name), text).unwrap();
        }
    }
    (parent, dir)
}

fn load(inter: &str, item: &str) -> Result<Dataset, DataError> {
    let (_parent, dir) = folder(inter, item);
    Dataset::load(&dir)
}

#[track_caller]
fn assert_fails(inter: &str, item: &str, parts: &[&str]) {
    let message = load(inter, item).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn reads_a_folder() {
    let data = load(INTER, ITEM).unwrap();
    assert_eq!(data.name, "shop");
    let lookup = Lookup::new(&data);
    assert_eq!(lookup.user("1").unwrap().items, [2, 0, 1]);
    assert!(lookup.user("2").is_err());
    let soap = &data.items[0];
    assert_eq!((soap.title.as_str(), soap.description.as_str()), ("soap", "a bar"));
    assert_eq!((soap.brand.as_str(), soap.categories.as_str()), ("B", "Bath, Soap"));
    let foam = Item { title: "foam".into(), raw_id: Some("17".into()), ..Item::default() };
    assert_eq!(data.items[1], foam);
    assert!(data.has_text() && !data.items[2].has_text());
    assert_eq!((lookup.item("B00").unwrap(), lookup.item("B01").is_err()), (0, true));
    assert_eq!((data.num_items(), data.num_interactions(), data.short_users), (3, 7, 0));
}

#[test]
fn without_item_texts_the_largest_id_tells_the_number_of_items() {
    let data = load(r#"{"0": [0, 5, 2], "1": [7]}"#, "").unwrap();
    assert_eq!((data.num_items(), data.short_users), (8, 1));
    assert!(!data.has_text());
    // No item has the ids between those seen.
    assert_eq!(data.catalogue().collect::<Vec<_>>(), [0, 2, 5, 7]);
    assert_fails(r#"{"0": [0, 5, 4000000000]}"#, "", &["shop.inter.json", "4000000000", "only 3"]);
}

#[test]
fn raw_ids_are_kept_as_they_are_spelt() {
    let items = r#"{"0": {"asin": 7106116521}, "1": {"parent_asin": 12345678901234567890123},
        "2": {"asin": null, "item_id": "007"}, "3": {"asin": 1.50}}"#;
    let data = load(r#"{"0": [0, 1, 2, 3]}"#, items).unwrap();
    let raw: Vec<_> = data.items.iter().map(|item| item.raw_id.as_deref().unwrap()).collect();
    assert_eq!(raw, ["7106116521", "12345678901234567890123", "007", "1.50"]);
    // The first that an item has, in whatever order they stand.
    for first in 0..RAW_IDS.len() {
        let fields = RAW_IDS[first..].iter().rev().map(|name| format!("{name:?}: {name:?}"));
        let fields = fields.collect::<Vec<_>>().join(", ");
        let data = load(r#"{"0": [0, 0, 0]}"#, &format!("{{\"0\": {{{fields}}}}}")).unwrap();
        assert_eq!(data.items[0].raw_id.as_deref(), Some(RAW_IDS[first]));
    }
    assert_fails(r#"{"0": [0, 0, 0]}"#, r#"{"0": {"asin": ["B00"]}}"#, &["a string or a number"]);
    // An empty one is none: it would be a number, as far as letters go.
    let data =
        load(r#"{"0": [0, 0, 0]}"#, r#"{"0": {"asin": "", "item_id": "B"}, "1": {"asin": ""}}"#);
    let data = data.unwrap();
    assert_eq!((data.items[0].raw_id.as_deref(), &data.items[1].raw_id), (Some("B"), &None));
    assert!(!data.has_numeric_raw_ids());
}

#[test]
fn files_of_names_say_the_raw_ids() {
    let (_parent, dir) = folder(INTER, ITEM);
    let names = |file: &str, text: &str| fs::write(dir.join(file), text).unwrap();
    names("shop.user2id", "007\t1\r\nA B\t0\n");
    names("shop.item2id", "own\t0\nx\t1\nü\t2\n");
    let data = Dataset::load(&dir).unwrap();
    let users: Vec<_> = data.users.iter().map(|user| user.id.as_str()).collect();
    assert_eq!(users, ["A B", "007"]);
    // What stands with the item goes before.
    let items: Vec<_> = data.items.iter().map(|item| item.raw_id.as_deref().unwrap()).collect();
    assert_eq!(items, ["B00", "17", "ü"]);
    assert_eq!(data.fingerprint, load(INTER, ITEM).unwrap().fingerprint);

    let fails = |text: &str| {
        names("shop.user2id", text);
        Dataset::load(&dir).unwrap_err().to_string()
    };
    let error = fails("A\t0\n");
    assert!(error.ends_with("shop.user2id: has no raw id for user \"1\" of inter.json; add the line or remove the file"), "{error}");
    let error = fails("A\t0\n\nB 1\n");
    assert!(
        error.ends_with("shop.user2id:3: a raw id, a tab and its number are expected"),
        "{error}"
    );
    let error = fails("A\t0\nA\t1\n");
    assert!(error.contains("\"A\" occurs twice"), "{error}");
    // Numbered from 1.
    names("shop.user2id", "A\t0\nB\t1\n");
    names("shop.item2id", "own\t1\nx\t2\nü\t3\n");
    let error = Dataset::load(&dir).unwrap_err().to_string();
    assert!(
        error.contains("shop.item2id: the number \"3\" is no item's: item.json has 3"),
        "{error}"
    );
}

#[test]
fn a_folder_of_several_datasets_is_of_none_of_them() {
    let (_parent, dir) = folder(INTER, ITEM);
    for file in ["b.inter.json", "b.item2id", "notes.txt"] {
        fs::write(dir.join(file), "").unwrap();
    }
    let is_own = is_dataset_file(&dir);
    let are_own =
        ["shop.inter.json", "shop.user2id", "b.inter.json", "b.item2id", "notes.txt"].map(is_own);
    assert_eq!(are_own, [true, true, false, false, false]);
    fs::remove_file(dir.join("shop.inter.json")).unwrap();
    fs::remove_file(dir.join("shop.item.json")).unwrap();
    assert!(is_dataset_file(&dir)("b.item2id"), "the only one there may have another name");
}

#[test]
fn what_nothing_can_be_learnt_from_is_told_before() {
    let learnt = |inter: &str, item: &str| load(inter, item).unwrap().check_trainable();
    learnt(r#"{"0": [0, 1, 0], "1": [1, 0, 1, 0]}"#, "").unwrap();
    let error = learnt(r#"{"0": [0, 1, 0], "1": [1, 0, 1]}"#, "").unwrap_err().to_string();
    assert!(error.contains("no user has two training items"), "{error}");
    let error = learnt(r#"{"0": [0, 0, 0, 0]}"#, "").unwrap_err().to_string();
    assert!(error.contains("one item alone"), "{error}");
}

#[test]
fn users_are_ordered_by_number_where_keys_are_numbers() {
    let ids = |inter: &str| -> Vec<String> {
        load(inter, ITEM).unwrap().users.into_iter().map(|user| user.id).collect()
    };
    let user = "[0, 1, 2]";
    assert_eq!(ids(&format!(r#"{{"10": {user}, "9": {user}, "2": {user}}}"#)), ["2", "9", "10"]);
    assert_eq!(ids(&format!(r#"{{"10": {user}, "x": {user}, "2": {user}}}"#)), ["10", "x", "2"]);
}

#[test]
fn malformed_json_is_located() {
    assert_fails("{\"0\": [0, 1, 2],\n \"1\": [0, \"1\"]}", ITEM, &["shop.inter.json", "line 2"]);
    assert_fails("{\"0\": [0, 1, -2]}", ITEM, &["shop.inter.json", "-2", "line 1 column"]);
    assert_fails("[1]", ITEM, &["shop.inter.json", "expected an object"]);
    assert_fails(INTER, "{\"0\": {\"title\":\n\n 7}}", &["shop.item.json", "7", "line 3"]);
    assert_fails(INTER, "{\"0\": {}", &["shop.item.json", "EOF"]);
}

#[test]
fn keys_that_occur_twice_are_refused() {
    let users = "{\"a\": [0, 1, 2],\n\"a\": [2, 1, 0]}";
    assert_fails(users, ITEM, &["shop.inter.json", "\"a\" occurs twice", "line 2"]);
    let items = "{\"0\": {},\n\"1\": {},\n\"1\": {}}";
    assert_fails(INTER, items, &["shop.item.json", "\"1\" occurs twice", "line 3"]);
}

#[test]
fn item_keys_must_count_from_zero() {
    assert_fails(
        INTER,
        r#"{"0": {}, "2": {}, "3": {}}"#,
        &["shop.item.json", "no item 1", "0 to 2"],
    );
    assert_fails(INTER, r#"{"0": {}, "01": {}}"#, &["shop.item.json", "\"01\""]);
    assert_fails(INTER, r#"{"0": {}, "B00": {}}"#, &["shop.item.json", "\"B00\""]);
    let twice = r#"{"0": {"asin": "X"}, "1": {"asin": "Y"}, "2": {"asin": "X"}}"#;
    assert_fails(INTER, twice, &["shop.item.json", "items 0 and 2", "\"X\""]);
}

#[test]
fn an_unknown_item_is_named_with_its_user() {
    let inter = r#"{"0": [0, 1, 2], "u7": [0, 3]}"#;
    assert_fails(inter, ITEM, &["shop.inter.json", "\"u7\"", "item 3", "3 items"]);
}

#[test]
fn short_users_are_left_out_and_counted() {
    let data = load(r#"{"0": [0, 1], "1": [2, 0, 1], "2": [], "3": [1]}"#, ITEM).unwrap();
    assert_eq!((data.users.len(), data.short_users), (1, 3));
    assert_eq!(data.users[0].id, "1");
    assert_fails(r#"{"0": [0, 1], "1": [2]}"#, ITEM, &["shop.inter.json", "2 have fewer"]);
    assert_fails("{}", "", &["shop.inter.json", "no user"]);
}

#[test]
fn a_missing_folder_or_file_says_what_belongs_there() {
    let remedy = "X.inter.json";
    let (_parent, dir) = folder("", ITEM);
    let no_file = Dataset::load(&dir).unwrap_err();
    assert!(matches!(no_file, DataError::NoInteractions { .. }), "{no_file}");
    assert!(no_file.to_string().contains(remedy), "{no_file}");
    let no_folder = Dataset::load(&dir.join("elsewhere")).unwrap_err();
    assert!(matches!(no_folder, DataError::NoFolder { .. }), "{no_folder}");
    assert!(no_folder.to_string().contains(remedy), "{no_folder}");
}

#[test]
fn the_only_interactions_are_taken_whatever_the_folder_is_called() {
    let (_parent, dir) = folder("", "");
    fs::write(dir.join("Other.inter.json"), INTER).unwrap();
    fs::write(dir.join("Other.item.json"), ITEM).unwrap();
    let data = Dataset::load(&dir).unwrap();
    assert!(data.name == "Other" && data.has_text());
    fs::write(dir.join("Another.inter.json"), INTER).unwrap();
    let error = Dataset::load(&dir).unwrap_err().to_string();
    assert!(error.contains("Another.inter.json, Other.inter.json"), "{error}");
    fs::write(dir.join("shop.inter.json"), INTER).unwrap();
    assert_eq!(Dataset::load(&dir).unwrap().name, "shop");
}

#[test]
fn the_fingerprint_follows_content_and_not_form() {
    let fingerprint = |inter: &str, item: &str| load(inter, item).unwrap().fingerprint;
    let base = fingerprint(INTER, ITEM);
    assert_eq!(base.len(), 64);
    let respaced = INTER.replace(' ', "\n\t");
    let reordered = r#"{"1": [2, 0, 1], "0": [0, 1, 2, 1]}"#;
    assert_eq!(base, fingerprint(&respaced, &ITEM.replace(':', " :\n")));
    assert_eq!(base, fingerprint(reordered, ITEM));
    assert_eq!(base, fingerprint(INTER, &ITEM.replace("3.5", "4.5")));
    assert_ne!(base, fingerprint(&INTER.replace("2, 1]", "2, 0]"), ITEM));
    assert_ne!(base, fingerprint(&INTER.replace("[2, 0, 1]", "[2, 1, 0]"), ITEM));
    assert_ne!(base, fingerprint(INTER, &ITEM.replace("a bar", "a bas")));
    // The same characters, moved from one field to the next.
    let moved = ITEM.replace("\"soap\"", "\"soapa b\"").replace("\"a bar\"", "\"ar\"");
    assert_ne!(base, fingerprint(INTER, &moved));
}

#[test]
fn what_is_written_reads_back() {
    let mut data = load(INTER, ITEM).unwrap();
    data.items[2].title = "quote \" backslash \\ line\nend, \u{1f9f4} <b>".into();
    data.items[2].raw_id = Some("\"raw\"".into());
    data.users[1].id = "1001".into();
    let data = Dataset::new("copy", data.users, data.items).unwrap();
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("deep").join("copy");
    for _ in 0..2 {
        write(&dir, "copy", &data).unwrap();
        let back = Dataset::load(&dir).unwrap();
        assert_eq!((&back.name, &back.users, &back.items), (&data.name, &data.users, &data.items));
        assert_eq!(back.fingerprint, data.fingerprint);
    }
    let mut files: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["copy.inter.json", "copy.item.json"]);
}

#[test]
fn a_failed_write_names_the_file() {
    let (_parent, dir) = folder(INTER, "");
    let below_a_file = dir.join("shop.inter.json").join("x");
    let error = write(&below_a_file, "x", &load(INTER, ITEM).unwrap()).unwrap_err().to_string();
    assert!(error.contains("shop.inter.json"), "{error}");
}

#[test]
fn datasets_from_parts_are_checked_too() {
    let user = |id: &str, items: &[ItemId]| User { id: id.into(), items: items.into() };
    let items = vec![Item::default(); 3];
    let twice = vec![user("a", &[0, 1, 2]), user("a", &[0, 1, 2])];
    let error = Dataset::new("made", twice, items.clone()).unwrap_err().to_string();
    assert!(error.contains("made") && error.contains("\"a\" occurs twice"), "{error}");
    let unknown = vec![user("b", &[0, 1, 3])];
    let error = Dataset::new("made", unknown, items).unwrap_err().to_string();
    assert!(error.contains("\"b\" has item 3"), "{error}");
}

#[test]
fn training_does_not_see_held_out_items() {
    let data = load(INTER, ITEM).unwrap();
    let other = data.with_other_targets();
    assert_ne!(data.fingerprint, other.fingerprint);
    for split in [Split::Valid, Split::Test] {
        let targets = data.targets(split);
        assert_eq!(targets, other.targets(split));
        assert!(targets.iter().all(|&t| data.target_item(t) != other.target_item(t)));
    }
    assert!(data.train_sequences().eq(other.train_sequences()));
    assert!(data.train_sequences().eq([&[0, 1][..], &[2][..]]));
    assert_eq!(data.popularity(), [1, 1, 1]);
    assert_eq!(other.popularity(), [1, 1, 1]);
}

#[test]
fn repeats_are_counted_in_training_alone() {
    // Training sees 0 1 0 0 and 2: of three items after others two are taken again.
    let data = load(r#"{"0": [0, 1, 0, 0, 2, 0], "1": [2, 2, 2]}"#, ITEM).unwrap();
    assert_eq!(data.repeats(), 2.0 / 3.0);
    assert_eq!(data.with_other_targets().repeats(), 2.0 / 3.0);
    assert_eq!(load(r#"{"1": [2, 2, 2]}"#, ITEM).unwrap().repeats(), 0.0);
}

#[test]
fn a_user_of_one_training_item_is_a_stranger() {
    let data = load(INTER, ITEM).unwrap();
    assert_eq!([data.as_trained(0), data.as_trained(1)], [Some(0), None]);
}

#[test]
fn new_items_go_by_the_next_ids_or_by_those_of_the_shop() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("new.json");
    let after = |text: &str, numeric_raw_ids: bool| {
        fs::write(&path, text).unwrap();
        let items = NewItems::read(&path).unwrap().after(6, numeric_raw_ids);
        items.map(|items| {
            let name =
                |item: &Item| format!("{}={}", item.raw_id.as_deref().unwrap_or("-"), item.title);
            items.iter().map(name).collect::<Vec<_>>().join(" ")
        })
    };
    let next = r#"{"7": {"title": "b"}, "6": {"title": "a"}}"#;
    assert_eq!(after(next, false).unwrap(), "-=a -=b");
    assert_eq!(after(next, true).unwrap(), "7=b 6=a");
    let far = r#"{"12345": {"title": "a"}, "4294967296": {"title": "b"}}"#;
    assert!(after(far, false).unwrap_err().to_string().contains("numbered from 6"));
    assert_eq!(after(far, true).unwrap(), "12345=a 4294967296=b");
    // Whose own ids stand in a field.
    let named = r#"{"7": {"title": "b", "item_id": 81}, "6": {"title": "a", "item_id": "80"}}"#;
    assert_eq!(after(named, true).unwrap(), "80=a 81=b");
}

#[test]
fn training_by_time_does_not_see_held_out_items() {
    let users =
        (0..20).map(|u| User { id: u.to_string(), items: (0..5).map(|i| (u + i) % 9).collect() });
    let dataset = Dataset::new("made", users.collect(), vec![Item::default(); 9]).unwrap();
    let times = (0..20).map(|u| (0..5).map(|i| 3 * u + 4 * i).collect()).collect();
    let dataset = Dataset { times: Some(times), ..dataset };
    for rule in [SplitRule::TimedLeaveOneOut, SplitRule::Temporal] {
        let config = SplitConfig { rule, ..SplitConfig::default() };
        let data = dataset.clone().divided(config).unwrap();
        let other = data.with_other_targets();
        assert_ne!(data.fingerprint, other.fingerprint);
        assert!(data.train_sequences().eq(other.train_sequences()));
        assert_eq!(data.popularity(), other.popularity());
        // Nobody's training reaches the time at which that of validation begins.
        let times = data.times.as_ref().unwrap();
        let time = |target: &Target| times[target.user][target.position];
        let last =
            (0..20).filter_map(|u| Some(times[u][data.train(u).len().checked_sub(1)?])).max();
        let valid = data.targets(Split::Valid).iter().map(time).min();
        let test = data.targets(Split::Test).iter().map(time).min();
        assert!(last < valid && data.targets(Split::Valid).iter().map(time).max() < test, "{rule}");
    }
}

#[test]
fn training_beside_samples_of_users_does_not_see_held_out_items() {
    let users =
        (0..40).map(|u| User { id: u.to_string(), items: (0..5).map(|i| (u + i) % 9).collect() });
    let dataset = Dataset::new("made", users.collect(), vec![Item::default(); 9]).unwrap();
    let rule = SplitRule::SampledLeaveOneOut;
    let data = dataset.divided(SplitConfig { rule, ..SplitConfig::default() }).unwrap();
    let other = data.with_other_targets();
    assert_ne!(data.fingerprint, other.fingerprint);
    assert!(data.train_sequences().eq(other.train_sequences()));
    assert_eq!(data.popularity(), other.popularity());
    let held_out: usize =
        [Split::Valid, Split::Test].map(|split| data.targets(split).len()).iter().sum();
    let trained: usize = data.train_sequences().map(<[_]>::len).sum();
    assert_eq!(trained + held_out, 200);
}

#[test]
fn texts_and_interactions_have_fingerprints_of_their_own() {
    let data = load(INTER, ITEM).unwrap();
    let mut items = data.items.clone();
    items[0].title.push('!');
    let texts = Dataset::new("made", data.users.clone(), items).unwrap();
    assert_eq!(data.interactions_fingerprint, texts.interactions_fingerprint);
    assert!(
        data.texts_fingerprint != texts.texts_fingerprint && data.fingerprint != texts.fingerprint
    );
    let other = data.with_other_targets();
    assert_ne!(data.interactions_fingerprint, other.interactions_fingerprint);
    assert_eq!(data.texts_fingerprint, other.texts_fingerprint);
}

fn shared(name: &str) -> Dataset {
    let shared = std::env::var_os("LLMBS_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    Dataset::load(&shared.join("data").join(name)).unwrap()
}

#[test]
#[ignore = "needs shared/data"]
fn shared_datasets_have_their_published_sizes() {
    let sizes = |data: &Dataset| {
        (data.users.len() + data.short_users, data.num_items(), data.num_interactions())
    };
    let beauty = shared("Beauty");
    assert_eq!(sizes(&beauty), (22_363, 12_101, 198_502));
    assert!(beauty.has_text() && Lookup::new(&beauty).item("B004756YJA").unwrap() == 0);
    let scientific = shared("Scientific");
    assert_eq!(sizes(&scientific), (3_285, 3_686, 22_743));
    assert!(scientific.has_text());
    let instruments = shared("Instruments");
    assert_eq!(sizes(&instruments), (24_772, 9_922, 206_153));
    assert!(!instruments.has_text());
    assert_eq!(sizes(&shared("Sports")), (35_598, 18_357, 296_337));
}

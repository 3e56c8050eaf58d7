//! From a dataset to each format and back: the same dataset.

use std::path::{Path, PathBuf};

use llmbs::data::synth::Shop;
use llmbs::data::{self, Dataset, Item, ItemId, User};
use llmbs::export::{Exported, Target, export};
use llmbs::import::{Request, import};
use proptest::prelude::*;

const TARGETS: [Target; 4] = [Target::Lcrec, Target::Recbole, Target::S3rec, Target::UserSequence];

/// Exports and imports again.
fn there_and_back(dataset: &Dataset, target: Target, dir: &Path) -> (Dataset, Exported) {
    let (there, back) = (dir.join(format!("{target}")), dir.join(format!("back-{target}")));
    let exported = export(dataset, target, &there, true).unwrap();
    let source = match target {
        Target::S3rec => there.join("s3rec.txt"),
        _ => there.clone(),
    };
    let mut request = Request::new(source);
    let items = there.join("s3rec.items.jsonl");
    if items.exists() && target == Target::S3rec {
        request.items = vec![items];
    }
    let has_gaps = dataset.items.iter().any(|item| item.is_gap);
    let lists_items = match target {
        Target::S3rec => dataset.has_text(),
        Target::Lcrec => !has_gaps,
        Target::Recbole | Target::UserSequence => true,
    };
    request.all_items = lists_items;
    request.keep_duplicates = true;
    request.raw_texts = true;
    import(&request, &back, true, &mut |_| ()).unwrap();
    (Dataset::load(&back).unwrap(), exported)
}

fn assert_same(dataset: &Dataset, back: &Dataset, target: Target) {
    let raw = |dataset: &Dataset| -> Vec<String> {
        let name =
            |(id, item): (usize, &Item)| item.raw_id.clone().unwrap_or_else(|| id.to_string());
        dataset.items.iter().enumerate().map(name).collect()
    };
    assert_eq!(dataset.users, back.users, "{target}");
    assert_eq!(raw(dataset), raw(back), "{target}");
    assert_eq!(dataset.fingerprint, back.fingerprint, "{target}");
}

#[test]
fn the_synthetic_shop_comes_back_from_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let shop = Shop::generate(&llmbs::data::synth::SynthConfig {
        users: 60,
        items: 40,
        groups: 5,
        ..Default::default()
    })
    .unwrap();
    for target in TARGETS {
        let (back, exported) = there_and_back(&shop.dataset, target, dir.path());
        assert_same(&shop.dataset, &back, target);
        assert_eq!((exported.users, exported.changed_texts), (60, 0));
        assert!(
            exported.files.iter().all(|file| dir
                .path()
                .join(target.to_string())
                .join(file)
                .is_file())
        );
    }
}

#[test]
fn an_id_that_begins_like_a_file_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let item = |raw: &str| Item { raw_id: Some(raw.into()), ..Item::default() };
    let user = User { id: "\u{feff}u".into(), items: vec![0, 1, 2] };
    let items = ["\u{feff}a", "b", "\u{feff}"].map(item).into();
    let dataset = Dataset::new("Shop", vec![user], items).unwrap();
    for target in TARGETS {
        let (back, _) = there_and_back(&dataset, target, dir.path());
        assert_eq!(back.users, dataset.users, "{target}");
    }
}

#[test]
fn times_come_back_from_the_formats_that_have_them() {
    let dir = tempfile::tempdir().unwrap();
    let log = "user,item,ts\n7,a,300\n7,b,100\n7,c,200\n8,a,-5\n8,c,0\n8,b,7\n9,a,1\n";
    std::fs::write(dir.path().join("log.csv"), log).unwrap();
    let shop = dir.path().join("Shop");
    import(&Request::new(dir.path().join("log.csv")), &shop, false, &mut |_| ()).unwrap();
    let dataset = Dataset::load(&shop).unwrap();
    assert_eq!(dataset.times, Some(vec![vec![100, 200, 300], vec![-5, 0, 7]]));
    let (back, exported) = there_and_back(&dataset, Target::Lcrec, dir.path());
    assert_eq!(back.times, dataset.times);
    assert!(exported.files.contains(&"lcrec.times.json".to_string()), "{:?}", exported.files);
    // RecBole's times are decimals, which need a point nowhere.
    assert_eq!(there_and_back(&dataset, Target::Recbole, dir.path()).0.times, dataset.times);
    assert_eq!(there_and_back(&dataset, Target::S3rec, dir.path()).0.times, None);
    let written = dir.path().join("written");
    data::write(&written, "written", &dataset).unwrap();
    assert_eq!(Dataset::load(&written).unwrap().times, dataset.times);
    data::write(&written, "written", &back).unwrap();
    let timeless = Dataset::new("shop", back.users, back.items).unwrap();
    data::write(&written, "written", &timeless).unwrap();
    assert_eq!(Dataset::load(&written).unwrap().times, None);
}

#[test]
fn texts_about_users_follow_their_users_and_items() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("X.inter.json", r#"{"4": [2, 0, 1], "9": [1, 2, 0], "5": [1]}"#),
        ("X.user2id", "ann\t4\nbob\t9\neve\t5\n"),
        ("X.item2id", "soap\t0\nfoam\t1\nbalm\t2\n"),
        (
            "X.user.json",
            r#"{"user_explicit_preference": {"9": ["likes foam"]}, "user_vague_intention": {"train":
                {"4": {"querys": ["q"], "item": 2, "inters": []}}, "test": {"9": {"querys": ["a"], "item": 0}}}}"#,
        ),
    ];
    let there = dir.path().join("X");
    std::fs::create_dir(&there).unwrap();
    for (name, text) in files {
        std::fs::write(there.join(name), text).unwrap();
    }
    let shop = dir.path().join("Shop");
    import(&Request::new(&there), &shop, false, &mut |_| ()).unwrap();
    let found = Dataset::load(&shop).unwrap();
    assert_eq!(found.users.iter().map(|user| user.id.as_str()).collect::<Vec<_>>(), ["ann", "bob"]);
    let texts = found.user_texts.clone().unwrap();
    assert_eq!(texts[1].preferences, ["likes foam"]);
    let wish = texts[0].wish.as_ref().unwrap();
    assert_eq!(found.items[wish.item as usize].raw_id.as_deref(), Some("balm"));
    // What ends with the answer is not read.
    assert_eq!(texts[1].wish, None);
    assert_eq!(there_and_back(&found, Target::Lcrec, dir.path()).0.user_texts, found.user_texts);
    let without = there_and_back(&found, Target::Recbole, dir.path()).0;
    assert_eq!(without.interactions_fingerprint, found.interactions_fingerprint);
    assert_ne!(without.texts_fingerprint, found.texts_fingerprint);
}

#[test]
fn an_imported_shop_comes_back_by_the_default_rules() {
    let dir = tempfile::tempdir().unwrap();
    let log = "user,item,ts,title\n7,010,3,Soap &amp; more\n7,10,1,\n007,10,1,Foam\n7,ü,2,x\n007,010,2,\n007,q,3,\n";
    std::fs::write(dir.path().join("log.csv"), log).unwrap();
    let shop = dir.path().join("Shop");
    import(&Request::new(dir.path().join("log.csv")), &shop, false, &mut |_| ()).unwrap();
    let first = Dataset::load(&shop).unwrap();
    assert_eq!(first.users[0].id, "7");
    for target in [Target::Lcrec, Target::Recbole, Target::UserSequence] {
        let there = dir.path().join(format!("{target}"));
        export(&first, target, &there, false).unwrap();
        let back = dir.path().join(format!("back-{target}"));
        import(&Request::new(&there), &back, false, &mut |_| ()).unwrap();
        assert_same(&first, &Dataset::load(&back).unwrap(), target);
    }
}

#[test]
fn what_a_format_cannot_hold_is_changed_and_counted_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let user = |id: &str| User { id: id.into(), items: vec![0, 1, 0] };
    let item = |raw: &str, title: &str| Item {
        raw_id: Some(raw.into()),
        title: title.into(),
        ..Item::default()
    };
    let items = vec![item("a", "two\nlines; brand: none"), item("b", "; price:1;title : x")];
    let dataset = Dataset::new("shop", vec![user("u")], items).unwrap();
    let (back, exported) = there_and_back(&dataset, Target::UserSequence, dir.path());
    assert_eq!(
        (back.items[0].title.as_str(), exported.changed_texts),
        ("two lines, brand: none", 3)
    );
    assert_eq!(back.items[1].title, ", price:1;title : x");
    let (back, exported) = there_and_back(&dataset, Target::Recbole, dir.path());
    assert_eq!(
        (back.items[0].title.as_str(), exported.changed_texts),
        ("two lines; brand: none", 1)
    );
    let (back, _) = there_and_back(&dataset, Target::Lcrec, dir.path());
    assert_same(&dataset, &back, Target::Lcrec);

    let spaced =
        Dataset::new("shop", vec![user("u 1")], vec![item("a", ""), item("b", "")]).unwrap();
    let error = export(&spaced, Target::UserSequence, &dir.path().join("x"), false).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("the id \"u 1\" is empty or has a space")
            && error.contains("lcrec, recbole and s3rec can"),
        "{error}"
    );
    let (back, _) = there_and_back(&spaced, Target::Recbole, dir.path());
    assert_same(&spaced, &back, Target::Recbole);
    let tabbed =
        Dataset::new("shop", vec![user("u")], vec![item("a\tb", ""), item("b", "")]).unwrap();
    for target in TARGETS {
        let error = export(&tabbed, target, &dir.path().join("x"), false).unwrap_err().to_string();
        assert!(error.contains("shop: the id \"a\\tb\" is empty or has a"), "{error}");
    }
    // The second item goes by its number, which is what the first is called.
    let half = vec![item("1", ""), Item::default()];
    let merged = Dataset::new("shop", vec![user("u")], half).unwrap();
    for target in TARGETS {
        let error = export(&merged, target, &dir.path().join("x"), false).unwrap_err().to_string();
        assert!(error.contains("shop: two items are called \"1\""), "{error}");
    }
    assert!(!dir.path().join("x").exists());
}

#[test]
fn the_files_are_those_of_the_format() {
    let dir = tempfile::tempdir().unwrap();
    let item = |title: &str| Item { title: title.into(), brand: "B".into(), ..Item::default() };
    let users = vec![User { id: "u".into(), items: vec![1, 0, 2] }];
    let dataset = Dataset::new("shop", users, vec![item("A"), item(""), item("C")]).unwrap();
    let text = |target: Target, file: &str| {
        export(&dataset, target, &dir.path().join("X"), true).unwrap();
        std::fs::read_to_string(dir.path().join("X").join(file)).unwrap()
    };
    let inter = "user_id:token\titem_id:token\ttimestamp:float\nu\t1\t0\nu\t0\t1\nu\t2\t2\n";
    assert_eq!(text(Target::Recbole, "X.inter"), inter);
    let item = "item_id:token\ttitle:token_seq\tbrand:token_seq\n0\tA\tB\n1\t\tB\n2\tC\tB\n";
    assert_eq!(text(Target::Recbole, "X.item"), item);
    assert_eq!(text(Target::S3rec, "X.txt"), "1 2 1 3\n");
    assert_eq!(text(Target::S3rec, "X.item2id"), "0\t1\n1\t2\n2\t3\n");
    assert_eq!(text(Target::UserSequence, "user_sequence.txt"), "u 1 0 2\n");
    let plain = "0 title: A; brand: B\n1 brand: B\n2 title: C; brand: B\n";
    assert_eq!(text(Target::UserSequence, "item_plain_text.txt"), plain);
    assert_eq!(text(Target::Lcrec, "X.inter.json"), "{\n\"0\": [1,0,2]\n}\n");
    assert_eq!(text(Target::Lcrec, "X.user2id"), "u\t0\n");
    std::fs::write(dir.path().join("X/notes"), "").unwrap();
    let error =
        export(&dataset, Target::Lcrec, &dir.path().join("X"), true).unwrap_err().to_string();
    assert!(error.contains("holds notes, which would be lost"), "{error}");
}

#[test]
fn gaps_between_ids_stay_gaps_and_are_no_items() {
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().join("Gaps");
    std::fs::create_dir(&there).unwrap();
    std::fs::write(there.join("Gaps.inter.json"), r#"{"u": [0, 5, 9, 5]}"#).unwrap();
    for named in [false, true] {
        if named {
            // The second is called as the number that no item has.
            std::fs::write(there.join("Gaps.item2id"), "a\t0\n1\t5\nc\t9\n").unwrap();
        }
        let dataset = Dataset::load(&there).unwrap();
        let raw = if named { ["a", "1", "c"] } else { ["0", "5", "9"] };
        for target in TARGETS {
            let (back, exported) = there_and_back(&dataset, target, dir.path());
            assert_eq!(exported.items, 3, "{target}");
            // An import numbers anew.
            let back: Vec<_> =
                back.items.iter().map(|item| item.raw_id.as_deref().unwrap()).collect();
            assert_eq!(back, raw, "{target}");
            let there = dir.path().join(target.to_string());
            assert!(exported.files.iter().all(|file| there.join(file).is_file()), "{target}");
        }
        let assert_same_here = |folder: &str, target| {
            let copy = Dataset::load(&dir.path().join(folder)).unwrap();
            assert_same(&dataset, &copy, target);
            assert_eq!(copy.catalogue().collect::<Vec<_>>(), [0, 5, 9]);
            assert_eq!(copy.interactions_fingerprint, dataset.interactions_fingerprint);
        };
        assert_same_here("lcrec", Target::Lcrec);
        // What an earlier dataset of this name had goes.
        let written = dir.path().join("written");
        let whole = vec![Item { title: "x".into(), ..Item::default() }; 10];
        let whole = Dataset::new("written", dataset.users.clone(), whole).unwrap();
        data::write(&written, "written", &whole).unwrap();
        data::write(&written, "written", &dataset).unwrap();
        assert_same_here("written", Target::Lcrec);
        data::write(&written, "written", &whole).unwrap();
        let back = Dataset::load(&written).unwrap();
        assert_eq!((&back.items, &back.fingerprint), (&whole.items, &whole.fingerprint));
    }
}

fn dataset() -> impl Strategy<Value = Dataset> {
    let id = "[^\\p{Cc}\\s]{1,8}";
    let text =
        prop_oneof![Just(String::new()), "[a-c;:<>&\"', üé日\u{2028}]{0,20}", "[^\\p{Cc}]{0,20}"];
    let item = (id, [text.clone(), text.clone(), text.clone(), text]);
    let items = prop::collection::vec(item, 3..8);
    let users = prop::collection::vec((id, prop::collection::vec(0..1000u32, 3..7)), 1..6);
    (items, users).prop_map(|(mut items, mut users)| {
        items.sort();
        items.dedup_by(|a, b| a.0 == b.0);
        users.sort();
        users.dedup_by(|a, b| a.0 == b.0);
        let number = items.len() as ItemId;
        let items = items.into_iter().map(|(raw, texts)| {
            let [title, description, brand, categories] = texts.map(|text| text.trim().to_string());
            Item { title, description, brand, categories, raw_id: Some(raw), is_gap: false }
        });
        let users = users.into_iter().map(|(id, taken)| User {
            id,
            items: taken.into_iter().map(|item| item % number).collect(),
        });
        Dataset::new("shop", users.collect(), items.collect()).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_dataset_comes_back_from_every_format(dataset in dataset()) {
        let dir = tempfile::tempdir().unwrap();
        for target in TARGETS {
            let (back, exported) = there_and_back(&dataset, target, dir.path());
            if target == Target::S3rec && !dataset.has_text() {
                // No file lists the items that nobody took, nor their order.
                continue;
            }
            prop_assert_eq!(exported.changed_texts, 0);
            assert_same(&dataset, &back, target);
        }
    }
}

#[test]
#[ignore = "needs shared/data"]
fn shared_beauty_comes_back_from_every_format() {
    let shared = std::env::var_os("LLMBS_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let beauty = Dataset::load(&shared.join("data/Beauty")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for target in TARGETS {
        let (back, _) = there_and_back(&beauty, target, dir.path());
        assert_same(&beauty, &back, target);
    }
    // By default rules as well: its items are numbered by first appearance.
    let shop = dir.path().join("Shop");
    import(&Request::new(shared.join("data/Beauty")), &shop, false, &mut |_| ()).unwrap();
    assert_same(&beauty, &Dataset::load(&shop).unwrap(), Target::Lcrec);
    data::write(&dir.path().join("again"), "again", &beauty).unwrap();
}

//! The synthetic shop is deterministic and carries the two signals it promises.

use super::*;
use crate::data::{Stats, Target};

fn small(seed: u64) -> Shop {
    let config = SynthConfig { seed, users: 60, items: 90, groups: 6, ..SynthConfig::default() };
    Shop::generate(&config).unwrap()
}

/// The share of steps from one item of a sequence to the next for which `related` holds.
fn share_of_steps(shop: &Shop, related: impl Fn(usize, usize) -> bool) -> f64 {
    let steps: Vec<bool> = shop
        .dataset
        .users
        .iter()
        .flat_map(|user| user.items.windows(2))
        .map(|pair| related(pair[0] as usize, pair[1] as usize))
        .collect();
    steps.iter().filter(|&&yes| yes).count() as f64 / steps.len() as f64
}

#[test]
fn a_shop_is_its_settings() {
    let (a, b, other) = (small(1), small(1), small(2));
    assert_eq!(a.dataset.users, b.dataset.users);
    assert_eq!(a.dataset.items, b.dataset.items);
    assert_eq!((&a.group, &a.category), (&b.group, &b.category));
    assert_eq!(a.dataset.fingerprint, b.dataset.fingerprint);
    assert_ne!(a.dataset.users, other.dataset.users);
    assert_ne!(a.dataset.items, other.dataset.items);
    assert_ne!(a.group, other.group);
}

#[test]
fn a_shop_is_the_same_on_any_number_of_threads() {
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let (a, b) = (one.install(|| small(1)), three.install(|| small(1)));
    assert_eq!(a.dataset.fingerprint, b.dataset.fingerprint);
    assert_eq!(one.install(|| a.oracle_recall(10)), three.install(|| b.oracle_recall(10)));
}

#[test]
fn the_default_shop_has_the_intended_shape() {
    let shop = Shop::generate(&SynthConfig::default()).unwrap();
    let stats = Stats::of(&shop.dataset);
    assert_eq!((stats.users, stats.short_users, stats.items), (2500, 0, 800));
    assert!((8.5..9.5).contains(&stats.mean_length), "{stats}");
    assert_eq!((stats.items_without_text, stats.max_length), (0, 14));
    for user in &shop.dataset.users {
        assert!(user.items.len() >= 5);
        let mut items = user.items.clone();
        items.sort_unstable();
        items.dedup();
        assert_eq!(items.len(), user.items.len(), "user {} has an item twice", user.id);
    }
    // Published figures name this fingerprint: whoever changes the shop must measure again.
    assert_eq!(&stats.fingerprint[..16], "8bd3fd7cf0b94712");
}

#[test]
fn groups_say_nothing_about_categories() {
    let shop = Shop::generate(&SynthConfig::default()).unwrap();
    let n = shop.group.len();
    let (mut same_group, mut same_both) = (0, 0);
    for i in 0..n {
        for j in 0..i {
            if shop.group[i] == shop.group[j] {
                same_group += 1;
                same_both += usize::from(shop.category[i] == shop.category[j]);
            }
        }
    }
    // 15 categories of equal size; 7,600 pairs, so 0.02 is more than six standard deviations.
    let share = f64::from(same_both as u32) / f64::from(same_group as u32);
    assert!((share - 1.0 / 15.0).abs() < 0.02, "{share}");
}

#[test]
fn steps_follow_groups_and_categories_far_above_chance() {
    let shop = Shop::generate(&SynthConfig::default()).unwrap();
    let in_group = share_of_steps(&shop, |i, j| shop.group[i] == shop.group[j]);
    let in_category = share_of_steps(&shop, |i, j| shop.category[i] == shop.category[j]);
    // Chance is 1/40 and 1/15.
    assert!(in_group > 0.25, "{in_group}");
    assert!(in_category > 0.25, "{in_category}");
}

#[test]
fn each_signal_tells_something_and_both_tell_most() {
    for seed in 1..=3 {
        let shop = Shop::generate(&SynthConfig { seed, ..SynthConfig::default() }).unwrap();
        let recall = |known| shop.oracle_recall_of(known, 10);
        let (popularity, both) = (recall(Known::Popularity), shop.oracle_recall(10));
        let (behavior, text) = (recall(Known::Behavior), recall(Known::Text));
        let all = format!("popularity {popularity} behavior {behavior} text {text} both {both}");
        assert!((0.03..0.06).contains(&popularity), "{all}");
        assert!((0.4..0.55).contains(&both), "{all}");
        assert!(behavior > 4.0 * popularity && text > 3.0 * popularity, "{all}");
        assert!(both > 1.3 * behavior && both > 1.8 * text, "{all}");
    }
}

#[test]
fn popularity_as_counted_in_training_is_a_weak_recommender() {
    let dataset = Shop::generate(&SynthConfig::default()).unwrap().dataset;
    let counts = dataset.popularity();
    let mut ranked: Vec<usize> = (0..counts.len()).collect();
    ranked.sort_by_key(|&item| std::cmp::Reverse(counts[item]));
    let hit = |target: &&Target| ranked[..10].contains(&(dataset.target_item(**target) as usize));
    let targets = dataset.targets(Split::Test);
    let recall = targets.iter().filter(hit).count() as f64 / targets.len() as f64;
    assert!((0.03..0.06).contains(&recall), "{recall}");
}

/// The oracle is only as good as its distribution: drawn targets must occur as often as it says.
#[test]
fn the_oracle_is_calibrated() {
    let shop = Shop::generate(&SynthConfig::default()).unwrap();
    let (mut expected, mut hits) = (0.0, 0.0);
    for &target in shop.dataset.targets(Split::Test) {
        let mut weights = shop.process.next_item(shop.dataset.history(target, 99), Known::Both);
        let target = weights[shop.dataset.target_item(target) as usize];
        let total: f64 = weights.iter().sum();
        weights.sort_by(|a, b| b.total_cmp(a));
        expected += weights[..10].iter().sum::<f64>() / total;
        hits += f64::from(u8::from(target >= weights[9]));
    }
    let n = shop.dataset.users.len() as f64;
    // Three standard deviations of a share of 2,500 users.
    assert!((expected / n - hits / n).abs() < 0.03, "expected {expected}, found {hits}");
    assert!((shop.oracle_recall(10) - hits / n).abs() < 0.002);
}

#[test]
fn a_shop_survives_its_files() {
    let parent = tempfile::TempDir::new().unwrap();
    let dir = parent.path().join("synth");
    let dataset = small(4).dataset;
    crate::data::write(&dir, "synth", &dataset).unwrap();
    let back = Dataset::load(&dir).unwrap();
    assert_eq!((back.users, back.items), (dataset.users, dataset.items));
    assert_eq!(back.fingerprint, dataset.fingerprint);
}

#[test]
fn settings_that_cannot_be_met_are_named() {
    let base = SynthConfig::default;
    let cases = [
        ("users", SynthConfig { users: 0, ..base() }),
        ("groups", SynthConfig { groups: 0, ..base() }),
        ("groups", SynthConfig { groups: 401, ..base() }),
        ("min-length", SynthConfig { min_length: 2, ..base() }),
        ("max-length", SynthConfig { max_length: 4, ..base() }),
        ("max-length", SynthConfig { max_length: 800, ..base() }),
        ("zipf-exponent", SynthConfig { zipf_exponent: 9.0, ..base() }),
        ("text", SynthConfig { text: -0.1, ..base() }),
        ("both", SynthConfig { both: f64::NAN, ..base() }),
        ("noise", SynthConfig { noise: 0.0, ..base() }),
    ];
    for (key, config) in cases {
        let error = Shop::generate(&config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{key} = ")), "{error}");
    }
}

#[test]
fn the_smallest_shops_work() {
    let config = SynthConfig {
        users: 1,
        items: 4,
        groups: 2,
        min_length: 3,
        max_length: 3,
        ..SynthConfig::default()
    };
    let shop = Shop::generate(&config).unwrap();
    assert_eq!(shop.dataset.users[0].items.len(), 3);
    assert_eq!(shop.oracle_recall(2), 1.0);
}

#[test]
fn settings_are_kebab_case_and_checked_for_typos() {
    let config: SynthConfig = toml::from_str("users = 9\nzipf-exponent = 0.9").unwrap();
    assert_eq!(config, SynthConfig { users: 9, zipf_exponent: 0.9, ..SynthConfig::default() });
    assert!(toml::from_str::<SynthConfig>("zipf_exponent = 0.9").is_err());
}

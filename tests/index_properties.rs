//! Properties of item indices over random data: unique, balanced, the same on any number of threads.

use std::collections::{BTreeMap, BTreeSet};

use llmbs::index::{
    HierarchicalKMeans, ItemIndex, Level, Numbering, Source, Tree, Trie, agreement, branching,
    code_similarity, min_levels, store,
};
use llmbs::rng;
use ndarray::Array2;
use proptest::prelude::*;

/// `num_items` random vectors of which only `distinct` differ.
fn vectors(seed: u64, num_items: usize, dim: usize, distinct: usize) -> Array2<f32> {
    let values = rng::normal(&mut rng::stream(seed, "vectors", &[]), distinct * dim, 1.0);
    Array2::from_shape_fn((num_items, dim), |(i, j)| values[(i * 7 % distinct) * dim + j])
}

/// The items below every node of a level, by path.
fn clusters(tree: &Tree, level: usize) -> BTreeMap<Vec<u32>, Vec<u32>> {
    let mut clusters: BTreeMap<Vec<u32>, Vec<u32>> = BTreeMap::new();
    for (item, codes) in (0..).zip(tree.codes().chunks_exact(tree.num_levels())) {
        clusters.entry(codes[..level].to_vec()).or_default().push(item);
    }
    clusters
}

fn check_tree(tree: &Tree, vectors: &Array2<f32>, branching: usize) {
    for level in 0..tree.num_levels() {
        let children = clusters(tree, level + 1);
        assert_eq!(tree.centroids()[level].nrows(), children.len());
        for (path, items) in clusters(tree, level) {
            let num_children = branching.min(items.len());
            let sizes: Vec<usize> = children
                .iter()
                .filter(|(child, _)| child[..level] == path)
                .map(|(_, items)| items.len())
                .collect();
            assert_eq!(sizes.len(), num_children);
            let (floor, larger) = (items.len() / num_children, items.len() % num_children);
            assert_eq!(sizes.iter().sum::<usize>(), items.len());
            assert_eq!(sizes.iter().filter(|&&size| size == floor + 1).count(), larger);
            assert_eq!(sizes.iter().filter(|&&size| size == floor).count(), num_children - larger);
        }
        for (row, (path, items)) in children.iter().enumerate() {
            assert_eq!(tree.row(path), Some(row));
            assert!(level + 1 < tree.num_levels() || items.len() == 1);
            for (column, &centroid) in tree.centroids()[level].row(row).iter().enumerate() {
                let sum: f32 = items.iter().map(|&i| vectors[[i as usize, column]]).sum();
                assert!((centroid - sum / items.len() as f32).abs() < 1e-4);
            }
        }
    }
    assert_eq!(tree.row(&[]), None);
    assert_eq!(tree.row(&[branching as u32]), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trees_are_balanced_and_tell_all_items_apart(
        seed in 0u64..1000, num_items in 1usize..300, dim in 1usize..20, k in 2usize..20,
        extra_levels in 0usize..2, same in 1usize..4, aligned in any::<bool>(),
    ) {
        let levels = min_levels(num_items, k).unwrap() + extra_levels;
        let vectors = vectors(seed, num_items, dim, num_items.div_ceil(same));
        let numbering = if aligned { Numbering::Aligned } else { Numbering::Axis };
        let kmeans = HierarchicalKMeans { numbering, ..HierarchicalKMeans::new(k, levels) };
        let tree = kmeans.fit(vectors.view(), seed).unwrap();
        let index = ItemIndex::single(Source::Semantic, &tree).unwrap();
        prop_assert_eq!(index.num_items(), num_items);
        // Every code below the largest number of children has a token.
        let largest = |level| {
            let below = clusters(&tree, level);
            let branching = branching(num_items, k, levels).unwrap();
            below.values().map(|items| branching.min(items.len())).max().unwrap()
        };
        prop_assert_eq!(tree.num_codes(), (0..levels).map(largest).collect::<Vec<_>>());
        prop_assert_eq!(index.num_levels(), levels);
        check_tree(&tree, &vectors, branching(num_items, k, levels).unwrap());
    }

    #[test]
    fn a_trie_accepts_exactly_its_items(
        codes in prop::collection::btree_set(prop::collection::vec(0u32..6, 3), 1..60),
        keep in prop::collection::vec(any::<bool>(), 60),
    ) {
        let level = Level { source: Source::Random, num_codes: 6 };
        let num_items = codes.len() as u32;
        let index = ItemIndex::new(vec![level; 3], codes.into_iter().flatten().collect()).unwrap();
        let items: Vec<u32> = (0..num_items).filter(|&item| keep[item as usize]).collect();
        let trie = Trie::subset(&index, items.iter().rev().copied()).unwrap();
        let mut accepted = BTreeSet::new();
        let mut open = vec![(trie.root(), vec![])];
        while let Some((node, prefix)) = open.pop() {
            let below: Vec<u32> = items.iter().copied()
                .filter(|&item| index.item_positions(item).starts_with(&prefix)).collect();
            let next: BTreeSet<u32> = below.iter()
                .filter_map(|&item| index.item_positions(item).get(prefix.len()).copied()).collect();
            let children = trie.children(node);
            prop_assert_eq!(children.codes.to_vec(), next.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(trie.item(node).is_some(), prefix.len() == 3);
            if !items.is_empty() {
                prop_assert_eq!(trie.min_item(node), below[0]);
            }
            accepted.extend(trie.item(node));
            for (&code, child) in children.codes.iter().zip(children.nodes) {
                open.push((child, [prefix.clone(), vec![code]].concat()));
            }
        }
        prop_assert_eq!(accepted.into_iter().collect::<Vec<_>>(), items);
    }

    #[test]
    fn tokens_ids_and_files_round_trip(
        num_items in 1usize..200, sizes in prop::collection::vec(6usize..300, 3), seed in 0u64..1000,
    ) {
        let index = ItemIndex::random(num_items, &sizes, seed).unwrap();
        let vocabulary = index.vocabulary();
        prop_assert_eq!(vocabulary.iter().collect::<BTreeSet<_>>().len(), vocabulary.len());
        prop_assert_eq!(index.level_ranges().last().unwrap().end, vocabulary.len());
        for item in 0..num_items as u32 {
            let spelled: Vec<String> =
                index.token_ids(item).iter().map(|&id| vocabulary[id as usize].clone()).collect();
            prop_assert_eq!(spelled, index.tokens(item));
            prop_assert_eq!(index.item_of(index.item_codes(item)), Some(item));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.json");
        store::write(&path, &index).unwrap();
        let read = store::read(&path, &[Source::Random]).unwrap();
        prop_assert_eq!(read.codes(), index.codes());
        prop_assert_eq!(read.vocabulary(), vocabulary);
        prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn the_unit_index_has_semantic_levels_first() {
    let fit = |seed| HierarchicalKMeans::new(8, 2).fit(vectors(seed, 50, 4, 50).view(), 1).unwrap();
    let (semantic, behavior) = (fit(1), fit(2));
    let index = ItemIndex::unit(&semantic, &behavior).unwrap();
    let sources: Vec<Source> = index.levels().iter().map(|level| level.source).collect();
    assert_eq!(sources, [Source::Semantic, Source::Semantic, Source::Behavior, Source::Behavior]);
    for item in [0, 17, 49] {
        let codes = index.item_codes(item as u32);
        assert_eq!(codes[..2], semantic.codes()[item * 2..][..2]);
        assert_eq!(codes[2..], behavior.codes()[item * 2..][..2]);
    }
    let short = HierarchicalKMeans::new(8, 2).fit(vectors(1, 49, 4, 49).view(), 1).unwrap();
    let error = ItemIndex::unit(&semantic, &short).unwrap_err().to_string();
    assert_eq!(
        error,
        "the codes of source semantic are of 50 items and those of source behavior of 49"
    );
    assert!(ItemIndex::single(Source::Unit, &semantic).is_err());
}

#[test]
fn trees_are_the_same_on_one_and_two_threads() {
    let vectors = vectors(3, 3000, 24, 2000);
    // Samples smaller than the root, so that sampling is covered too.
    let kmeans = HierarchicalKMeans {
        sample_per_cluster: 40,
        numbering: Numbering::Aligned,
        ..HierarchicalKMeans::new(64, 0)
    };
    let fit = |threads, seed| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| kmeans.fit(vectors.view(), seed).unwrap())
    };
    let one = fit(1, 7);
    assert!(one == fit(2, 7) && one == fit(3, 7));
    assert!(one.codes() != fit(2, 8).codes());
}

#[test]
fn aligned_codes_are_more_alike_under_all_parents_and_change_no_cluster() {
    // Few directions within each blob, the same for all blobs.
    let (num_items, num_blobs, dim) = (600, 24, 16);
    let mut stream = rng::stream(12, "blobs", &[]);
    let centers = rng::normal(&mut stream, num_blobs * dim, 9.0);
    let steps = rng::normal(&mut stream, 25 * dim, 1.0);
    let noise = rng::normal(&mut stream, num_items * dim, 0.3);
    let vectors = Array2::from_shape_fn((num_items, dim), |(i, j)| {
        centers[i % num_blobs * dim + j] + steps[i / num_blobs * dim + j] + noise[i * dim + j]
    });
    let fit = |numbering| {
        let kmeans = HierarchicalKMeans { numbering, ..HierarchicalKMeans::new(25, 2) };
        kmeans.fit(vectors.view(), 3).unwrap()
    };
    let (axis, aligned) = (fit(Numbering::Axis), fit(Numbering::Aligned));
    let similarity = [code_similarity(&axis), code_similarity(&aligned)];
    assert_eq!((similarity[0][0], similarity[1][0]), (None, None));
    let (before, after) = (similarity[0][1].unwrap(), similarity[1][1].unwrap());
    assert!(after > 0.6 && before < 0.5 * after, "{before} {after}");
    let sets = |tree: &Tree| clusters(tree, 1).into_values().collect::<BTreeSet<_>>();
    assert_eq!(sets(&axis), sets(&aligned));
}

#[test]
fn separated_blobs_are_siblings() {
    let (num_items, num_blobs, dim) = (400, 20, 16);
    let mut stream = rng::stream(11, "blobs", &[]);
    let centers = rng::normal(&mut stream, num_blobs * dim, 5.0);
    let noise = rng::normal(&mut stream, num_items * dim, 0.5);
    let labels: Vec<usize> = (0..num_items).map(|item| item % num_blobs).collect();
    let vectors = Array2::from_shape_fn((num_items, dim), |(i, j)| {
        centers[labels[i] * dim + j] + noise[i * dim + j]
    });
    let tree = HierarchicalKMeans::new(256, 2).fit(vectors.view(), 5).unwrap();
    let index = ItemIndex::single(Source::Behavior, &tree).unwrap();
    let rates = agreement(&index, 0..1, &labels);
    let (siblings, strangers) = (rates.siblings.unwrap(), rates.strangers.unwrap());
    assert!(siblings > 0.9 && strangers < 0.02, "siblings {siblings}, strangers {strangers}");
}

#[test]
fn equal_vectors_are_told_apart_by_item_id() {
    let tree = HierarchicalKMeans::new(4, 2).fit(Array2::ones((10, 3)).view(), 1).unwrap();
    let codes: Vec<&[u32]> = tree.codes().chunks_exact(2).collect();
    assert!(codes.is_sorted(), "{codes:?}");
}

#[test]
fn bad_vectors_are_refused_by_row() {
    let mut vectors = vectors(1, 10, 3, 10);
    let kmeans = HierarchicalKMeans::new(4, 2);
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-1e20, "-1")] {
        vectors[[6, 2]] = value;
        let error = kmeans.fit(vectors.view(), 1).unwrap_err().to_string();
        assert!(error.starts_with(&format!("the vector of item 6 holds {shown}")), "{error}");
    }
    assert!(kmeans.fit(Array2::zeros((0, 3)).view(), 1).is_err());
    assert!(kmeans.fit(Array2::zeros((3, 0)).view(), 1).is_err());
    let error = kmeans.fit(Array2::zeros((17, 3)).view(), 1).unwrap_err().to_string();
    assert!(error.contains("raise k to 5 or levels to 3"), "{error}");
}

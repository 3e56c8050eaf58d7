use super::*;

/// The shipped configurations that the specifications are made for, each with as many items as its data have.
const CONFIGS: [(&str, usize); 2] = [("configs/demo.toml", 800), ("configs/beauty.toml", 12_101)];

#[test]
fn shipped_specifications_fit_the_shipped_configurations() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = std::fs::read_dir(root.join("configs/ablations")).unwrap();
    let files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 9, "{files:?}");
    for file in files {
        let spec = Spec::load(&file).unwrap();
        for (config, items) in CONFIGS {
            let resolved = |set: &[String]| {
                let data = (config != "configs/demo.toml").then(|| "data.path=FOLDER".to_string());
                let set: Vec<String> = data.into_iter().chain(set.iter().cloned()).collect();
                RunConfig::load(&root.join(config), &set)
            };
            let own = resolved(&spec.set).unwrap();
            own.check().unwrap();
            let mut seen = Vec::new();
            for variant in &spec.variants() {
                let checked = resolved(&variant.set).and_then(|config| {
                    config.check()?;
                    check_shared(&spec, variant, &own, &config)?;
                    config.index.settings().plan(items)?;
                    config.index.check_alignment(config.index.behavior.dim(items))?;
                    Ok(config)
                });
                let place = format!("{}, {:?}, {config}", file.display(), variant.name);
                let config = checked.unwrap_or_else(|e| panic!("{place}: {e}"));
                assert!(!seen.contains(&config), "{place}: says what one before it says");
                seen.push(config);
            }
        }
    }
}

#[test]
fn table_4_has_the_rows_of_the_paper() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let spec = Spec::load(&root.join("configs/ablations/table4.toml")).unwrap();
    assert_eq!(spec.rows(), ["random index", "DKI", "DKI, GCT", "DKI, GCT, annealed"]);
}

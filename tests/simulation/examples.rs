//! The stories in `examples/`: each scenario's timeline is what `expected.txt` says.
//!
//! `UPDATE_EXPECT=1 cargo test --test simulation examples` writes them anew; read the difference.

use std::path::Path;

#[test]
fn every_example_is_told_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut stories = 0;
    let mut wrong = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(&folder)
        .expect("examples/ is there")
        .map(|entry| entry.expect("readable").path())
        .collect();
    entries.sort();
    for story in entries.iter().filter(|path| path.join("scenario.yaml").is_file()) {
        stories += 1;
        let read = |name: &str| std::fs::read_to_string(story.join(name)).unwrap_or_default();
        let name = story
            .file_name()
            .expect("a folder has a name")
            .to_string_lossy()
            .into_owned();
        let told = match wade::sim::cli_text(&read("rollout.yaml"), &read("scenario.yaml")) {
            Ok(told) => told,
            Err(faults) => panic!("{name}: {faults}"),
        };
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(story.join("expected.txt"), &told).expect("the example can be written");
        } else if told != read("expected.txt") {
            wrong.push(format!("---- {name} is told as\n{told}"));
        }
        assert!(story.join("README.md").is_file(), "{name} has no README.md");
    }
    assert!(stories >= 19, "only {stories} examples were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! The rules of structure, held by a test: who may import whom, no orphans, one clock, no debts without a reason.
//!
//! It reads sources as text, so it sees what the compiler cannot: a file that nobody compiles, a strategy that nobody
//! names, an import that points outwards. An exception stands in a list here, with its reason; one that is not needed
//! any more fails as well.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The longest a source file may be; longer ones are listed in [`LONG`].
const MOST_LINES: usize = 700;

/// Files that may be longer, and why.
const LONG: [(&str, &str); 1] = [(
    "src/spec/rollout.rs",
    "the schema as types: one flat list of fields with their docs, read like a table",
)];

/// Modules of the inner ring: plain synchronous functions over values.
const INNER: [&str; 4] = ["spec", "plan", "engine", "judge"];

/// What each ring of modules may not name, and why.
const BANS: [(&[&str], &[&str], &str); 8] = [
    (
        &INNER,
        &[
            "tokio",
            "reqwest",
            "hyper",
            "axum",
            "kube",
            "tracing",
            "rusqlite",
            "rand",
            "rand_chacha",
            "std::net::TcpStream",
            "std::net::TcpListener",
            "std::net::UdpSocket",
            "std::fs",
            "std::thread",
            "std::process",
        ],
        "the inner ring is plain functions over values",
    ),
    (
        &INNER,
        &[
            "crate::signals",
            "crate::platforms",
            "crate::controller",
            "crate::daemon",
            "crate::cli",
            "crate::sim",
            "crate::store",
            "crate::smoke",
            "crate::demo",
            "crate::clock",
        ],
        "imports point inwards",
    ),
    (
        &["spec"],
        &["crate::plan", "crate::engine", "crate::judge"],
        "a spec knows nothing of what is made of it",
    ),
    (
        &["judge"],
        &["crate::spec", "crate::plan", "crate::engine"],
        "the judge knows numbers, not releases",
    ),
    (&["plan"], &["crate::engine"], "a plan is walked, it does not walk"),
    (
        &[
            "api",
            "clock",
            "controller",
            "crd",
            "engine",
            "install",
            "judge",
            "operator",
            "plan",
            "platforms",
            "redact",
            "signals",
            "sim",
            "smoke",
            "spec",
            "store",
            "telemetry",
        ],
        &["crate::cli", "crate::demo"],
        "what people see stands outermost",
    ),
    (
        &[
            "apiserver",
            "controller",
            "engine",
            "judge",
            "notify",
            "plan",
            "platforms",
            "redact",
            "signals",
            "smoke",
            "spec",
            "store",
        ],
        &["crate::telemetry"],
        "what is told of does not know who tells",
    ),
    (
        &["cluster", "crd", "store", "platforms"],
        &["crate::operator"],
        "a step needs no daemon; a daemon does a step's work",
    ),
];

/// Files that break a ban, and why.
const BAN_EXCEPTIONS: [(&str, &str, &str); 0] = [];

/// Direct clock reads outside of `clock.rs`, and why.
const CLOCK_EXCEPTIONS: [(&str, &str); 2] = [
    (
        "src/signals/prometheus.rs",
        "tokio's clock, which a test can pause; it measures an interval, never a date",
    ),
    ("src/demo/sample/tests.rs", "tokio's clock, paused by the test"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` that ends in one of `endings`, as paths from the root with their text.
fn files(folder: &str, endings: &[&str]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root().join(folder)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder of the repository can be listed");
            open.extend(entries.map(|entry| entry.expect("and its entries read").path()));
        } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
            let name = path
                .strip_prefix(root())
                .expect("it lies below the root")
                .to_string_lossy()
                .into_owned();
            // Recordings may hold bytes that are no text; none of the rules is about these.
            found.insert(
                name,
                String::from_utf8_lossy(&fs::read(&path).expect("a file can be read")).into_owned(),
            );
        }
    }
    found
}

fn sources() -> BTreeMap<String, String> {
    let all: BTreeMap<_, _> = ["src", "tests", "benches"]
        .iter()
        .flat_map(|folder| files(folder, &[".rs"]))
        .collect();
    assert!(all.len() > 100, "the sources are found");
    all
}

/// The lines of a source that are code and not test: comments are dropped, and what follows `#[cfg(test)]` on an inline
/// module.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end]
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(n, line)| (n + 1, line))
}

fn is_test(name: &str) -> bool {
    let test = |part: &str| {
        matches!(
            part,
            "tests" | "tests.rs" | "testing.rs" | "docs_test.rs" | "vectors.rs" | "real.rs"
        )
    };
    name.starts_with("tests/") || name.split('/').any(|part| test(part) || part.ends_with("_tests.rs"))
}

/// Whether `line` names `path` as a whole: `rand::` but not `operand::`, `crate::cli` but not `crate::client`.
fn names(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let before = line[..at].chars().next_back();
        let after = &line[at + path.len()..];
        let whole = !before.is_some_and(|c| word(c) || c == ':') && !after.starts_with(word);
        // A bare crate name is only an import where it is followed by a path or stands in a `use`.
        whole && (path.contains("::") || after.starts_with("::") || line.trim_start().starts_with("use "))
    })
}

fn module_of(name: &str) -> Option<&str> {
    name.strip_prefix("src/")?.split(['/', '.']).next()
}

/// Fails with every finding, and with every exception that excuses nothing.
#[expect(
    clippy::needless_pass_by_value,
    reason = "callers have no more use for their findings"
)]
fn report(rule: &str, findings: Vec<String>, unused: Vec<&str>) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
    assert!(
        unused.is_empty(),
        "exceptions that are not needed any more: {}",
        unused.join(", ")
    );
}

#[test]
fn imports_point_inwards() {
    let mut findings = Vec::new();
    let mut used = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name)) {
        let Some(module) = module_of(name) else { continue };
        for (modules, banned, why) in BANS {
            if !modules.contains(&module) {
                continue;
            }
            for (number, line) in code(text) {
                for path in banned.iter().filter(|path| names(line, path)) {
                    let excused = BAN_EXCEPTIONS
                        .iter()
                        .find(|(file, what, _)| file == name && what == path);
                    match excused {
                        Some((file, ..)) => used.push(*file),
                        None => findings.push(format!("{name}:{number} names {path}; {why}")),
                    }
                }
            }
        }
    }
    let unused = BAN_EXCEPTIONS
        .iter()
        .map(|(file, ..)| *file)
        .filter(|file| !used.contains(file))
        .collect();
    report("imports point inwards", findings, unused);
}

#[test]
fn the_check_of_imports_can_tell_names_apart() {
    assert!(names("use tokio::time;", "tokio"));
    assert!(names("    rand::rng()", "rand"));
    assert!(names("use crate::{cli, plan};", "cli") && !names("use crate::client;", "crate::cli"));
    assert!(!names("let operand::x", "rand"));
    assert!(!names("// no", "tokio"));
    assert!(!names("a rand b", "rand"));
}

#[test]
fn grouped_imports_hide_nothing() {
    // `use crate::{cli, plan}` would get around the list of banned paths.
    let hidden = |line: &str| line.trim_start().starts_with("use crate::{") || line.trim_start() == "crate::{";
    let findings: Vec<String> = sources()
        .iter()
        .filter(|(name, _)| !is_test(name) && module_of(name).is_some_and(|module| module != "main"))
        .flat_map(|(name, text)| {
            code(text)
                .filter(|(_, line)| hidden(line))
                .map(|(number, _)| format!("{name}:{number}"))
                .collect::<Vec<_>>()
        })
        .collect();
    report(
        "write `use crate::module::…`, one line per module",
        findings,
        Vec::new(),
    );
}

#[test]
fn every_source_file_is_compiled() {
    let sources = sources();
    let mut findings = Vec::new();
    for name in sources.keys() {
        let path = PathBuf::from(name);
        let stem = path
            .file_stem()
            .expect("a file has a name")
            .to_string_lossy()
            .into_owned();
        let folder = path
            .parent()
            .expect("a file has a folder")
            .to_string_lossy()
            .into_owned();
        let top = matches!(name.as_str(), "src/lib.rs" | "src/main.rs")
            || folder == "tests"
            || folder == "benches"
            || (folder.starts_with("tests/") && stem == "main");
        if top {
            continue;
        }
        // `thing.rs` and `thing/mod.rs` are declared by the file that owns their folder.
        let (declared, owner) = if stem == "mod" {
            let parent = PathBuf::from(&folder);
            let own = parent.file_name().expect("below src").to_string_lossy().into_owned();
            (own, parent.parent().expect("below src").to_string_lossy().into_owned())
        } else {
            (stem, folder.clone())
        };
        let owners = [
            format!("{owner}/mod.rs"),
            format!("{owner}.rs"),
            format!("{owner}/lib.rs"),
            format!("{owner}/main.rs"),
        ];
        let file = path
            .file_name()
            .expect("a file has a name")
            .to_string_lossy()
            .into_owned();
        let declares = |text: &String| {
            text.lines().any(|line| {
                let line = line.trim();
                let line = line
                    .strip_prefix("pub ")
                    .or_else(|| line.strip_prefix("pub(super) "))
                    .or_else(|| line.strip_prefix("pub(crate) "))
                    .unwrap_or(line);
                line == format!("mod {declared};") || (line.starts_with("#[path") && line.contains(&file))
            })
        };
        // `#[path]` may stand in a sibling, for tests that lie beside what they test.
        let placed = |text: &String| text.contains(&format!("#[path = \"{file}\"]"));
        let siblings = sources
            .iter()
            .filter(|(sibling, _)| Path::new(sibling).parent() == path.parent());
        if !owners.iter().filter_map(|owner| sources.get(owner)).any(declares)
            && !siblings.map(|(_, text)| text).any(placed)
        {
            findings.push(format!("{name} is declared by none of {}", owners.join(", ")));
        }
    }
    report("no orphan sources", findings, Vec::new());
}

#[test]
fn every_strategy_and_example_is_named_somewhere() {
    let mut readers = sources();
    readers.remove("tests/tidy.rs");
    readers.extend(files("docs", &[".md"]));
    readers.extend(files("examples", &["README.md"]));
    readers.insert(
        "README.md".to_owned(),
        fs::read_to_string(root().join("README.md")).unwrap_or_default(),
    );
    let named = |words: &str| readers.values().any(|text| text.contains(words));
    // A test that walks over all of a folder names what is in it.
    let walked = |folder: &str| {
        readers
            .iter()
            .any(|(name, text)| is_test(name) && text.contains("read_dir") && text.contains(&format!("\"{folder}")))
    };
    let mut findings = Vec::new();
    for folder in ["strategies", "examples"] {
        for name in files(folder, &[""]).keys() {
            let below = name.strip_prefix(&format!("{folder}/")).expect("it was found there");
            let story = below.split('/').next().expect("a path has a first part");
            if !walked(folder) && !named(name) && !named(below) && !named(&format!("{folder}/{story}")) {
                findings.push(format!("{name} is named by no test, no document and not by the README"));
            }
        }
    }
    report("no orphan files", findings, Vec::new());
}

#[test]
fn only_the_clock_reads_the_clock() {
    let reads = ["Instant::now", "SystemTime::now", "Timestamp::now", "Zoned::now"];
    let mut findings = Vec::new();
    let mut used = Vec::new();
    for (name, text) in sources()
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "src/clock.rs" | "tests/tidy.rs"))
    {
        for (number, line) in text.lines().enumerate() {
            let Some(read) = reads
                .iter()
                .find(|read| line.contains(**read) && !line.trim_start().starts_with("//"))
            else {
                continue;
            };
            match CLOCK_EXCEPTIONS
                .iter()
                .find(|(file, _)| file == name && line.contains("tokio::time::"))
            {
                Some((file, _)) => used.push(*file),
                None => findings.push(format!("{name}:{} calls {read}; take `now` as an argument", number + 1)),
            }
        }
    }
    let unused = CLOCK_EXCEPTIONS
        .iter()
        .map(|(file, _)| *file)
        .filter(|file| !used.contains(file))
        .collect();
    report("only clock.rs reads the clock", findings, unused);
}

#[test]
fn nothing_unwraps_outside_of_tests() {
    let findings: Vec<String> = sources()
        .iter()
        .filter(|(name, _)| !is_test(name) && name.starts_with("src/"))
        .flat_map(|(name, text)| {
            let unwraps = code(text).filter(|(_, line)| line.contains(".unwrap()"));
            unwraps
                .map(|(number, _)| format!("{name}:{number}"))
                .collect::<Vec<_>>()
        })
        .collect();
    report(
        "`expect` states an invariant in words, `unwrap` states nothing",
        findings,
        Vec::new(),
    );
}

#[test]
fn a_debt_says_what_would_settle_it() {
    let marks = ["TODO", "FIXME", "XXX", "HACK"];
    let mut findings = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| *name != "tests/tidy.rs") {
        for (number, line) in text.lines().enumerate() {
            for mark in marks {
                let Some(at) = line.find(mark) else { continue };
                let words = line[at + mark.len()..]
                    .trim_start_matches(':')
                    .split_whitespace()
                    .count();
                if line.trim_start().starts_with("//") && words < 6 {
                    findings.push(format!("{name}:{} {mark} without what would settle it", number + 1));
                }
            }
        }
    }
    report("debts are explained", findings, Vec::new());
}

#[test]
fn files_are_short_enough_to_be_read() {
    let mut findings = Vec::new();
    let mut used = Vec::new();
    for (name, text) in &sources() {
        let lines = text.lines().count();
        if lines > MOST_LINES {
            match LONG.iter().find(|(file, _)| file == name) {
                Some((file, _)) => used.push(*file),
                None => findings.push(format!("{name} has {lines} lines; split it by the question it answers")),
            }
        }
    }
    let unused = LONG
        .iter()
        .map(|(file, _)| *file)
        .filter(|file| !used.contains(file))
        .collect();
    report("no file is longer than a person reads", findings, unused);
}

#[test]
fn nothing_points_at_a_machine_of_ours() {
    // Written in two parts, so that this file does not name them itself.
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tm", "p/wt")];
    let endings = [
        ".rs", ".md", ".yaml", ".yml", ".toml", ".json", ".txt", ".snap", ".py", ".html", ".js", "justfile", "run",
    ];
    let mut texts = BTreeMap::new();
    for folder in [
        "src",
        "tests",
        "benches",
        "strategies",
        "examples",
        "docs",
        ".ci",
        "deploy",
        "ui",
        "dashboards",
    ] {
        if root().join(folder).exists() {
            texts.extend(files(folder, &endings));
        }
    }
    for file in [
        "Cargo.toml",
        "README.md",
        "CHANGELOG.md",
        "justfile",
        "deny.toml",
        "clippy.toml",
        "rust-toolchain.toml",
    ] {
        texts.insert(
            file.to_owned(),
            fs::read_to_string(root().join(file)).unwrap_or_default(),
        );
    }
    let mut findings = Vec::new();
    for (name, text) in &texts {
        for (number, line) in text.lines().enumerate() {
            if let Some(path) = paths.iter().find(|path| line.contains(**path)) {
                findings.push(format!("{name}:{} names {path}", number + 1));
            }
        }
    }
    // Crates come from the public index, whatever stood between it and the machine that wrote the lock file.
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is committed");
    let public = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let elsewhere = lock
        .lines()
        .filter(|line| line.starts_with("source = ") && *line != public);
    findings.extend(elsewhere.map(|line| format!("Cargo.lock: {line}")));
    report("committed files work on any machine", findings, Vec::new());
}

/// Tests in a sibling file are told about by the module that they test.
#[test]
fn every_module_opens_with_what_it_is_for() {
    let findings: Vec<String> = sources()
        .iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .filter(|(name, _)| !name.starts_with("src/") || !name.ends_with("/tests.rs"))
        .map(|(name, _)| name.clone())
        .collect();
    report("a file opens with `//!`: what it is for", findings, Vec::new());
}

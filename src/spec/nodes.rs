//! YAML as a tree that remembers where everything was written.
//!
//! `saphyr-parser` delivers events; this makes nodes of them, with line and column, keys in order, and nothing
//! interpreted: a scalar is its text and whether it was quoted. Aliases are expanded here, so that everything
//! downstream sees a plain tree, and everything a small file could blow up is counted *after* expansion: nodes, depth
//! and bytes of text. Nothing else of YAML is wanted: tags, merge keys and keys that are not text are faults.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use super::fault::{Fault, MAX_FAULTS, Path, Place, Segment, clip};

/// The largest file that is read, in bytes (1 MiB).
pub(super) const MAX_BYTES: usize = 1 << 20;
/// The most nodes (mappings, lists and scalars), with every alias counted as what it stands for.
pub(super) const MAX_NODES: usize = 20_000;
/// The deepest nesting.
pub(super) const MAX_DEPTH: usize = 64;
/// The most text in scalars with every alias counted, in bytes (4 MiB): one long scalar behind many aliases.
pub(super) const MAX_TEXT: usize = 4 << 20;

/// A value as written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Scalar { text: String, plain: bool },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) place: Place,
}

impl Node {
    /// Whether nothing is written: an empty plain scalar, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if is_null(text))
    }

    /// What was read, in words for a fault.
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            Kind::Scalar { text, plain: true } if text.is_empty() => "nothing".to_owned(),
            Kind::Scalar { text, plain: true } => format!("`{}`", clip(text)),
            Kind::Scalar { text, plain: false } => format!("the text \"{}\"", clip(text)),
            Kind::List(items) if items.is_empty() => "an empty list".to_owned(),
            Kind::List(items) => format!("a list of {}", items.len()),
            Kind::Map(entries) if entries.is_empty() => "an empty mapping `{}`".to_owned(),
            Kind::Map(entries) => {
                let keys: Vec<_> = entries
                    .iter()
                    .take(4)
                    .map(|(key, _)| format!("`{}`", clip(&key.text)))
                    .collect();
                let more = if entries.len() > 4 { ", …" } else { "" };
                format!("a mapping with {}{more}", keys.join(", "))
            }
        }
    }

    /// `fault` with the place of its field, or of the nearest field around it that is written.
    pub(super) fn place(&self, fault: Fault) -> Fault {
        let mut place = self.place;
        let mut node = self;
        for segment in fault.path.segments() {
            match (segment, &node.kind) {
                (Segment::Key(name), Kind::Map(entries)) => {
                    let Some((key, value)) = entries.iter().find(|(key, _)| key.text == *name) else {
                        break;
                    };
                    place = key.place;
                    node = value;
                }
                (Segment::Index(index), Kind::List(items)) => {
                    let Some(item) = items.get(*index) else { break };
                    place = item.place;
                    node = item;
                }
                _ => break,
            }
        }
        fault.at(place)
    }
}

pub(super) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Reads `text` as one YAML document. `None` when the file holds nothing but comments.
pub(super) fn parse(text: &str) -> Result<Option<Node>, Vec<Fault>> {
    if text.len() > MAX_BYTES {
        return Err(vec![
            Fault::new(Path::root(), "the file is too large")
                .found(format!("{} bytes", text.len()))
                .help(format!(
                    "a file may hold {MAX_BYTES} bytes (1 MiB); is this the file you meant?"
                )),
        ]);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    let mut documents = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| vec![syntax_fault(&error, text)])?;
        if let Event::DocumentStart(_) = event {
            // Anchors do not reach over documents.
            builder.anchors.clear();
        }
        match builder.take(event, place(span.start)) {
            Ok(Some(document)) => documents.push(document),
            Ok(None) => {}
            Err(fault) => return Err(vec![*fault]),
        }
    }
    // `---` at the end of a file opens a document in which nothing is written; that is no second document.
    documents.retain(|document| !document.is_null());
    if documents.len() > 1 {
        return Err(vec![
            Fault::new(Path::root(), "the file holds more than one document")
                .at(documents[1].place)
                .found(format!("{} documents separated by `---`", documents.len()))
                .help("write one document per file"),
        ]);
    }
    if builder.faults.is_empty() {
        Ok(documents.pop())
    } else {
        Err(builder.faults)
    }
}

fn place(marker: Marker) -> Place {
    Place {
        line: marker.line(),
        column: marker.col() + 1,
    }
}

fn syntax_fault(error: &ScanError, text: &str) -> Fault {
    let at = place(*error.marker());
    if error.info().contains("recursion limit") {
        // The scanner looks ahead over brackets and stops at a limit of its own, beyond ours.
        return too_large(MAX_DEPTH, LEVELS).at(at);
    }
    let line = text.lines().nth(at.line.saturating_sub(1)).unwrap_or("");
    let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
    let help = if indent.contains('\t') || error.info().contains("tab") {
        "indent with spaces; YAML does not allow tabs there".to_owned()
    } else if line.contains("${") && line.contains(['[', '{']) {
        // The commonest slip in a rollout: `{` and `}` mean something between brackets.
        "inside of brackets a value with `${…}` needs quotes, like `[\"./run-${version}\"]`; if it has them, look at brackets and quotes left open here or just above".to_owned()
    } else {
        "look at the indentation, at colons without a space after them, and at quotes and brackets left open here or just above".to_owned()
    };
    Fault::new(Path::root(), format!("this is not YAML: {}", error.info()))
        .at(at)
        .found(clip(line.trim()))
        .help(help)
}

const LEVELS: &str = "levels of nesting";

/// At the root, not at the path: that could be as large as what is refused.
fn too_large(limit: usize, what: &str) -> Fault {
    Fault::new(Path::root(), "the document is too large")
        .found(format!("more than {limit} {what}"))
        .help(format!("a document may hold {limit} {what}"))
}

/// What an anchor stands for, with its price.
#[derive(Clone)]
struct Anchored {
    node: Node,
    cost: Cost,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    text: usize,
    depth: usize,
}

/// A list or mapping that is still open.
struct Open {
    node: Node,
    anchor: usize,
    before: Cost,
    /// The deepest nesting below, counted from this node.
    height: usize,
    key: Option<Key>,
    first: BTreeMap<String, Place>,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: BTreeMap<usize, Anchored>,
    spent: Cost,
    faults: Vec<Fault>,
}

impl Builder {
    /// Takes the next event; a node when a document is complete. An error stops the reading; what does not have to
    /// (duplicate keys) is collected.
    fn take(&mut self, event: Event<'_>, at: Place) -> Result<Option<Node>, Box<Fault>> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(None)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.no_tag(tag.map(|tag| tag.to_string()), at);
                self.spend(1, text.len(), 0, at)?;
                let cost = Cost {
                    nodes: 1,
                    text: text.len(),
                    depth: 0,
                };
                let kind = Kind::Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain,
                };
                self.complete(Node { place: at, kind }, anchor, cost)
            }
            Event::SequenceStart(anchor, tag) => {
                self.no_tag(tag.map(|tag| tag.to_string()), at);
                self.start(Kind::List(Vec::new()), anchor, at)?;
                Ok(None)
            }
            Event::MappingStart(anchor, tag) => {
                self.no_tag(tag.map(|tag| tag.to_string()), at);
                self.start(Kind::Map(Vec::new()), anchor, at)?;
                Ok(None)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.open.pop().expect("the parser closes only what it opened");
                let cost = Cost {
                    nodes: self.spent.nodes - open.before.nodes,
                    text: self.spent.text - open.before.text,
                    depth: open.height + 1,
                };
                self.complete(open.node, open.anchor, cost)
            }
            Event::Alias(anchor) => {
                let Some(Anchored { cost, .. }) = self.anchors.get(&anchor) else {
                    return Err(Box::new(
                        Fault::new(self.path(), "an alias stands inside of what it refers to")
                            .at(at)
                            .help("write the value out"),
                    ));
                };
                let cost = *cost;
                // Paid before it is copied: that is what makes a bomb harmless.
                self.spend(cost.nodes, cost.text, cost.depth, at)?;
                let node = self.anchors[&anchor].node.clone();
                self.complete(node, 0, cost)
            }
        }
    }

    fn start(&mut self, kind: Kind, anchor: usize, at: Place) -> Result<(), Box<Fault>> {
        let before = self.spent;
        self.spend(1, 0, 1, at)?;
        self.open.push(Open {
            node: Node { place: at, kind },
            anchor,
            before,
            height: 0,
            key: None,
            first: BTreeMap::new(),
        });
        Ok(())
    }

    fn complete(&mut self, node: Node, anchor: usize, cost: Cost) -> Result<Option<Node>, Box<Fault>> {
        if anchor > 0 {
            let node = node.clone();
            self.anchors.insert(anchor, Anchored { node, cost });
        }
        let path = self.path();
        let Some(open) = self.open.last_mut() else {
            return Ok(Some(node));
        };
        open.height = open.height.max(cost.depth);
        let entries = match &mut open.node.kind {
            Kind::List(items) => {
                items.push(node);
                return Ok(None);
            }
            Kind::Map(entries) => entries,
            Kind::Scalar { .. } => unreachable!("only lists and mappings are opened"),
        };
        match open.key.take() {
            Some(key) => match open.first.get(&key.text) {
                Some(first) => {
                    let fault = Fault::new(path, format!("`{}` is written twice", clip(&key.text)))
                        .at(key.place)
                        .found(format!("the first one stands in line {}", first.line))
                        .help("keep one of the two");
                    self.collect(fault);
                }
                None => {
                    open.first.insert(key.text.clone(), key.place);
                    entries.push((key, node));
                }
            },
            None => match node.kind {
                Kind::Scalar { text, .. } => {
                    if text == "<<" {
                        let fault = Fault::new(path, "merge keys are not read")
                            .at(node.place)
                            .found("`<<`")
                            .help("write the fields out, or use an alias for a whole value");
                        self.collect(fault);
                        // Taken as a key all the same, so that what follows is not mistaken for one.
                    }
                    if let Some(open) = self.open.last_mut() {
                        open.key = Some(Key {
                            text,
                            place: node.place,
                        });
                    }
                }
                Kind::List(_) | Kind::Map(_) => {
                    return Err(Box::new(
                        Fault::new(path, "a key is a list or a mapping")
                            .at(node.place)
                            .help("write a plain name as key; text in curly brackets, like `{x}`, needs quotes"),
                    ));
                }
            },
        }
        Ok(None)
    }

    fn spend(&mut self, nodes: usize, text: usize, depth: usize, at: Place) -> Result<(), Box<Fault>> {
        self.spent.nodes += nodes;
        self.spent.text += text;
        let depth = self.open.len() + depth;
        let limits = [
            (
                self.spent.nodes,
                MAX_NODES,
                "values, with aliases counted as what they stand for",
            ),
            (
                self.spent.text,
                MAX_TEXT,
                "bytes of text, with aliases counted as what they stand for",
            ),
            (depth, MAX_DEPTH, LEVELS),
        ];
        match limits.into_iter().find(|(spent, limit, _)| spent > limit) {
            None => Ok(()),
            Some((_, limit, what)) => Err(Box::new(too_large(limit, what).at(at))),
        }
    }

    fn no_tag(&mut self, tag: Option<String>, at: Place) {
        if let Some(tag) = tag {
            let fault = Fault::new(self.path(), "tags are not read")
                .at(at)
                .found(format!("`{}`", clip(&tag.replace("tag:yaml.org,2002:", "!"))))
                .help("remove it; the field decides what type a value has");
            self.collect(fault);
        }
    }

    fn collect(&mut self, fault: Fault) {
        if self.faults.len() <= MAX_FAULTS {
            self.faults.push(fault);
        }
    }

    /// Where the builder stands.
    fn path(&self) -> Path {
        self.open
            .iter()
            .fold(Path::root(), |path, open| match (&open.key, &open.node.kind) {
                (Some(key), _) => path.key(&key.text),
                (None, Kind::List(items)) => path.index(items.len()),
                (None, _) => path,
            })
    }
}

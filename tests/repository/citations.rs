//! Citations: every path and anchor of the contract resolves, and so does every relative link.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
    sync::LazyLock,
};

use regex_lite::Regex;

/// Folders that `.gitignore` names.
const IGNORED: [&str; 2] = ["target", "artifacts"];

/// Folders that a path in a document may start from.
const PATH_ROOTS: [&str; 7] = ["", "src/", "tests/", "simulator/src/", "benches/", "dev/", "docs/"];

/// Forms of a citation without a path.
const OLD_FORMS: [&str; 6] = [
    r"\b(?:events|http|evaluation) contract\b",
    r"(?:^|[^/\w])contract \(?\d",
    r"\btraps? T\d",
    r"\(T\d+[,)]",
    r"\(H\d+[,)]",
    r"\bDESIGN I?\d",
];

/// The content of text files by their path from the root of the repository.
type Files = BTreeMap<String, String>;

fn files(folder: &Path, found: &mut Files, root: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let last = path.file_name().unwrap().to_string_lossy();
        let is_ignored = IGNORED.contains(&&*last) || last.ends_with(".pending-snap");
        if is_ignored || last.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            files(&path, found, root);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            found.insert(name, text);
        }
    }
}

fn tracked() -> Files {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Files::new();
    files(root, &mut found, root);
    found
}

fn is_markdown(name: &str) -> bool {
    name.ends_with(".md")
}

/// Returns the lines of Markdown outside of code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        (!in_code && !is_fence).then_some((index + 1, line))
    })
}

/// A link in a heading; the anchor uses the link's text.
static LINK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[([^\]]*)\]\([^)]*\)").unwrap());

/// Returns the anchor that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let text = LINK.replace_all(heading.trim(), "$1").to_lowercase();
    let letters = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    letters.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Returns the anchors of a page; a repeated heading gets a number, as on GitHub.
fn anchors(page: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for (_, line) in prose(page) {
        let hashes = line.chars().take_while(|c| *c == '#').count();
        if !(1..=6).contains(&hashes) || !line[hashes..].starts_with(' ') {
            continue;
        }
        let anchor = anchor(&line[hashes..]);
        let before = times.entry(anchor.clone()).or_default();
        found.push(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
        *before += 1;
    }
    found
}

/// The anchors of all pages, by the page's path from the root.
struct Anchors(BTreeMap<String, Vec<String>>);

impl Anchors {
    fn of(files: &Files) -> Self {
        let pages = files.iter().filter(|(name, _)| is_markdown(name));
        Self(pages.map(|(name, page)| (name.clone(), anchors(page))).collect())
    }

    /// Returns the error of a path from the root and its anchor, unless both exist.
    fn problem(&self, path: &str, anchor: Option<&str>) -> Option<String> {
        if !Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists() {
            return Some(format!("{path} does not exist"));
        }
        let anchor = anchor?;
        match self.0.get(path) {
            Some(known) if known.iter().any(|known| known == anchor) => None,
            _ => Some(format!("{path} has no heading for #{anchor}")),
        }
    }
}

/// Returns the path from the root to the target of a page's link.
fn target(page: &str, link: &str) -> String {
    if link.is_empty() {
        return page.to_owned();
    }
    let mut path = PathBuf::from(page);
    path.pop();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{page}: {link} leaves the repository"),
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path.to_string_lossy().into_owned()
}

/// One text per run of comment lines, because a citation may span lines; one text per other line.
struct Paragraph {
    text: String,
    /// The offset of the first byte of each line, with the line's number.
    starts: Vec<(usize, usize)>,
}

impl Paragraph {
    fn line_at(&self, offset: usize) -> usize {
        let before = self.starts.iter().rev().find(|(start, _)| *start <= offset);
        before.map_or(0, |(_, line)| *line)
    }
}

/// Returns the content of a comment or of a line of Markdown; `None` for code and for empty lines.
fn comment<'a>(name: &str, line: &'a str) -> Option<&'a str> {
    if is_markdown(name) {
        return Some(line.trim()).filter(|line| !line.is_empty());
    }
    let marks: &[&str] = match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("rs") => &["//!", "///", "//"],
        Some("sql") => &["--"],
        _ => &["#"],
    };
    let line = line.trim();
    let text = marks.iter().find_map(|mark| line.strip_prefix(mark))?.trim();
    (!text.is_empty()).then_some(text)
}

fn paragraphs(name: &str, text: &str) -> Vec<Paragraph> {
    let mut found: Vec<Paragraph> = Vec::new();
    let mut continues = false;
    for (index, line) in text.lines().enumerate() {
        let content = comment(name, line);
        if !(continues && content.is_some()) {
            found.push(Paragraph { text: String::new(), starts: Vec::new() });
        }
        let last = found.last_mut().unwrap();
        if !last.text.is_empty() {
            last.text.push(' ');
        }
        last.starts.push((last.text.len(), index + 1));
        last.text.push_str(content.unwrap_or(line));
        continues = content.is_some();
    }
    found
}

#[test]
fn citations_of_the_contract_resolve() {
    let files = tracked();
    let anchors = Anchors::of(&files);
    let citation = Regex::new(r"docs/contract/([\w-]+\.md)(?:#([\w-]+))?").unwrap();
    let (mut found, mut broken) = (0, Vec::new());
    for (name, text) in &files {
        for (index, line) in text.lines().enumerate() {
            for cited in citation.captures_iter(line) {
                found += 1;
                let path = format!("docs/contract/{}", &cited[1]);
                let problem = anchors.problem(&path, cited.get(2).map(|anchor| anchor.as_str()));
                broken.extend(problem.map(|problem| format!("{name}:{}: {problem}", index + 1)));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
    assert!(found > 100, "only {found} citations were found");
}

#[test]
fn citations_of_decisions_and_invariants_resolve() {
    let files = tracked();
    let decision = Regex::new(r"docs/decisions/(\d{4})").unwrap();
    let invariants = Regex::new(r"\binvariants? ((?:I\d(?:, | and )?)+)").unwrap();
    let invariant = Regex::new(r"I\d").unwrap();
    let mut broken = Vec::new();
    for (name, text) in &files {
        for paragraph in paragraphs(name, text) {
            for cited in decision.captures_iter(&paragraph.text) {
                let begins = format!("docs/decisions/{}-", &cited[1]);
                if !files.keys().any(|file| file.starts_with(&begins)) {
                    let line = paragraph.line_at(cited.get(0).unwrap().start());
                    broken.push(format!("{name}:{line}: there is no decision {}", &cited[1]));
                }
            }
            for cited in invariants.captures_iter(&paragraph.text) {
                let whole = cited.get(0).unwrap();
                let line = paragraph.line_at(whole.start());
                let rest = paragraph.text[whole.end()..].trim_start();
                if !rest.starts_with("of ARCHITECTURE.md") {
                    broken.push(format!("{name}:{line}: {} lacks its page", whole.as_str()));
                }
                for id in invariant.find_iter(&cited[1]) {
                    let definitions = ["**", "# "].map(|mark| format!("{mark}{} ", id.as_str()));
                    let page = &files["ARCHITECTURE.md"];
                    if !definitions.iter().any(|definition| page.contains(definition)) {
                        broken.push(format!("{name}:{line}: there is no {}", id.as_str()));
                    }
                }
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn relative_links_resolve() {
    let files = tracked();
    let anchors = Anchors::of(&files);
    let span = Regex::new(r"`[^`]*`").unwrap();
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let (mut found, mut broken) = (0, Vec::new());
    for (name, text) in files.iter().filter(|(name, _)| is_markdown(name)) {
        for (number, line) in prose(text) {
            for link in link.captures_iter(&span.replace_all(line, "")) {
                let link = &link[1];
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                found += 1;
                let (path, anchor) = match link.split_once('#') {
                    Some((path, anchor)) => (path, Some(anchor)),
                    None => (link, None),
                };
                let problem = anchors.problem(&target(name, path), anchor);
                broken.extend(problem.map(|problem| format!("{name}:{number}: {problem}")));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
    assert!(found > 50, "only {found} links were found");
}

#[test]
fn files_named_in_documents_exist() {
    let files = tracked();
    let path = Regex::new(r"`((?:[a-z_]+/)+[a-z_0-9]+\.(?:rs|sql|sh|toml))`").unwrap();
    let (mut found, mut missing) = (0, Vec::new());
    for (name, text) in files.iter().filter(|(name, _)| is_markdown(name)) {
        for (number, line) in text.lines().enumerate() {
            for path in path.captures_iter(line).map(|captures| captures[1].to_owned()) {
                found += 1;
                let exists = |root: &&str| files.contains_key(&format!("{root}{path}"));
                if !PATH_ROOTS.iter().any(exists) {
                    missing.push(format!("{name}:{}: {path}", number + 1));
                }
            }
        }
    }
    assert_eq!(missing, [""; 0]);
    assert!(found > 50, "only {found} paths were found");
}

#[test]
fn every_citation_has_a_path() {
    let files = tracked();
    let old_forms = OLD_FORMS.map(|form| Regex::new(form).unwrap());
    let mut broken = Vec::new();
    for (name, text) in &files {
        for paragraph in paragraphs(name, text) {
            for old in old_forms.iter().flat_map(|form| form.find_iter(&paragraph.text)) {
                let line = paragraph.line_at(old.start());
                broken.push(format!("{name}:{line}: {:?} names no page", old.as_str().trim()));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}

#[test]
fn anchors_are_those_of_github() {
    for (heading, expected) in [
        ("6.4 Clocks", "64-clocks"),
        ("7.1 ITEM_CHECKED_OUT", "71-item_checked_out"),
        ("T23 Fetch back-off", "t23-fetch-back-off"),
        ("What `must` always hold?", "what-must-always-hold"),
        ("See [the page](page.md)", "see-the-page"),
    ] {
        assert_eq!(anchor(heading), expected);
    }
    assert_eq!(anchors("# A\n```\n# code\n```\n## A\n"), ["a", "a-1"]);
}

//! The frame of a page: its title, the links to the other pages, and a strip about the certainty of evaluations.

use super::{
    assets,
    sign_in::Session,
    texts::{Arguments, Texts},
    words,
};
use crate::{clock, services::evaluation::certainty::CertaintyReport};

/// The frame of a page.
pub(super) struct Shell {
    /// The texts of the page.
    pub(super) texts: &'static Texts,
    /// The relative path from the page to the root of the console.
    pub(super) root: String,
    /// The path of the page from the root.
    pub(super) path: &'static str,
    /// The tenant.
    pub(super) tenant: String,
    /// The certainty of evaluations.
    pub(super) strip: Strip,
    /// What became of the act before this page.
    pub(super) notice: Option<Notice>,
    /// The person who has signed in, at a door with sign-in.
    pub(super) reader: Option<Reader>,
    pub(super) style: &'static str,
    pub(super) script: &'static str,
}

/// How certain evaluations are, in one sentence.
pub(super) struct Strip {
    pub(super) is_good: bool,
    pub(super) text: &'static str,
    /// The instant up to which all events are applied, if it is known.
    pub(super) as_of: Option<String>,
}

/// What became of the act before this page.
pub(super) struct Notice {
    pub(super) is_good: bool,
    pub(super) text: String,
    /// The number of the act in the log.
    pub(super) number: i64,
}

/// A person who has signed in.
pub(super) struct Reader {
    pub(super) name: String,
    pub(super) is_read_only: bool,
}

impl From<&Session> for Reader {
    fn from(session: &Session) -> Self {
        Self { name: session.name.clone(), is_read_only: session.is_read_only() }
    }
}

/// A link of the navigation.
pub(super) struct Link {
    pub(super) path: &'static str,
    pub(super) name: &'static str,
    /// The key that opens the page after `g`; empty without a key.
    pub(super) key: &'static str,
}

impl Shell {
    pub(super) fn new(
        texts: &'static Texts,
        root: String,
        path: &'static str,
        tenant: String,
        certainty: Option<&CertaintyReport>,
    ) -> Self {
        let strip = match certainty {
            Some(report) => Strip::new(texts, report),
            None => Strip { is_good: false, text: texts.text("certainty.notRead"), as_of: None },
        };
        let (style, script) = (&*assets::STYLE.name, &*assets::SCRIPT.name);
        Self { texts, root, path, tenant, strip, notice: None, reader: None, style, script }
    }

    /// Returns a text without arguments.
    pub(super) fn text(&self, key: &'static str) -> &'static str {
        self.texts.text(key)
    }

    /// Returns a text with arguments.
    pub(super) fn fill(&self, key: &'static str, arguments: Arguments<'_>) -> String {
        self.texts.fill(key, arguments)
    }

    /// Returns the text before an argument and the text after it.
    pub(super) fn around(
        &self,
        key: &'static str,
        argument: &str,
        others: Arguments<'_>,
    ) -> [String; 2] {
        self.texts.around(key, argument, others)
    }

    /// Returns the pages of the navigation.
    pub(super) fn pages(&self) -> [Link; 7] {
        [
            ("home", "page.home", "h"),
            ("parked", "page.parked", "p"),
            ("ingest", "page.ingest", ""),
            ("rebuilds", "page.rebuilds", ""),
            ("limits", "page.limits", ""),
            ("messages", "page.messages", ""),
            ("log", "page.log", ""),
        ]
        .map(|(path, name, key)| Link { path, name: self.text(name), key })
    }
}

impl Strip {
    fn new(texts: &'static Texts, report: &CertaintyReport) -> Self {
        let (is_good, text) = words::certainty(texts, report);
        Self { is_good, text, as_of: report.certainty.as_of.map(clock::format_instant) }
    }
}

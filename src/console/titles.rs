//! The titles of loans, with the token of the reader: one call a page. The console port has no token, and no titles.

use std::collections::HashMap;

use uuid::Uuid;

use super::{visit::Visit, words};

/// The titles that the reader may see.
#[derive(Default)]
pub(super) struct Titles {
    by_loan: HashMap<Uuid, String>,
    /// Whether mod-circulation returned the loans.
    pub(super) are_known: bool,
    /// Why the titles are absent; empty on the console port, which never has them.
    pub(super) problem: &'static str,
}

impl Titles {
    /// Fetches the titles of the first loans.
    pub(super) async fn fetch(visit: &Visit, loans: &[Uuid]) -> Self {
        if !visit.has_gateway || loans.is_empty() {
            return Self::default();
        }
        match visit.state.reader_lookups.fetch_items(&visit.caller, loans).await {
            Ok(items) => {
                let by_loan = items.iter().map(|(id, item)| (*id, words::item(item))).collect();
                Self { by_loan, are_known: true, problem: "" }
            }
            Err(error) => {
                let problem = visit.texts.text(match error.is_token_rejected() {
                    true => "titles.forbidden",
                    false => "titles.notRead",
                });
                Self { problem, ..Self::default() }
            }
        }
    }

    /// Returns title and barcode of a loan; empty if the reader does not see them.
    pub(super) fn of(&self, loan: Uuid) -> String {
        self.by_loan.get(&loan).cloned().unwrap_or_default()
    }
}

//! The storage modules: who knows which loans and fees/fines are open (http contract 9).

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{CallError, Caller};
use crate::patron::Scope;

/// Records on a page. The fees/fines module asks the inventory for each page, so they stay short.
pub const PAGE: usize = 100;

/// Which records are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Open loans.
    Loans,
    /// Open accounts: fees/fines.
    Accounts,
}

impl Kept {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loans => "loans",
            Self::Accounts => "accounts",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Loans => "/loan-storage/loans",
            Self::Accounts => "/accounts",
        }
    }
}

/// A page as it is answered: the records as text, for what can't be read of one must not hide the others.
#[derive(Deserialize)]
struct Page {
    #[serde(alias = "accounts")]
    loans: Vec<Box<RawValue>>,
}

/// A client of the storage modules.
#[derive(Debug, Clone)]
pub struct Storage(Client);

impl Storage {
    /// A client.
    pub fn new(http: Client) -> Self {
        Self(http)
    }

    /// The page of open records after an id, in the order of ids, of one patron or of all.
    pub async fn page(
        &self,
        caller: &Caller,
        kept: Kept,
        of: Scope,
        after: Option<Uuid>,
        timeout: Duration,
    ) -> Result<Vec<Box<RawValue>>, CallError> {
        let mut query = "status.name==Open".to_owned();
        if let Scope::Patron(user) = of {
            query.push_str(&format!(" and userId=={user}"));
        }
        if let Some(after) = after {
            query.push_str(&format!(" and id > {after}"));
        }
        query.push_str(" sortBy id");
        let limit = PAGE.to_string();
        let request = caller.request(&self.0, Method::GET, kept.path());
        let request = request.query(&[("limit", &*limit), ("query", &*query)]).timeout(timeout);
        let response = request.send().await.map_err(CallError::Failed)?;
        match response.status() {
            StatusCode::OK => {
                let page: Page = response.json().await.map_err(CallError::Failed)?;
                Ok(page.loans)
            }
            status => Err(CallError::Status(status)),
        }
    }
}

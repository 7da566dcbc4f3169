//! What only a person with a permission sees: the titles of loans, and the patron of a barcode. The calls use the token
//! of the reader of a page. Nothing of a response is cached, stored or logged.

use std::{collections::HashMap, time::Duration};

use reqwest::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{CallError, Caller, Module, ModuleClient};

/// Time limit of a call, while the reader waits for the page.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Size of a response in bytes, at most. A loan of mod-circulation has some kilobytes.
const RESPONSE_BYTES_MAX: usize = 2 << 20;

/// Largest number of loans in one call. Their ids have to fit into an address.
pub const TITLES_MAX: usize = 50;

/// A client for the reader of a page.
#[derive(Debug, Clone)]
pub struct ReaderLookups {
    client: ModuleClient,
}

/// The item of a loan.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LoanedItem {
    /// The title.
    #[serde(default)]
    pub title: String,
    /// The barcode of the item.
    #[serde(default)]
    pub barcode: String,
}

#[derive(Deserialize)]
struct LoanPage {
    loans: Vec<Loan>,
}

#[derive(Deserialize)]
struct Loan {
    id: Uuid,
    item: Option<LoanedItem>,
}

#[derive(Deserialize)]
struct UserPage {
    users: Vec<User>,
}

#[derive(Deserialize)]
struct User {
    id: Uuid,
}

impl ReaderLookups {
    /// Creates a client. Its failures must stop no other calls, so `client` has breakers of its own.
    pub fn new(client: ModuleClient) -> Self {
        Self { client }
    }

    /// Fetches the items of at most [`TITLES_MAX`] loans. A loan that mod-circulation does not know is omitted.
    pub async fn fetch_items(
        &self,
        caller: &Caller,
        loans: &[Uuid],
    ) -> Result<HashMap<Uuid, LoanedItem>, CallError> {
        let ids: Vec<String> =
            loans.iter().take(TITLES_MAX).map(|id| format!("\"{id}\"")).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let query = format!("id==({})", ids.join(" or "));
        let page: LoanPage =
            self.get(Module::Circulation, caller, "/circulation/loans", &query, ids.len()).await?;
        Ok(page.loans.into_iter().filter_map(|loan| Some((loan.id, loan.item?))).collect())
    }

    /// Finds the patron with a barcode; `None` if there is none, or several.
    pub async fn find_patron(
        &self,
        caller: &Caller,
        barcode: &str,
    ) -> Result<Option<Uuid>, CallError> {
        let query = format!("barcode==\"{}\"", escape(barcode));
        let page: UserPage = self.get(Module::Users, caller, "/users", &query, 2).await?;
        match &*page.users {
            [user] => Ok(Some(user.id)),
            _ => Ok(None),
        }
    }

    async fn get<T: DeserializeOwned>(
        &self,
        module: Module,
        caller: &Caller,
        path: &str,
        query: &str,
        limit: usize,
    ) -> Result<T, CallError> {
        let request = caller.request(self.client.http(), Method::GET, path);
        let request = request.query(&[("query", query), ("limit", &limit.to_string())]);
        let sent = self.client.send(module, caller, request, TIMEOUT, RESPONSE_BYTES_MAX).await?;
        match sent.status {
            StatusCode::OK => serde_json::from_slice(&sent.body).map_err(CallError::Unreadable),
            status => Err(CallError::Status(status)),
        }
    }
}

/// Escapes the characters that have a meaning in a term of CQL.
fn escape(term: &str) -> String {
    let mut escaped = String::with_capacity(term.len());
    for character in term.chars() {
        if matches!(character, '"' | '\\' | '*' | '?' | '^') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barcode_is_one_term() {
        assert_eq!(escape("21 4*711\" or \\"), "21 4\\*711\\\" or \\\\");
    }
}

//! Reads open loans and open fees/fines from the storage modules (docs/contract/http-api.md#9-calls).

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{CallError, Caller, Module, ModuleClient};
use crate::patron::Scope;

/// Records per page. Pages are small, because mod-feesfines calls the inventory for each page.
pub const PAGE_RECORDS_MAX: usize = 100;

/// Size of a page in bytes, at most: 160 KiB per record.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// The kind of records to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageResource {
    /// Open loans.
    Loans,
    /// Open accounts, which are fees/fines.
    Accounts,
}

impl StorageResource {
    /// Returns the name in logs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loans => "loans",
            Self::Accounts => "accounts",
        }
    }

    fn module(self) -> Module {
        match self {
            Self::Loans => Module::LoanStorage,
            Self::Accounts => Module::FeesFines,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Loans => "/loan-storage/loans",
            Self::Accounts => "/accounts",
        }
    }
}

/// A page of raw records; an unreadable record does not hide the others.
#[derive(Deserialize)]
struct Page {
    #[serde(alias = "accounts")]
    loans: Vec<Box<RawValue>>,
}

/// A client of the storage modules.
#[derive(Debug, Clone)]
pub struct Storage(ModuleClient);

impl Storage {
    /// Creates a client.
    pub fn new(calls: ModuleClient) -> Self {
        Self(calls)
    }

    /// Fetches the next page of open records after an id, in the order of ids, for one patron or for all.
    pub async fn fetch_page(
        &self,
        caller: &Caller,
        resource: StorageResource,
        scope: Scope,
        after: Option<Uuid>,
        timeout: Duration,
    ) -> Result<Vec<Box<RawValue>>, CallError> {
        let mut query = "status.name==Open".to_owned();
        if let Scope::Patron(user) = scope {
            query.push_str(&format!(" and userId=={user}"));
        }
        if let Some(after) = after {
            query.push_str(&format!(" and id > {after}"));
        }
        query.push_str(" sortBy id");
        let limit = PAGE_RECORDS_MAX.to_string();
        let request = caller.request(self.0.http(), Method::GET, resource.path());
        let request = request.query(&[("limit", &*limit), ("query", &*query)]);
        let answer =
            self.0.send(resource.module(), caller, request, timeout, PAGE_BYTES_MAX).await?;
        match answer.status {
            StatusCode::OK => {
                let page: Page =
                    serde_json::from_slice(&answer.body).map_err(CallError::Unreadable)?;
                Ok(page.loans)
            }
            status => Err(CallError::Status(status)),
        }
    }
}

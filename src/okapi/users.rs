//! Reads patron groups from mod-users.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use uuid::Uuid;

use super::{CallError, Caller, Module, ModuleClient};
use crate::blocks::PatronGroup;

/// Size of a user in bytes, at most: far above a real user.
const USER_BYTES_MAX: usize = 1 << 20;

/// Patron groups per page. A library has a few dozen.
const PAGE_GROUPS: usize = 500;

/// Patron groups of a complete list, at most.
const GROUPS_MAX: usize = 2000;

/// Size of a page of patron groups in bytes, at most: 2 KiB per group.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Maximum time for the whole list of patron groups.
const GROUPS_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of mod-users.
#[derive(Debug, Clone)]
pub struct Users {
    client: ModuleClient,
    timeout: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    patron_group: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupPage {
    usergroups: Vec<Group>,
    total_records: u64,
}

#[derive(Deserialize)]
struct Group {
    id: String,
    #[serde(default)]
    group: String,
}

/// The cause of a missing list of patron groups.
#[derive(Debug, thiserror::Error)]
pub enum GroupsError {
    /// A call failed.
    #[error("could not get a page of patron groups")]
    Call(#[source] CallError),
    /// The pages together have another number of patron groups than mod-users reports.
    #[error("mod-users returned {found} of {total} patron groups")]
    Incomplete {
        /// Number of different patron groups in the pages.
        found: usize,
        /// Number of patron groups that mod-users reports.
        total: u64,
    },
    /// The tenant has more patron groups than the service reads.
    #[error("mod-users has {GROUPS_MAX} patron groups or more")]
    TooMany,
    /// The pages took too long together.
    #[error("mod-users returned the patron groups too slowly")]
    TooSlow,
}

impl Users {
    /// Creates a client; a call ends after `timeout`.
    pub fn new(calls: ModuleClient, timeout: Duration) -> Self {
        Self { client: calls, timeout }
    }

    /// Returns whether the breaker of mod-users is closed.
    pub fn is_available(&self, caller: &Caller) -> bool {
        self.client.is_available(Module::Users, caller)
    }

    /// Fetches the patron's group. `None` means that the patron has no group or that mod-users does not
    /// know the patron; these are responses, not failures (docs/contract/http-api.md#2-blocks).
    pub async fn fetch_patron_group(
        &self,
        caller: &Caller,
        user: Uuid,
    ) -> Result<Option<String>, CallError> {
        let request = caller.request(self.client.http(), Method::GET, &format!("/users/{user}"));
        let answer =
            self.client.send(Module::Users, caller, request, self.timeout, USER_BYTES_MAX).await?;
        match answer.status {
            StatusCode::OK => {
                let user: User =
                    serde_json::from_slice(&answer.body).map_err(CallError::Unreadable)?;
                Ok(user.patron_group.filter(|group| !group.is_empty()))
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(CallError::Status(status)),
        }
    }

    /// Fetches all patron groups, ordered by name as in the settings pages of ui-users. An incomplete list is an
    /// error, because a missing group looks like a deleted one.
    pub async fn fetch_patron_groups(
        &self,
        caller: &Caller,
    ) -> Result<Vec<PatronGroup>, GroupsError> {
        let started = Instant::now();
        let (mut groups, mut known) = (Vec::new(), HashSet::new());
        loop {
            let left = GROUPS_TIMEOUT.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(GroupsError::TooSlow);
            }
            let page = self
                .fetch_group_page(caller, groups.len(), self.timeout.min(left))
                .await
                .map_err(GroupsError::Call)?;
            let is_last = page.usergroups.len() < PAGE_GROUPS;
            let found_before = groups.len();
            for Group { id, group: name } in page.usergroups {
                if known.insert(id.to_ascii_lowercase()) {
                    groups.push(PatronGroup { id, name });
                }
            }
            let (found, total) = (groups.len(), page.total_records);
            if is_last && found as u64 >= total {
                return Ok(groups);
            }
            // A page without a new group repeats an earlier page.
            if is_last || found == found_before {
                return Err(GroupsError::Incomplete { found, total });
            }
            if found >= GROUPS_MAX {
                return Err(GroupsError::TooMany);
            }
        }
    }

    async fn fetch_group_page(
        &self,
        caller: &Caller,
        offset: usize,
        timeout: Duration,
    ) -> Result<GroupPage, CallError> {
        let (limit, offset) = (PAGE_GROUPS.to_string(), offset.to_string());
        let query =
            [("query", "cql.allRecords=1 sortby group"), ("limit", &*limit), ("offset", &*offset)];
        let request = caller.request(self.client.http(), Method::GET, "/groups").query(&query);
        let answer =
            self.client.send(Module::UserGroups, caller, request, timeout, PAGE_BYTES_MAX).await?;
        match answer.status {
            StatusCode::OK => serde_json::from_slice(&answer.body).map_err(CallError::Unreadable),
            status => Err(CallError::Status(status)),
        }
    }
}

//! What the reader of a page may do.

use std::collections::HashSet;

use actix_web::HttpRequest;

use crate::services::operator_actions::Action;

/// The header with the permissions of the user, among those that the module descriptor desires: a JSON array.
const PERMISSIONS_HEADER: &str = "X-Okapi-Permissions";

/// The actions that a reader may take.
#[derive(Debug, Clone)]
pub(super) enum Roles {
    /// All actions: the reader is an operator of this host, or has the role of operators.
    All,
    /// The actions of these permissions.
    Of(HashSet<String>),
}

impl Roles {
    /// Returns the roles that the gateway reports. Without a valid header, the reader may take no action.
    pub(super) fn from_gateway(request: &HttpRequest) -> Self {
        let mut lines = request.headers().get_all(PERMISSIONS_HEADER);
        let first = lines.next();
        // A gateway may have added its line to that of the client.
        let is_single = lines.all(|line| Some(line) == first);
        let header = first.filter(|_| is_single);
        let names = header.and_then(|value| serde_json::from_slice(value.as_bytes()).ok());
        Self::Of(names.unwrap_or_default())
    }

    /// Returns the roles of a person who may only read.
    pub(super) fn none() -> Self {
        Self::Of(HashSet::new())
    }

    /// Returns whether the reader may take an action.
    pub(super) fn may(&self, action: Action) -> bool {
        match self {
            Self::All => true,
            Self::Of(names) => permission(action).is_some_and(|name| names.contains(name)),
        }
    }
}

/// Returns the permission of an action: the one that the HTTP interface requires for the same. `None` for an action that
/// only the command line has.
pub const fn permission(action: Action) -> Option<&'static str> {
    Some(match action {
        Action::RepairCounters | Action::EnableTenant | Action::GiveBackTenant => return None,
        Action::RetryRecord => "patron-blocks.operations.dead-letters.item.retry.post",
        Action::RetryRecords => "patron-blocks.operations.dead-letters.collection.retry.post",
        // An operator who may discard a record may undo the discard.
        Action::DiscardRecord | Action::RestoreRecord => {
            "patron-blocks.operations.dead-letters.item.delete"
        }
        Action::DiscardRecords | Action::RestoreRecords => {
            "patron-blocks.operations.dead-letters.collection.delete"
        }
        Action::ResolveIncident => "patron-blocks.operations.incidents.item.resolve.post",
        Action::RequestRebuild => "patron-blocks.operations.rebuilds.item.post",
        Action::ApplyRebuild => "patron-blocks.operations.rebuilds.apply.post",
        Action::CancelRebuild => "patron-blocks.operations.rebuilds.item.delete",
        Action::RequestSynchronization => "patron-blocks.synchronization.job.post",
        Action::RequestExport => "patron-blocks.operations.iterations.item.post",
        Action::CancelExport => "patron-blocks.operations.iterations.item.delete",
        Action::ReplaceCertaintyPolicy => "patron-blocks.certainty-policy.item.put",
        Action::ChangeCondition => "patron-blocks.patron-block-conditions.item.put",
        Action::CreateLimit => "patron-blocks.patron-block-limits.item.post",
        Action::ChangeLimit => "patron-blocks.patron-block-limits.item.put",
        Action::DeleteLimit => "patron-blocks.patron-block-limits.item.delete",
    })
}

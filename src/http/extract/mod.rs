//! What handlers take from a request: tenant, body, record and paging.

pub(super) mod body;
pub(super) mod load_limit;
pub(crate) mod paging;
pub(super) mod record;
pub(crate) mod tenant;

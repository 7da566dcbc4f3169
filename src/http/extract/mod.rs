//! What handlers take from a request: tenant, body, record and paging.

pub(super) mod body;
pub(crate) mod load_limit;
pub(crate) mod paging;
pub(crate) mod record;
pub(crate) mod tenant;

//! The shared parts of tests: engines, the harness of stories, stubs of other modules, and payloads.

pub(crate) mod binary;
pub(crate) mod block_event_consumer;
pub(crate) mod browser;
pub(crate) mod engines;
pub(crate) mod fact_strategies;
pub(crate) mod gateway_stub;
pub(crate) mod history;
pub(crate) mod http_client;
pub(crate) mod java;
pub(crate) mod log;
pub(crate) mod offset_monitor;
pub(crate) mod oidc_provider;
pub(crate) mod payloads;
pub(crate) mod policy;
pub(crate) mod proxy;
pub(crate) mod raw_http;
pub(crate) mod sign_in_console;
pub(crate) mod storage_stub;
pub(crate) mod story_database;
pub(crate) mod users_stub;
pub(crate) mod visitor;
pub(crate) mod world;

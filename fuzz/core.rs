//! The core of the service as a crate with the same name, without the drivers of the engines. The drivers
//! would take minutes to build, and the coverage would count their branches in every run.

#[path = "../src/event/mod.rs"]
pub mod event;
#[path = "../src/patron/mod.rs"]
pub mod patron;

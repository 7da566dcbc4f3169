//! The pure core of the service under its own name, without the drivers of the engines: they would take
//! minutes to build, and their branches would be counted in every single run.

#[path = "../src/event/mod.rs"]
pub mod event;
#[path = "../src/patron/mod.rs"]
pub mod patron;

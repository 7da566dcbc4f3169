//! Properties of the pure core, and simulated histories of the ingest loop. They need no engine.

mod assignment;
mod decoding;
mod evaluation;
mod explanations;
mod forecast;
mod forecast_period;
mod fuzzing;
mod hazards;
mod identity;
pub(crate) mod merging;
mod progress;
mod reconciling;
mod settings_check;
mod simulation;

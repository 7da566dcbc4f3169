//! `patron-blocks-insight`: explanations of blocks, and the forecast.

pub(crate) mod explanation_bodies;
pub(super) mod explanations;
pub(super) mod forecast;
pub(crate) mod forecast_bodies;
mod forecast_csv;

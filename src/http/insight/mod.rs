//! `patron-blocks-insight`: explanations of blocks, the forecast, and the check of the settings.

pub(crate) mod explanation_bodies;
pub(super) mod explanations;
pub(super) mod forecast;
pub(crate) mod forecast_bodies;
mod forecast_csv;
pub(super) mod settings_check;
pub(crate) mod settings_check_bodies;

//! `patron-blocks-insight`: explanations of blocks, certainty, the forecast, and the check
//! of the settings.

/// Defines the schema of a closed list of names.
macro_rules! names {
    ($name:ident { $($variant:ident),+ $(,)? }) => {
        #[derive(ToSchema)]
        #[serde(rename_all = "kebab-case")]
        #[expect(dead_code, reason = "schema of names")]
        pub(super) enum $name { $($variant),+ }
    };
}

pub(super) mod certainty;
pub(super) mod certainty_policy;
pub(crate) mod explanation_bodies;
pub(super) mod explanations;
pub(super) mod forecast;
pub(crate) mod forecast_bodies;
mod forecast_csv;
pub(super) mod settings_check;
pub(crate) mod settings_check_bodies;

//! `patron-blocks-insight`: explanations of blocks, and the check of the settings.

pub(crate) mod explanation_bodies;
pub(super) mod explanations;
pub(super) mod settings_check;
pub(crate) mod settings_check_bodies;

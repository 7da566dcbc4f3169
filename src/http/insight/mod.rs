//! `patron-blocks-insight`: explanations of blocks.

pub(crate) mod explanation_bodies;
pub(super) mod explanations;

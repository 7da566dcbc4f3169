//! `patron-blocks-insight`: explanations of blocks.

pub(super) mod explanation_bodies;
pub(super) mod explanations;

//! Stories through the real service: what goes in by Kafka comes out over REST.

mod answers;
mod day;
mod hazards;
mod limit_reached;
mod process;
mod settings;
mod tenants;
mod weather;

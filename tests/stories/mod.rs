//! Stories through the real service: what goes in by Kafka comes out over REST.

mod answers;
mod callbacks;
mod clients;
mod day;
mod encrypted;
mod filling;
mod gaps;
mod hazards;
mod held;
mod instances;
mod iterations;
mod keeping;
mod limit_reached;
mod messages;
mod operations;
mod process;
mod pubsub;
mod rebuilds;
mod settings;
mod slow;
mod storage;
mod switching;
mod synchronization;
mod tenants;
mod weather;

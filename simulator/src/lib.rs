//! Simulates a library and the other FOLIO modules around a patron blocks service.
//!
//! A seed determines patrons, loans, fees and days of circulation: check-outs at lunch, returns in the morning,
//! renewals from home, recalls, claims, lost items, payments, nightly jobs. The simulator writes the events to
//! Kafka like FOLIO's modules. On request it loses, repeats, delays or shuffles records. The simulator has the
//! truth of its library, so it requests the state of every patron from the service and compares the two. It
//! checks the explanation of each block: it returns the suggested items and pays the suggested amount.
//!
//! The simulator uses no code of the service. It writes its own JSON and evaluates blocks with its own code.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`model`] | the library: patrons, loans, fees, their events, and the [`Truth`](model::Truth) |
//! | [`wire`] | events as Kafka records, with optional faults: [`Play`](wire::Play) |
//! | [`blocks`] | the blocks that follow from the truth |
//! | [`regulations`] | the conditions and limits of the library |
//! | [`kafka`] | publishing to a broker |
//! | [`pause`] | a pause in publishing on request |
//! | [`desk`] | check-ins and payments on request |
//! | [`folio`] | the HTTP modules: users, storage, PubSub |
//! | [`service`] | the client of the service: setup and judge |
//! | [`command`] | the command line |
//!
//! A test can play a day without a broker:
//!
//! ```
//! use simulator::model::Settings;
//! use simulator::wire::{Faults, Play, Wire};
//!
//! let end = "2026-09-15T00:00:00Z".parse().expect("the text is a time");
//! let settings = Settings { patrons: 50, ..Settings::new(7, end) };
//! let faults = Faults { repeat: 0.1, reorder: 30, ..Faults::NONE };
//! let (records, truth) = Play::in_memory(&settings, &Wire::new("folio", "northlib"), faults);
//!
//! assert!(records.iter().all(|record| record.timestamp_ms <= end.timestamp_millis()));
//! assert_eq!(truth.accounts().count(), 50);
//! // Send `records` to the service, then compare:
//! //
//! //     let folio = Folio::start("northlib", SharedTruth::new(truth.clone()), 0)?;
//! //     let service = Service::new(service_url, "northlib", Some(&folio.url()))?;
//! //     set_up(&service, &regulations::rules()).await?;
//! //     let verdict = Judge::new(service, Clock::Wall).compare(&Arc::new(truth)).await?;
//! //     assert_eq!(verdict.differences, []);
//! ```

pub mod blocks;
pub mod clock;
pub mod command;
pub mod desk;
pub mod folio;
pub mod kafka;
pub mod model;
pub mod pause;
pub mod regulations;
pub mod service;
pub mod stop;
pub mod terminal;
pub mod wire;

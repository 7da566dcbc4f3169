//! A library in a box.
//!
//! The simulator pretends to be the rest of FOLIO around a patron blocks service. It makes up a
//! library with patrons, loans and fees, and plays days of circulation from a seed: check-outs at
//! lunch, returns in the morning, renewals from home, recalls, claims, lost items, payments,
//! nightly jobs. What happens is written to Kafka the way FOLIO's modules write it, and may be
//! lost, repeated, delayed or shuffled on the way. Since it owns the truth of its library, it can
//! judge: it asks the service about every patron and compares.
//!
//! It knows nothing of the service's code. It writes JSON of its own and works out blocks by its
//! own reading of the rules.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`model`] | the library: patrons, loans, fees, their events, and the [`Truth`](model::Truth) |
//! | [`wire`] | events as Kafka records, with faults on demand: [`Play`](wire::Play) |
//! | [`blocks`] | which blocks follow from the truth |
//! | [`regulations`] | the conditions and limits that the library sets |
//! | [`kafka`] | publishing to a broker |
//! | [`pause`] | publishing pauses when somebody asks for it |
//! | [`folio`] | the HTTP side: users, storage, PubSub |
//! | [`service`] | the service from outside: set it up, judge it |
//! | [`command`] | the command line |
//!
//! In a test, a day needs no broker:
//!
//! ```
//! use simulator::model::Settings;
//! use simulator::wire::{Faults, Play, Wire};
//!
//! let end = "2026-09-15T00:00:00Z".parse().expect("this is a time");
//! let settings = Settings { patrons: 50, ..Settings::new(7, end) };
//! let faults = Faults { repeat: 0.1, reorder: 30, ..Faults::NONE };
//! let (records, truth) = Play::in_memory(&settings, &Wire::new("folio", "northlib"), faults);
//!
//! assert!(records.iter().all(|record| record.timestamp_ms <= end.timestamp_millis()));
//! assert_eq!(truth.accounts().count(), 50);
//! // Feed `records` to the service, then let it be judged:
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
pub mod folio;
pub mod kafka;
pub mod model;
pub mod pause;
pub mod regulations;
pub mod service;
pub mod stop;
pub mod terminal;
pub mod wire;

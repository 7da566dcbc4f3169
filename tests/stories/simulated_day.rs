//! A simulated day through the real service, out of order, with the simulator as the judge.

use std::{sync::Arc, time::Duration};

use simulator::{
    clock::Clock,
    folio::Folio,
    model::Settings,
    regulations,
    service::{Judge, Service, set_up},
    wire::{Faults, Play, Shape, SharedTruth, Wire},
};

use super::gateway;
use crate::support::{
    log::OutgoingRecord,
    payloads::now,
    world::{TENANT, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn simulated_day_with_duplicates_and_disorder_is_correct() {
    play_day(false, false).await;
}

/// The loan and the message share one transaction, as in the plan for the end of mod-pubsub.
#[tokio::test(flavor = "multi_thread")]
async fn simulated_day_through_storage_outbox_is_correct() {
    play_day(true, true).await;
}

/// Loans and groups are edited without a business event.
#[tokio::test(flavor = "multi_thread")]
async fn simulated_day_with_storage_topics_is_correct() {
    play_day(true, false).await;
}

async fn play_day(storage: bool, outbox: bool) {
    World::run_with(gateway::use_request_gateway, async |world| {
        let settings = Settings { patrons: 150, ..Settings::new(15, now()) };
        let shape = Shape::Mixed;
        let wire = Wire { shape, storage, outbox, ..Wire::new(world.log.environment(), TENANT) };
        let faults =
            Faults { repeat: 0.1, delay: 0.05, delay_by: 500, reorder: 200, ..Faults::NONE };
        let (records, truth) = Play::in_memory(&settings, &wire, faults);
        let drafts = records.iter().map(|record| OutgoingRecord {
            topic: record.topic.to_string(),
            headers: record.headers.iter().map(|(name, value)| (*name, &**value)).collect(),
            payload: Some(&record.payload),
            timestamp: Some(record.timestamp_ms),
        });
        world.log.send_all(drafts).await;

        let folio = Folio::start(TENANT, SharedTruth::new(truth.clone()), 0).unwrap();
        let service = Service::new(world.url(), TENANT, Some(&folio.url())).unwrap();
        set_up(&service, &regulations::rules()).await.unwrap();
        world.until_committed().await;
        let judge = Judge::new(service, Clock::Wall);
        let truth = Arc::new(truth);
        let expected = async || Ok(truth.clone());
        let verdict = judge.compare_until(Duration::from_secs(20), expected).await.unwrap();
        assert!(verdict.differences.is_empty(), "{:#?}", verdict.differences);
        assert!(verdict.loans > 100 && verdict.fees_fines > 10, "the sample is too small");
        assert!(verdict.claimed_fees_fines > 0, "no fee/fine of a claimed loan: {verdict}");
        assert_eq!(verdict.explanations, verdict.patrons);
        let topic_groups =
            "select count(*) from {schema}.patron where topic_group_stamp is not null";
        assert_eq!(world.count(topic_groups).await, if storage { 150 } else { 0 });
        folio.stop().await;
    })
    .await;
}

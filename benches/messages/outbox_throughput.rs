//! Measures the messages per second that leave the outbox, and a bare producer with the same settings and
//! messages.

use std::time::{Duration, Instant};

use patron_blocks::store::Db;
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    PUBLISHING_ON,
    fixture::{TENANT, database, median, print_line, schema},
    servers::Service,
    topic::{self, client, count},
};

const MESSAGES: usize = 100_000;
const ROUNDS: usize = 3;

/// The approximate size of a message with two blocks.
const MESSAGE_BYTES: usize = 900;

pub(crate) async fn measure() {
    let (login, db, _) = database("patron_blocks_bench_sending").await;
    let environment = format!("sending-{}", Uuid::new_v4().simple());
    let (outbox_topic, bare_topic) = (topic::blocks(&environment), format!("{environment}.bare"));
    topic::make(&[outbox_topic.clone(), bare_topic.clone()]).await;
    let service = Service::start_with(&login, &environment, 5, &[PUBLISHING_ON]).await;
    let (mut bare_rates, mut ratios) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let bare = bare(&bare_topic);
        ratios.push(outbox(&db, &outbox_topic).await / bare);
        bare_rates.push(bare);
    }
    drop(service);
    topic::remove(&[outbox_topic, bare_topic]).await;
    print_line(&format!(
        "bare producer:                                    {:>9.0} messages/s",
        median(bare_rates)
    ));
    print_line(&format!(
        "outbox, ratio to the bare producer:               {:>9.2}",
        median(ratios)
    ));
}

fn bare(topic: &str) -> f64 {
    let producer: ThreadedProducer<DefaultProducerContext> = client()
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "2")
        .set("compression.type", "lz4")
        .create()
        .expect("a producer");
    let payload = "x".repeat(MESSAGE_BYTES);
    let began = Instant::now();
    for n in 0..MESSAGES {
        let key = format!("00000000-0000-4000-8000-{n:012}");
        let headers = ["folio.tenantId", "x-okapi-tenant", "event-id"]
            .into_iter()
            .fold(OwnedHeaders::new(), |headers, name| {
                headers.insert(Header { key: name, value: Some(TENANT) })
            });
        let mut record = BaseRecord::to(topic).key(&key).payload(&payload).headers(headers);
        while let Err((_, refused)) = producer.send(record) {
            producer.flush(Duration::from_secs(60)).expect("the broker accepts the records");
            record = refused;
        }
    }
    producer.flush(Duration::from_secs(60)).expect("the broker accepts the records");
    MESSAGES as f64 / began.elapsed().as_secs_f64()
}

async fn outbox(db: &Db, topic: &str) -> f64 {
    let sql = format!(
        "insert into {}.message_outbox (sequence, id, kafka_topic, key, headers, payload)
         select nextval('{0}.message_sequence'), gen_random_uuid(), $1,
                '00000000-0000-4000-8000-' || lpad(n::text, 12, '0'),
                jsonb_build_object('folio.tenantId', $2::text, 'x-okapi-tenant', $2::text, 'event-id', $2::text),
                repeat('x', $3)
           from generate_series(1, $4) n",
        schema().name()
    );
    let insert = sqlx::query(AssertSqlSafe(sql)).bind(topic).bind(TENANT);
    let insert = insert.bind(MESSAGE_BYTES as i32).bind(MESSAGES as i32);
    insert.execute(db).await.expect("messages");
    // The measurement lasts from the first messages recorded as sent to the last.
    const UNSENT: &str = "select count(*) from {schema}.message_outbox where status = 'NEW'";
    let mut poll = tokio::time::interval(Duration::from_millis(20));
    let mut first = None;
    loop {
        poll.tick().await;
        let left = count(db, UNSENT).await;
        let now = Instant::now();
        if left < MESSAGES as i64 {
            let (since, before) = *first.get_or_insert((now, left));
            if left == 0 {
                return before as f64 / (now - since).as_secs_f64();
            }
        }
    }
}

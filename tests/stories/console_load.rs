//! The pages of a library with 50,000 parked records.

use std::time::{Duration, Instant};

use patron_blocks::event::Kind;
use uuid::Uuid;

use super::console::{GATEWAY, page};
use crate::support::{
    payloads::{check_out, minutes_from_now},
    world::World,
};

/// Limit of a page in this test. The service is compiled without optimization, and other stories run.
const PAGE_LIMIT: Duration = Duration::from_secs(1);

/// Loads of each page; the fastest one counts.
const LOADS: usize = 5;

/// Adds parked records, each of which names the loan of a patron. A payload has half a kilobyte.
const PARK: &str = "insert into {schema}.dead_letter
    (dead_letter_id, reason, field, rule, topic, partition, \"offset\", received_at, headers, payload, subjects)
    select gen_random_uuid(), 'bad_field', case n % 5 when 0 then 'userId' else 'loanId' end,
           'must be a UUID of version 1 to 5', 'folio.northlib.circulation.LOAN_CLOSED', n % 10, n,
           now() - n * interval '1 second', '[]', convert_to(repeat('{\"loanId\":\"x\"}', 35), 'UTF8'),
           array[l.loan_id]
      from generate_series(1, 50000) n cross join (select loan_id from {schema}.loan limit 1) l";

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_quick_with_many_parked_records() {
    World::run(async |world| {
        let user = world.users.add_patron(Uuid::new_v4());
        let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(1440));
        world.publish(Kind::ItemCheckedOut, &payload).await;
        world.until_committed().await;
        world.execute_sql(PARK).await;
        world.execute_sql("analyze {schema}.dead_letter").await;
        let mut slow = Vec::new();
        for path in [
            "home",
            "parked",
            "parked?offset=49900",
            "parked?query=field%3D%3DuserId",
            "parked?query=rule%3Duuid",
            "parked?query=rule%3Dnowhere",
            "parked?query=rule%20all%20%22version%20must%22",
            "discarded",
            "ingest",
        ] {
            let mut best = Duration::MAX;
            for _ in 0..LOADS {
                let began = Instant::now();
                page(world, path).await;
                best = best.min(began.elapsed());
            }
            eprintln!("{path}: {} ms", best.as_millis());
            if best > PAGE_LIMIT {
                slow.push(format!("{path} took {best:?}"));
            }
        }
        assert_eq!(slow, [""; 0]);
        let body = page(world, "home").await;
        assert!(body.contains("Over 10000 records are parked"), "{body}");
        let body = page(world, "parked?query=rule%3Duuid").await;
        assert!(body.contains("Parked records that match the filter: over 10000."), "{body}");
        let body = page(world, "parked?query=rule%3Duuid&offset=49900").await;
        assert!(body.contains("Previous") && !body.contains(">Next<"), "{body}");
        let body = page(world, "parked?query=field%3D%3DuserId&offset=9900").await;
        assert!(body.contains("match the filter: 10000.") && !body.contains(">Next<"), "{body}");
        let desk = world.get(&format!("{GATEWAY}/desk/{user}")).await;
        assert_eq!(desk.0, 200);
        world.execute_sql("truncate {schema}.dead_letter").await;
    })
    .await;
}

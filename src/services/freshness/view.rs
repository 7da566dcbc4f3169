//! How far the events of each tenant are applied, from the reports of all instances. Pure: no I/O, no clock.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::{
    event::{Environment, Kind, TenantId},
    store::ingest::instance_reports::{BehindPartition, InstanceReport, OwnedPartitions},
};

/// Age from which a report does not count, because its instance has stopped or lost the database.
const REPORT_AGE_MAX: TimeDelta = TimeDelta::seconds(15);

/// The topics of the deployment, with the number of their partitions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TopicList {
    /// Topics of single tenants.
    of_tenants: HashMap<TenantId, Vec<(String, usize)>>,
    /// Topics of tenant collections, which may contain records of any tenant.
    shared: Vec<(String, usize)>,
    /// Tenants with a topic of business events.
    with_log: HashSet<TenantId>,
    /// Whether a collection has a topic of business events.
    has_shared_log: bool,
}

impl TopicList {
    /// Selects the topics that the consumer group reads.
    pub(super) fn new(topics: BTreeMap<String, usize>, environment: &Environment) -> Self {
        let mut list = Self::default();
        for (name, partitions) in topics {
            let Some(topic) = environment.parse(&name) else { continue };
            let is_business = Kind::BUSINESS.contains(&topic.kind);
            match topic.tenant {
                Some(tenant) => {
                    if is_business {
                        list.with_log.insert(tenant.clone());
                    }
                    list.of_tenants.entry(tenant).or_default().push((name, partitions));
                }
                None => {
                    list.has_shared_log |= is_business;
                    list.shared.push((name, partitions));
                }
            }
        }
        list
    }

    fn has_log(&self, tenant: &TenantId) -> bool {
        self.has_shared_log || self.with_log.contains(tenant)
    }
}

/// What is known about the events of one tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantFreshness {
    /// The instant up to which all events are applied, if it is known.
    pub as_of: Option<DateTime<Utc>>,
    /// Whether the events are in a log. Otherwise they arrive over HTTP only, and [`Self::as_of`] is the
    /// instant of the last one.
    pub has_log: bool,
    /// Whether a partition waits for an operator.
    pub has_stopped_partition: bool,
    /// Number of records that are not applied.
    pub lag: i64,
}

/// The topics of one tenant, or of all collections.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TopicState {
    /// Whether an instance owns each partition and knows its position.
    is_covered: bool,
    /// Partitions that are behind or stopped.
    behind: Vec<BehindPartition>,
}

/// The state of topics of which all records are applied.
static UP_TO_DATE: TopicState = TopicState { is_covered: true, behind: Vec::new() };

impl TopicState {
    fn lag(&self) -> i64 {
        self.behind.iter().map(|found| found.lag).sum()
    }

    fn has_stopped(&self) -> bool {
        self.behind.iter().any(|found| found.is_stopped)
    }

    /// Returns the instant up to which the topics are applied, or `None` if it cannot be computed.
    fn as_of(&self, compared_at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut as_of = compared_at;
        for found in self.behind.iter().filter(|found| found.lag > 0) {
            as_of = as_of.min(found.as_of?);
        }
        self.is_covered.then_some(as_of)
    }
}

/// How far the events of all tenants are applied.
#[derive(Debug)]
pub struct FreshnessView {
    /// The instant of the view by the database clock, and by the clock of this process.
    read_at: Option<(DateTime<Utc>, Instant)>,
    /// When every instance had compared its positions with the ends of the log.
    compared_at: Option<DateTime<Utc>>,
    /// `None` until the topics were listed.
    topics: Option<Arc<TopicList>>,
    /// The topics of collections.
    shared: TopicState,
    /// The topics of tenants, without tenants that are up to date.
    own: HashMap<TenantId, TopicState>,
    /// The last known instants of tenants with an unknown instant now; `None` if none was ever known.
    last_known: HashMap<TenantId, Option<DateTime<Utc>>>,
    /// The last known instant of the other tenants.
    last_known_of_others: Option<DateTime<Utc>>,
    /// When the last event of a tenant arrived over HTTP.
    callbacks: HashMap<TenantId, DateTime<Utc>>,
}

impl Default for FreshnessView {
    fn default() -> Self {
        Self {
            read_at: None,
            compared_at: None,
            topics: None,
            shared: UP_TO_DATE.clone(),
            own: HashMap::new(),
            last_known: HashMap::new(),
            last_known_of_others: None,
            callbacks: HashMap::new(),
        }
    }
}

impl FreshnessView {
    /// Returns the time of the database clock; `None` before the first report was read.
    pub fn now(&self) -> Option<DateTime<Utc>> {
        let (at, read) = self.read_at?;
        Some(at + TimeDelta::from_std(read.elapsed()).unwrap_or_default())
    }

    /// Returns what is known about the events of a tenant.
    pub fn of(&self, tenant: &TenantId) -> TenantFreshness {
        if self.topics.as_ref().is_some_and(|topics| !topics.has_log(tenant)) {
            let as_of = self.callbacks.get(tenant).copied();
            return TenantFreshness { as_of, ..TenantFreshness::default() };
        }
        let own = self.own.get(tenant).unwrap_or(&UP_TO_DATE);
        TenantFreshness {
            as_of: self.as_of(own).or_else(|| self.last_known(tenant)),
            has_log: true,
            has_stopped_partition: own.has_stopped() || self.shared.has_stopped(),
            lag: own.lag() + self.shared.lag(),
        }
    }

    /// Returns the partitions that are behind or stopped and may contain records of a tenant.
    pub fn behind(&self, tenant: &TenantId) -> impl Iterator<Item = &BehindPartition> {
        let own = self.own.get(tenant).unwrap_or(&UP_TO_DATE);
        own.behind.iter().chain(&self.shared.behind)
    }

    /// Computes the instant of a tenant; `None` if a partition has no owner or no known position.
    fn as_of(&self, own: &TopicState) -> Option<DateTime<Utc>> {
        let compared_at = self.compared_at.filter(|_| self.topics.is_some())?;
        Some(own.as_of(compared_at)?.min(self.shared.as_of(compared_at)?))
    }

    fn last_known(&self, tenant: &TenantId) -> Option<DateTime<Utc>> {
        self.last_known.get(tenant).copied().unwrap_or(self.last_known_of_others)
    }

    /// Computes the next view from the reports of all instances. `owned` has the partitions that each instance owns,
    /// by topic.
    pub(super) fn next(
        &self,
        reports: Vec<InstanceReport>,
        read_at: (DateTime<Utc>, Instant),
        owned: &BTreeMap<Uuid, &OwnedPartitions>,
        topics: Option<&Arc<TopicList>>,
        environment: &Environment,
    ) -> Self {
        let mut next = Self {
            read_at: Some(read_at),
            topics: topics.cloned(),
            callbacks: self.callbacks.clone(),
            ..Self::default()
        };
        next.add_callbacks(&reports);
        let mut owned_partitions: HashMap<&str, HashSet<i32>> = HashMap::new();
        let mut compared_at = Vec::new();
        for report in reports {
            let owned = owned.get(&report.instance).filter(|owned| !owned.is_empty());
            // After a step back of the database clock, a report may be from the future.
            let is_recent = (read_at.0 - report.reported_at).abs() <= REPORT_AGE_MAX;
            let Some(owned) = owned.filter(|_| is_recent) else { continue };
            compared_at.push(report.compared_at);
            for (topic, partitions) in *owned {
                owned_partitions.entry(topic).or_default().extend(partitions);
            }
            report.behind.into_iter().for_each(|found| next.add_behind(found, environment));
        }
        next.compared_at = compared_at.into_iter().min().flatten();
        if let Some(topics) = topics {
            let is_uncovered = |(name, partitions): &(String, usize)| {
                owned_partitions.get(name.as_str()).is_none_or(|owned| owned.len() < *partitions)
            };
            next.shared.is_covered = !topics.shared.iter().any(is_uncovered);
            for (tenant, own) in &topics.of_tenants {
                if own.iter().any(is_uncovered) {
                    next.own_mut(tenant).is_covered = false;
                }
            }
        }
        next.retain_last_known(self);
        next
    }

    fn own_mut(&mut self, tenant: &TenantId) -> &mut TopicState {
        self.own.entry(tenant.clone()).or_insert(UP_TO_DATE.clone())
    }

    fn add_callbacks(&mut self, reports: &[InstanceReport]) {
        for (tenant, at) in reports.iter().flat_map(|report| &report.callbacks) {
            let Some(tenant) = TenantId::parse(tenant) else { continue };
            let last = self.callbacks.entry(tenant).or_insert(*at);
            *last = *at.max(last);
        }
    }

    fn add_behind(&mut self, found: BehindPartition, environment: &Environment) {
        let Some(topic) = environment.parse(&found.topic) else { return };
        match topic.tenant {
            Some(tenant) => self.own_mut(&tenant).behind.push(found),
            None => self.shared.behind.push(found),
        }
    }

    /// Keeps the instants of the previous view for all tenants with an unknown instant.
    fn retain_last_known(&mut self, previous: &Self) {
        let tenants = self.own.keys().chain(previous.own.keys()).chain(previous.last_known.keys());
        let mut last_known = HashMap::new();
        for tenant in tenants {
            let own = self.own.get(tenant).unwrap_or(&UP_TO_DATE);
            if self.as_of(own).is_none() {
                last_known.insert(tenant.clone(), previous.of(tenant).as_of);
            }
        }
        self.last_known = last_known;
        let others = previous.as_of(&UP_TO_DATE);
        self.last_known_of_others = others.or(previous.last_known_of_others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "folio.northlib.circulation.ITEM_CHECKED_OUT";
    const SHARED: &str = "folio.ALL.circulation.ITEM_CHECKED_OUT";

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + second, 0).unwrap()
    }

    fn tenant(id: &str) -> TenantId {
        TenantId::parse(id).unwrap()
    }

    fn environment() -> Environment {
        Environment::new(None)
    }

    fn topics(names: &[(&str, usize)]) -> Arc<TopicList> {
        let names = names.iter().map(|(name, partitions)| ((*name).to_owned(), *partitions));
        Arc::new(TopicList::new(names.collect(), &environment()))
    }

    /// The report of one instance at a second, in which it compared its positions.
    fn report(instance: u128, second: i64, behind: &[BehindPartition]) -> InstanceReport {
        InstanceReport {
            instance: Uuid::from_u128(instance),
            reported_at: at(second),
            compared_at: Some(at(second)),
            owned_version: 0,
            owned: None,
            behind: behind.to_vec(),
            callbacks: HashMap::new(),
        }
    }

    fn behind(topic: &str, as_of: Option<i64>) -> BehindPartition {
        let topic = topic.to_owned();
        BehindPartition { topic, partition: 0, lag: 7, as_of: as_of.map(at), is_stopped: false }
    }

    type Owned = BTreeMap<Uuid, OwnedPartitions>;

    fn owned(list: &[(u128, &str, &[i32])]) -> Owned {
        let mut owned = Owned::new();
        for (instance, topic, partitions) in list {
            let of_instance = owned.entry(Uuid::from_u128(*instance)).or_default();
            of_instance.insert((*topic).to_owned(), partitions.to_vec());
        }
        owned
    }

    fn next(
        previous: &FreshnessView,
        second: i64,
        reports: &[InstanceReport],
        owned: &Owned,
        topics: &Arc<TopicList>,
    ) -> FreshnessView {
        let owned = owned.iter().map(|(instance, owned)| (*instance, owned)).collect();
        let read_at = (at(second), Instant::now());
        previous.next(reports.to_vec(), read_at, &owned, Some(topics), &environment())
    }

    #[test]
    fn oldest_comparison_of_all_instances_counts() {
        let (topics, owned) = (topics(&[(OWN, 4)]), owned(&[(1, OWN, &[0, 1, 3]), (2, OWN, &[2])]));
        let reports = [report(1, 10, &[]), report(2, 8, &[])];
        let view = next(&FreshnessView::default(), 10, &reports, &owned, &topics);
        for id in ["northlib", "southlib"] {
            let found = view.of(&tenant(id));
            let has_log = id == "northlib";
            assert_eq!((found.as_of, found.has_log), (has_log.then_some(at(8)), has_log), "{id}");
        }
    }

    #[test]
    fn behind_partition_counts_for_its_tenant() {
        let other = "folio.southlib.circulation.ITEM_CHECKED_OUT";
        let topics = topics(&[(OWN, 1), (other, 1)]);
        let owned = owned(&[(1, OWN, &[0]), (1, other, &[0])]);
        let reports = [report(1, 10, &[behind(OWN, Some(3))])];
        let view = next(&FreshnessView::default(), 10, &reports, &owned, &topics);
        let found = view.of(&tenant("northlib"));
        assert_eq!((found.as_of, found.lag), (Some(at(3)), 7));
        assert_eq!(view.of(&tenant("southlib")).as_of, Some(at(10)));
        assert_eq!(view.behind(&tenant("northlib")).count(), 1);
        assert_eq!(view.behind(&tenant("southlib")).count(), 0);
    }

    #[test]
    fn behind_collection_counts_for_every_tenant() {
        let (topics, owned) = (topics(&[(SHARED, 1)]), owned(&[(1, SHARED, &[0])]));
        let stopped = BehindPartition { lag: 0, is_stopped: true, ..behind(SHARED, None) };
        let reports = [report(1, 10, &[behind(SHARED, Some(3)), stopped])];
        let view = next(&FreshnessView::default(), 10, &reports, &owned, &topics);
        let found = view.of(&tenant("northlib"));
        assert_eq!(
            found,
            TenantFreshness {
                as_of: Some(at(3)),
                has_log: true,
                has_stopped_partition: true,
                lag: 7
            }
        );
    }

    /// The same partition of two instances does not stand for another one.
    #[test]
    fn partition_with_two_owners_counts_once() {
        let topics = topics(&[(OWN, 2)]);
        let owned = owned(&[(1, OWN, &[0]), (2, OWN, &[0])]);
        let reports = [report(1, 10, &[]), report(2, 10, &[])];
        let view = next(&FreshnessView::default(), 10, &reports, &owned, &topics);
        assert_eq!(view.of(&tenant("northlib")).as_of, None);
    }

    /// Other tenants are up to date meanwhile.
    #[test]
    fn instant_that_was_never_known_stays_unknown() {
        let other = "folio.southlib.circulation.ITEM_CHECKED_OUT";
        let topics = topics(&[(OWN, 1), (other, 1)]);
        let (none, all) = (owned(&[(1, other, &[0])]), owned(&[(1, OWN, &[0]), (1, other, &[0])]));
        let mut view = FreshnessView::default();
        for second in 10..14 {
            view = next(&view, second, &[report(1, second, &[])], &none, &topics);
            assert_eq!(view.of(&tenant("northlib")).as_of, None);
            assert_eq!(view.of(&tenant("southlib")).as_of, Some(at(second)));
        }
        for second in 14..18 {
            let unknown = [report(1, second, &[behind(OWN, None)])];
            view = next(&view, second, &unknown, &all, &topics);
            assert_eq!(view.of(&tenant("northlib")).as_of, None);
        }
    }

    /// A partition without an owner may contain records that no instance has applied.
    #[test]
    fn instant_stays_while_a_partition_has_no_owner() {
        let topics = topics(&[(OWN, 2)]);
        let (all, part) = (owned(&[(1, OWN, &[0, 1])]), owned(&[(1, OWN, &[1])]));
        let none = FreshnessView::default();
        assert_eq!(
            next(&none, 5, &[report(1, 5, &[])], &part, &topics).of(&tenant("northlib")).as_of,
            None
        );
        let mut view = next(&none, 10, &[report(1, 10, &[])], &all, &topics);
        for second in 11..14 {
            view = next(&view, second, &[report(1, second, &[])], &part, &topics);
            assert_eq!(view.of(&tenant("northlib")).as_of, Some(at(10)));
        }
        // A new position without a known instant changes nothing either.
        let unknown = [report(1, 14, &[behind(OWN, None)])];
        view = next(&view, 14, &unknown, &all, &topics);
        assert_eq!(view.of(&tenant("northlib")).as_of, Some(at(10)));
        view = next(&view, 15, &[report(1, 15, &[])], &all, &topics);
        assert_eq!(view.of(&tenant("northlib")).as_of, Some(at(15)));
    }

    #[test]
    fn report_of_a_stopped_instance_does_not_count() {
        let topics = topics(&[(OWN, 2)]);
        let both = owned(&[(1, OWN, &[0]), (2, OWN, &[1])]);
        let view = next(
            &FreshnessView::default(),
            10,
            &[report(1, 10, &[]), report(2, 10, &[])],
            &both,
            &topics,
        );
        let reports = |second| [report(1, second, &[]), report(2, 10, &[])];
        // The instance may still own its partition.
        let view = next(&view, 25, &reports(25), &both, &topics);
        assert_eq!(view.of(&tenant("northlib")).as_of, Some(at(10)));
        let view = next(&view, 26, &reports(26), &both, &topics);
        assert_eq!(view.of(&tenant("northlib")).as_of, Some(at(10)));
        let taken_over = owned(&[(1, OWN, &[0, 1]), (2, OWN, &[1])]);
        let view = next(&view, 27, &reports(27), &taken_over, &topics);
        assert_eq!(view.of(&tenant("northlib")).as_of, Some(at(27)));
    }

    #[test]
    fn instant_stays_while_no_broker_responds() {
        let (topics, owned) = (topics(&[(OWN, 1)]), owned(&[(1, OWN, &[0])]));
        let mut view = next(&FreshnessView::default(), 10, &[report(1, 10, &[])], &owned, &topics);
        let reported = InstanceReport { reported_at: at(300), ..report(1, 10, &[]) };
        view = next(&view, 300, &[reported], &owned, &topics);
        assert_eq!(view.of(&tenant("northlib")).as_of, Some(at(10)));
    }

    #[test]
    fn tenant_without_a_topic_has_the_last_callback() {
        let (topics, owned) = (topics(&[(OWN, 1)]), owned(&[(1, OWN, &[0])]));
        let callbacks = HashMap::from([("southlib".to_owned(), at(4))]);
        let with_callback = InstanceReport { callbacks, ..report(2, 9, &[]) };
        let reports = [report(1, 10, &[]), with_callback];
        let view = next(&FreshnessView::default(), 10, &reports, &owned, &topics);
        let expected = TenantFreshness { as_of: Some(at(4)), ..TenantFreshness::default() };
        assert_eq!(view.of(&tenant("southlib")), expected);
        // The instance that received the event has stopped.
        let view = next(&view, 11, &[report(1, 11, &[])], &owned, &topics);
        assert_eq!(view.of(&tenant("southlib")), expected);
    }

    /// Storage topics alone contain no business event.
    #[test]
    fn topic_of_storage_changes_is_no_log() {
        let users = "folio.northlib.users.users";
        let (topics, owned) = (topics(&[(users, 1)]), owned(&[(1, users, &[0])]));
        let view = next(&FreshnessView::default(), 10, &[report(1, 10, &[])], &owned, &topics);
        assert!(!view.of(&tenant("northlib")).has_log);
    }
}

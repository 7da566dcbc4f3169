//! Topic names: which topics are read, and the kind and tenant in a name.

use super::{Kind, TenantId};

/// The topics of one deployment: its `ENV`, the first part of every name
/// (docs/contract/events.md#22-environment), and whether mod-pubsub's own topics are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// If set, only topics with this first part are read. If unset or blank, producers write `folio.…`, or
    /// omit the part.
    name: Option<String>,
    pubsub: bool,
}

/// The kind and the tenant in a topic name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// The kind of all records.
    pub kind: Kind,
    /// The tenant of all records; `None` for a collection topic, whose records name their tenants
    /// (docs/contract/events.md#23-tenants).
    pub tenant: Option<TenantId>,
}

/// The name of a tenant collection, which replaces the tenant in names of shared topics
/// (docs/contract/events.md#23-tenants).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection(String);

impl Collection {
    /// The rule, in words for error messages.
    pub const RULE: &'static str =
        "must start with an upper-case letter and have up to 31 upper-case letters and digits";

    /// Returns the name if `text` is valid.
    pub fn parse(text: &str) -> Option<Self> {
        is_collection(text).then(|| Self(text.to_owned()))
    }
}

const TENANT_PATTERN: &str = "[a-z][a-z0-9_]{0,30}";
const COLLECTION_PATTERN: &str = "[A-Z][A-Z0-9]{0,30}";
const VERSION_PATTERN: &str = "[0-9][0-9A-Za-z._-]*";
const DEFAULT_ENVIRONMENT: &str = "folio";
/// The producer's part in the names of this service's own topics.
const OWN_PRODUCER: &str = "patron-blocks";
/// Characters of a topic name, at most.
const TOPIC_NAME_CHARS_MAX: usize = 249;

impl Environment {
    /// Returns the environment for the value of `ENV`.
    pub fn new(value: Option<&str>) -> Self {
        let name = value.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        Self { name, pubsub: false }
    }

    /// Returns the environment with `read` for mod-pubsub's own topics (docs/contract/events.md#21-names),
    /// which serve deployments whose producers do not write native topics yet.
    pub fn with_pubsub(self, read: bool) -> Self {
        Self { pubsub: read, ..self }
    }

    /// Returns the consumer group of all instances of this deployment (docs/contract/events.md#24-group).
    pub fn consumer_group(&self) -> String {
        let prefix = self.name.as_ref().map(|name| format!("{name}.")).unwrap_or_default();
        format!("{prefix}cg.patron-blocks")
    }

    /// Returns the anchored pattern of all topics: per tenant, per collection and, if they are read,
    /// mod-pubsub's, which contain only business events. libc matches the pattern in the classic group
    /// protocol, and the broker's RE2/J in the other; the syntax is valid in each.
    pub fn topic_pattern(&self) -> String {
        let names = |kinds: &[Kind], of: fn(&Kind) -> bool| {
            kinds.iter().copied().filter(of).map(Kind::name).collect::<Vec<_>>().join("|")
        };
        let prefix = match &self.name {
            Some(name) => format!("{}\\.", escape_regex(name)),
            None => format!("({DEFAULT_ENVIRONMENT}\\.)?"),
        };
        let native = format!(
            "({TENANT_PATTERN}|{COLLECTION_PATTERN})\\.(circulation\\.({})|feesfines\\.({})|users\\.({}))",
            names(&Kind::ALL, |kind| kind.producer() == "circulation"),
            names(&Kind::ALL, |kind| kind.producer() == "feesfines"),
            names(&Kind::ALL, |kind| kind.producer() == "users"),
        );
        if !self.pubsub {
            return format!("^{prefix}{native}$");
        }
        let all = names(&Kind::BUSINESS, |_| true);
        format!(
            "^{prefix}({native}|pub-sub\\.{TENANT_PATTERN}\\.({all})\\.mod-pubsub-{VERSION_PATTERN})$"
        )
    }

    /// Returns the possible names of a tenant's own topic.
    pub fn topic_names(&self, tenant: &TenantId, kind: Kind) -> Vec<String> {
        let rest = format!("{tenant}.{}.{}", kind.producer(), kind.name());
        match &self.name {
            Some(name) => vec![format!("{name}.{rest}")],
            None => vec![format!("{DEFAULT_ENVIRONMENT}.{rest}"), rest],
        }
    }

    /// Returns the name of this service's own topic of a tenant, or of all tenants of a collection.
    pub fn own_topic(
        &self,
        tenant: &TenantId,
        collection: Option<&Collection>,
        name: &str,
    ) -> String {
        format!("{}{OWN_PRODUCER}.{name}", self.topic_prefix(tenant, collection))
    }

    fn topic_prefix(&self, tenant: &TenantId, collection: Option<&Collection>) -> String {
        let part = collection.map_or(tenant.as_str(), |Collection(name)| name);
        format!("{}.{part}.", self.name.as_deref().unwrap_or(DEFAULT_ENVIRONMENT))
    }

    /// Returns the full name of a topic that a caller requests for a tenant, with or without the mandatory
    /// first parts. Returns the violated rule if the topic is another tenant's, or one that this service
    /// reads or writes.
    pub fn resolve_topic(
        &self,
        tenant: &TenantId,
        collection: Option<&Collection>,
        requested: &str,
    ) -> Result<String, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if requested.is_empty() || !requested.chars().all(legal) || requested.starts_with('.') {
            return Err("must consist of letters, digits, dots, underscores and hyphens".to_owned());
        }
        let prefix = self.topic_prefix(tenant, collection);
        let environment_prefix =
            format!("{}.", self.name.as_deref().unwrap_or(DEFAULT_ENVIRONMENT));
        let full = match requested.strip_prefix(&environment_prefix) {
            Some(_) if requested.starts_with(&prefix) => requested.to_owned(),
            Some(_) => {
                return Err(format!("must start with {prefix}, or be the part after this prefix"));
            }
            None => format!("{prefix}{requested}"),
        };
        let rest = full.strip_prefix(&prefix).unwrap_or_default();
        if rest.is_empty() || full.len() > TOPIC_NAME_CHARS_MAX {
            return Err(format!(
                "must be a name of up to {TOPIC_NAME_CHARS_MAX} characters that begins with {prefix}"
            ));
        }
        if self.parse(&full).is_some() || rest.split('.').next() == Some(OWN_PRODUCER) {
            return Err("is a topic that this service reads or writes itself".to_owned());
        }
        Ok(full)
    }

    /// Parses a topic name; `None` if [`Environment::topic_pattern`] does not match it.
    pub fn parse(&self, topic: &str) -> Option<Topic> {
        match &self.name {
            Some(name) => self.parse_rest(topic.strip_prefix(name.as_str())?.strip_prefix('.')?),
            None => {
                let rest =
                    topic.strip_prefix(DEFAULT_ENVIRONMENT).and_then(|rest| rest.strip_prefix('.'));
                rest.and_then(|rest| self.parse_rest(rest)).or_else(|| self.parse_rest(topic))
            }
        }
    }

    /// Parses the name after the environment.
    fn parse_rest(&self, rest: &str) -> Option<Topic> {
        if let Some(rest) = rest.strip_prefix("pub-sub.").filter(|_| self.pubsub) {
            let (tenant, rest) = rest.split_once('.')?;
            let (name, module) = rest.split_once('.')?;
            let known = module.strip_prefix("mod-pubsub-").is_some_and(is_version);
            let tenant = Some(TenantId::parse(tenant)?);
            let kind =
                Kind::from_name(name).filter(|kind| known && Kind::BUSINESS.contains(kind))?;
            return Some(Topic { kind, tenant });
        }
        let (part, rest) = rest.split_once('.')?;
        let (producer, name) = rest.split_once('.')?;
        let kind = Kind::from_name(name).filter(|kind| kind.producer() == producer)?;
        match TenantId::parse(part) {
            Some(tenant) => Some(Topic { kind, tenant: Some(tenant) }),
            None => is_collection(part).then_some(Topic { kind, tenant: None }),
        }
    }
}

fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_collection(part: &str) -> bool {
    let mut bytes = part.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_uppercase())
        && part.len() <= 31
        && bytes.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

/// Escapes the operators of regular expressions.
fn escape_regex(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn tenant_of(env: &Environment, topic: &str) -> Option<Option<String>> {
        env.parse(topic).map(|t| t.tenant.map(|t| t.to_string()))
    }

    #[test]
    fn every_kind_is_read_per_tenant_and_collection() {
        let env = Environment::new(Some("prod1"));
        for kind in Kind::ALL {
            let topic = |part| format!("prod1.{part}.{}.{}", kind.producer(), kind.name());
            let tenant = env.parse(&topic("northlib")).unwrap();
            assert_eq!((tenant.kind, tenant.tenant), (kind, TenantId::parse("northlib")));
            let collection = env.parse(&topic("ALL")).unwrap();
            assert_eq!((collection.kind, collection.tenant), (kind, None));
        }
    }

    #[test]
    fn foreign_or_consumed_topics_cannot_be_named() {
        let env = Environment::new(Some("prod1"));
        let tenant = TenantId::parse("northlib").unwrap();
        let full = |named: &str| env.resolve_topic(&tenant, None, named);
        for named in ["search.patrons", "prod1.northlib.search.patrons"] {
            assert_eq!(full(named).unwrap(), "prod1.northlib.search.patrons");
        }
        for named in [
            "",
            ".x",
            "a b",
            "prod1.southlib.search.patrons",
            "prod1.northlib.",
            "circulation.loan",
            "patron-blocks.automated-block",
            &"x".repeat(249),
        ] {
            assert!(full(named).is_err(), "{named}");
        }
        let foreign = full("prod1.southlib.search.patrons").unwrap_err();
        assert!(foreign.starts_with("must start with prod1.northlib."), "{foreign}");
        // Kafka's names have up to 249 characters, and the prefix has 15.
        assert_eq!(full(&"x".repeat(234)).unwrap().len(), 249);
        assert!(full(&"x".repeat(235)).is_err());
        let all = Collection::parse("ALL").unwrap();
        assert_eq!(env.resolve_topic(&tenant, Some(&all), "a.b").unwrap(), "prod1.ALL.a.b");
        assert_eq!(env.own_topic(&tenant, Some(&all), "x"), "prod1.ALL.patron-blocks.x");
        assert_eq!(
            Environment::new(None).own_topic(&tenant, None, "x"),
            "folio.northlib.patron-blocks.x"
        );
        assert_eq!(Collection::parse("All"), None);
    }

    #[test]
    fn other_environments_producers_and_events_are_ignored() {
        let env = Environment::new(Some("prod1"));
        for topic in [
            "prod2.northlib.circulation.ITEM_CHECKED_OUT",
            "prod11.northlib.circulation.ITEM_CHECKED_OUT",
            "northlib.circulation.ITEM_CHECKED_OUT",
            "prod1.northlib.feesfines.ITEM_CHECKED_OUT",
            "prod1.northlib.feesfines.LOAN_RELATED_FEE_FINE_CLOSED",
            "prod1.northlib.circulation.users",
            "prod1.northlib.circulation.request",
            "prod1.northlib.users.loan",
            "prod1.northlib.users.userGroup",
            "prod1.Default.northlib.USER_UPDATED",
            "prod1.northlib.circulation.ITEM_CHECKED_OUT.x",
            "prod1.North-Lib.circulation.ITEM_CHECKED_OUT",
            "prod1..circulation.ITEM_CHECKED_OUT",
            "prod1.a.b.circulation.ITEM_CHECKED_OUT",
        ] {
            assert_eq!(env.parse(topic), None, "{topic}");
        }
    }

    #[test]
    fn both_spellings_are_read_without_environment() {
        for env in [None, Some(""), Some(" ")] {
            let env = Environment::new(env).with_pubsub(true);
            for (topic, tenant) in [
                ("folio.northlib.circulation.LOAN_CLOSED", Some(Some("northlib"))),
                ("northlib.circulation.LOAN_CLOSED", Some(Some("northlib"))),
                ("folio.circulation.LOAN_CLOSED", Some(Some("folio"))),
                ("folio.folio.circulation.LOAN_CLOSED", Some(Some("folio"))),
                ("ALL.circulation.LOAN_CLOSED", Some(None)),
                ("folio.ALL.circulation.LOAN_CLOSED", Some(None)),
                ("pub-sub.northlib.LOAN_CLOSED.mod-pubsub-2.16.0", Some(Some("northlib"))),
                ("folio.pub-sub.northlib.LOAN_CLOSED.mod-pubsub-2.16.0", Some(Some("northlib"))),
                ("prod1.northlib.circulation.LOAN_CLOSED", None),
                ("prod1.pub-sub.northlib.LOAN_CLOSED.mod-pubsub-2.16.0", None),
            ] {
                let expected = tenant.map(|tenant| tenant.map(str::to_owned));
                assert_eq!(tenant_of(&env, topic), expected, "{topic}");
            }
        }
    }

    #[test]
    fn mod_pubsub_topics_are_read_only_if_enabled() {
        let without = Environment::new(Some("prod1"));
        let with = without.clone().with_pubsub(true);
        for kind in Kind::BUSINESS {
            for version in ["2.16.0", "2.17.0-SNAPSHOT.301", "3"] {
                let name = kind.name();
                let topic = format!("prod1.pub-sub.northlib.{name}.mod-pubsub-{version}");
                let tenant = TenantId::parse("northlib");
                assert_eq!(with.parse(&topic), Some(Topic { kind, tenant }), "{topic}");
                assert_eq!(without.parse(&topic), None, "{topic}");
            }
        }
        for other in [
            // mod-pubsub creates these topics in advance, and no producer writes to them
            // (docs/contract/events.md#21-names).
            "prod1.northlib.mod-pubsub.LOAN_CLOSED",
            "prod1.pub-sub.northlib.LOG_RECORD.mod-pubsub-2.16.0",
            "prod1.pub-sub.northlib.loan.mod-pubsub-2.16.0",
            "prod1.pub-sub.northlib.users.mod-pubsub-2.16.0",
            "prod1.pub-sub.ALL.LOAN_CLOSED.mod-pubsub-2.16.0",
            "prod1.pub-sub.northlib.LOAN_CLOSED",
            "prod1.pub-sub.northlib.LOAN_CLOSED.mod-pubsub-",
            "prod1.pub-sub.northlib.LOAN_CLOSED.mod-pubsub-x",
            "prod1.pub-sub.northlib.circulation.LOAN_CLOSED.mod-pubsub-2.16.0",
        ] {
            assert_eq!(with.parse(other), None, "{other}");
        }
    }

    #[test]
    fn tenant_topics_have_the_names_they_are_read_by() {
        let tenant = TenantId::parse("northlib").unwrap();
        for (env, prefixes) in [(Some("prod1"), vec!["prod1."]), (None, vec!["folio.", ""])] {
            let env = Environment::new(env);
            for kind in Kind::ALL {
                let rest = format!("northlib.{}.{}", kind.producer(), kind.name());
                let names: Vec<String> = prefixes.iter().map(|p| format!("{p}{rest}")).collect();
                assert_eq!(env.topic_names(&tenant, kind), names);
                let topic = Some(Topic { kind, tenant: Some(tenant.clone()) });
                assert!(names.iter().all(|name| env.parse(name) == topic));
            }
        }
    }

    #[test]
    fn consumer_group_is_per_environment_without_version() {
        assert_eq!(Environment::new(Some("prod1")).consumer_group(), "prod1.cg.patron-blocks");
        assert_eq!(Environment::new(None).consumer_group(), "cg.patron-blocks");
    }

    #[test]
    fn environment_is_escaped_in_the_pattern() {
        let pattern = Environment::new(Some("a.b+c")).topic_pattern();
        assert!(pattern.starts_with("^a\\.b\\+c\\.("), "{pattern}");
    }

    /// Generates names from parts of this service's names and of similar ones, in any order.
    fn name() -> impl Strategy<Value = String> {
        let first = select(vec!["prod1.", "prod11.", "folio.", "a.b.", "axb.", ""]);
        let second = select(vec![
            "northlib.",
            "ALL.",
            "EAST1.",
            "North.",
            "0north.",
            "n-l.",
            "pub-sub.northlib.",
            "pub-sub.ALL.",
            "pub-sub.",
            "folio.",
            "mod-pubsub.",
            ".",
            "",
        ]);
        let third = select(vec!["circulation.", "feesfines.", "circulation", "users.", ""]);
        let others = ["LOG_RECORD", "request", "userGroup", ""];
        let kinds = Kind::ALL.map(Kind::name).into_iter().chain(others);
        let fourth = select(kinds.collect::<Vec<_>>());
        let last = select(vec![
            "",
            "",
            ".mod-pubsub-2.16.0",
            ".mod-pubsub-3-SNAPSHOT.1",
            ".mod-pubsub-",
            "-mod-pubsub-1",
            ".mod-pubsub-x",
            ".x",
            "X",
        ]);
        let long =
            proptest::option::weighted(0.2, (28..34_usize).prop_map(|n| "n".repeat(n) + "."));
        (first, second, long, third, fourth, last).prop_map(|(a, b, long, c, d, e)| {
            let b = long.as_deref().unwrap_or(b);
            [a, b, c, d, e].concat()
        })
    }

    /// Returns the lines that a regular expression of libc matches; `sed` passes the expression to libc
    /// unchanged.
    fn matched_by_libc(pattern: &str, names: &[String]) -> Vec<String> {
        let mut sed = Command::new("sed")
            .args(["-E", "-n", &format!("/{pattern}/p")])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        sed.stdin.take().unwrap().write_all((names.join("\n") + "\n").as_bytes()).unwrap();
        let output = sed.wait_with_output().unwrap();
        assert!(output.status.success(), "{pattern}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn topic_pattern_matches_exactly_the_parsed_names(
            env in select(vec![None, Some("prod1"), Some("folio"), Some("a.b")]),
            pubsub in any::<bool>(),
            names in vec(name(), 200),
        ) {
            let env = Environment::new(env).with_pubsub(pubsub);
            let pattern = env.topic_pattern();
            let read: Vec<String> =
                names.iter().filter(|name| env.parse(name).is_some()).cloned().collect();
            // The syntax of RE2, which the broker uses.
            let re2 = regex_lite::Regex::new(&pattern).unwrap();
            let matched: Vec<String> =
                names.iter().filter(|name| re2.is_match(name)).cloned().collect();
            prop_assert_eq!(&matched, &read);
            prop_assert_eq!(&matched_by_libc(&pattern, &names), &read);
        }
    }
}

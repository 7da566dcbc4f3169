//! Topic names: which ones are read, and what a name says.

use super::{Kind, TenantId};

/// The deployment's `ENV`, the first part of every topic name (events contract 2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Environment {
    /// `ENV` is set: only topics with this first part are ours.
    Named(String),
    /// `ENV` is unset or blank: producers then write `folio.…`, or leave the part out.
    Unset,
}

/// What the topic's name tells about its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// The kind of event that its records are.
    pub kind: Kind,
    /// The tenant that all its records belong to; `None` for a collection topic, whose records name
    /// theirs (events contract 2.3).
    pub tenant: Option<TenantId>,
}

const TENANT: &str = "[a-z][a-z0-9_]{0,30}";
const COLLECTION: &str = "[A-Z][A-Z0-9]{0,30}";
const DEFAULT: &str = "folio";

impl Environment {
    /// From the variable's value.
    pub fn new(value: Option<&str>) -> Self {
        match value.map(str::trim) {
            None | Some("") => Self::Unset,
            Some(name) => Self::Named(name.to_owned()),
        }
    }

    /// The consumer group of all instances of this deployment (events contract 2.4).
    pub fn consumer_group(&self) -> String {
        match self {
            Self::Named(name) => format!("{name}.cg.patron-blocks"),
            Self::Unset => "cg.patron-blocks".to_owned(),
        }
    }

    /// The anchored pattern of all event topics, per tenant and per collection. It is understood alike
    /// by libc, which matches it in the classic group protocol, and by the broker's RE2/J.
    pub fn topic_pattern(&self) -> String {
        let names = |producer| {
            let of_producer = Kind::ALL.into_iter().filter(|kind| kind.producer() == producer);
            of_producer.map(Kind::name).collect::<Vec<_>>().join("|")
        };
        let prefix = match self {
            Self::Named(name) => format!("{}\\.", escape(name)),
            Self::Unset => format!("({DEFAULT}\\.)?"),
        };
        format!(
            "^{prefix}({TENANT}|{COLLECTION})\\.(circulation\\.({})|feesfines\\.({}))$",
            names("circulation"),
            names("feesfines"),
        )
    }

    /// The names that a tenant's own topic may have.
    pub fn names(&self, tenant: &TenantId, kind: Kind) -> Vec<String> {
        let rest = format!("{tenant}.{}.{}", kind.producer(), kind.name());
        match self {
            Self::Named(name) => vec![format!("{name}.{rest}")],
            Self::Unset => vec![format!("{DEFAULT}.{rest}"), rest],
        }
    }

    /// Reads a topic's name; `None` when [`Environment::topic_pattern`] would not have matched it.
    pub fn parse(&self, topic: &str) -> Option<Topic> {
        let (kind, rest) = Kind::ALL.into_iter().find_map(|kind| {
            let rest = topic.strip_suffix(kind.name())?.strip_suffix('.')?;
            Some((kind, rest.strip_suffix(kind.producer())?.strip_suffix('.')?))
        })?;
        let tenant = match self {
            Self::Named(name) => rest.strip_prefix(name.as_str())?.strip_prefix('.')?,
            Self::Unset => rest.strip_prefix(&format!("{DEFAULT}.")).unwrap_or(rest),
        };
        match TenantId::parse(tenant) {
            Some(tenant) => Some(Topic { kind, tenant: Some(tenant) }),
            None => is_collection(tenant).then_some(Topic { kind, tenant: None }),
        }
    }
}

fn is_collection(part: &str) -> bool {
    let mut bytes = part.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_uppercase())
        && part.len() <= 31
        && bytes.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

/// Escapes what a regular expression would take for an operator.
fn escape(text: &str) -> String {
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
    use super::*;

    fn tenant_of(env: &Environment, topic: &str) -> Option<Option<String>> {
        env.parse(topic).map(|t| t.tenant.map(|t| t.to_string()))
    }

    #[test]
    fn every_kind_is_read_per_tenant_and_per_collection() {
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
    fn other_environments_producers_and_events_are_not_ours() {
        let env = Environment::new(Some("prod1"));
        for topic in [
            "prod2.northlib.circulation.ITEM_CHECKED_OUT",
            "prod11.northlib.circulation.ITEM_CHECKED_OUT",
            "northlib.circulation.ITEM_CHECKED_OUT",
            "prod1.northlib.feesfines.ITEM_CHECKED_OUT",
            "prod1.northlib.feesfines.LOAN_RELATED_FEE_FINE_CLOSED",
            "prod1.northlib.circulation.ITEM_CHECKED_OUT.x",
            "prod1.North-Lib.circulation.ITEM_CHECKED_OUT",
            "prod1..circulation.ITEM_CHECKED_OUT",
            "prod1.a.b.circulation.ITEM_CHECKED_OUT",
        ] {
            assert_eq!(env.parse(topic), None, "{topic}");
        }
    }

    #[test]
    fn without_an_environment_both_spellings_are_read() {
        let env = Environment::new(Some(" "));
        let northlib = Some(Some("northlib".to_owned()));
        assert_eq!(tenant_of(&env, "folio.northlib.circulation.LOAN_CLOSED"), northlib);
        assert_eq!(tenant_of(&env, "northlib.circulation.LOAN_CLOSED"), northlib);
        assert_eq!(tenant_of(&env, "ALL.circulation.LOAN_CLOSED"), Some(None));
        assert_eq!(tenant_of(&env, "prod1.northlib.circulation.LOAN_CLOSED"), None);
    }

    #[test]
    fn the_environment_is_quoted_in_the_pattern() {
        let pattern = Environment::new(Some("a.b+c")).topic_pattern();
        assert!(pattern.starts_with("^a\\.b\\+c\\.("), "{pattern}");
    }
}

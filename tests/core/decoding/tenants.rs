//! The tenant of a record (docs/contract/events.md#23-tenants and
//! docs/contract/events.md#3-tenant-of-a-record): headers, envelopes and topic.

use patron_blocks::event::{Kind, Record, RecordPosition};

use super::{LOAN, check_in, outcome, record};

const NORTHLIB: &str = "northlib: key by position, time by record";
const EASTLIB: &str = "eastlib: key by position, time by record";
const NO_TENANT: &str = "no tenant: no_tenant -";
const DISAGREES_FOLIO: &str = "no tenant: tenant_mismatch folio.tenantId";
const DISAGREES_OKAPI: &str = "no tenant: tenant_mismatch x-okapi-tenant";

/// Names and bytes of headers, in the order of sending.
type Headers<'a> = &'a [(&'a str, &'a [u8])];

/// Returns a record of `ITEM_CHECKED_IN` in the topic of a tenant or a collection.
fn sent(part: &str, headers: Headers<'_>, payload: &[u8]) -> Record {
    let mut record = record(Kind::ItemCheckedIn, part, payload);
    record.headers =
        headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
    record
}

#[test]
fn tenant_headers_match_in_any_spelling() {
    let rows: &[(Headers<'_>, &str)] = &[
        (&[], NO_TENANT),
        (&[("folio.tenantId", b"northlib")], NORTHLIB),
        (&[("FOLIO.TENANTID", b"northlib")], NORTHLIB),
        (&[("folio.tenantid", b"northlib")], NORTHLIB),
        (&[("x-okapi-tenant", b"northlib")], NORTHLIB),
        (&[("X-Okapi-Tenant", b"northlib")], NORTHLIB),
        (&[("X-OKAPI-TENANT", b"northlib")], NORTHLIB),
        (&[("x-okapi-tenant", b" northlib ")], NORTHLIB),
        (&[("folio.tenantId", b"northlib"), ("x-okapi-tenant", b"northlib")], NORTHLIB),
        // A blank header counts as absent; of repeated headers the first nonblank one counts.
        (&[("folio.tenantId", b"")], NO_TENANT),
        (&[("folio.tenantId", b" "), ("x-okapi-tenant", b"northlib")], NORTHLIB),
        (&[("folio.tenantId", b" \t"), ("Folio.TenantId", b"northlib")], NORTHLIB),
        (&[("folio.tenantId", b"northlib"), ("folio.tenantId", b"southlib")], NORTHLIB),
        (&[("x-okapi-tenant", b"northlib"), ("X-Okapi-Tenant", b"southlib")], NORTHLIB),
        (&[("x-okapi-tenant", b""), ("X-Okapi-Tenant", b"eastlib")], EASTLIB),
        // The two headers must agree, and each must be a valid tenant.
        (&[("folio.tenantId", b"northlib"), ("x-okapi-tenant", b"southlib")], DISAGREES_OKAPI),
        (&[("x-okapi-tenant", b"southlib"), ("folio.tenantId", b"northlib")], DISAGREES_OKAPI),
        (&[("folio.tenantId", b"North\"Lib")], DISAGREES_FOLIO),
        (&[("folio.tenantId", b"ALL")], DISAGREES_FOLIO),
        (&[("folio.tenantId", b"north\xfflib")], DISAGREES_FOLIO),
        (&[("folio.tenantId", b"north\0lib")], DISAGREES_FOLIO),
        (&[("x-okapi-tenant", b"a23456789_123456789_123456789_12")], DISAGREES_OKAPI),
        // Other headers name no tenant.
        (&[("x-okapi-user-id", b"northlib"), ("tenant", b"northlib")], NO_TENANT),
        (&[("x-okapi-token", b"secret"), ("folio.tenantId", b"northlib")], NORTHLIB),
    ];
    for (headers, expected) in rows {
        assert_eq!(outcome(&sent("ALL", headers, &check_in())), *expected, "{headers:?}");
    }
}

#[test]
fn all_tenant_sources_must_agree() {
    let plain = format!(r#"{{"loanId":"{LOAN}"}}"#);
    let text = serde_json::to_string(&plain).unwrap();
    let enveloped =
        |tenant: &str| format!(r#"{{"type":"CREATED","tenant":{tenant},"data":{plain}}}"#);
    let changed =
        |tenant: &str| format!(r#"{{"type":"UPDATE","tenant":{tenant},"old":{{}},"new":{plain}}}"#);
    let stored = |tenant: &str, text: &str| {
        let metadata = format!(r#"{{"tenantId":{tenant},"eventTTL":1}}"#);
        let kind = r#""eventType":"ITEM_CHECKED_IN""#;
        format!(r#"{{{kind},"eventMetadata":{metadata},"eventPayload":{text}}}"#)
    };
    let around = |outer: &str, inner: &str| {
        stored(outer, &serde_json::to_string(&enveloped(inner)).unwrap())
    };
    let (north, south) = (r#""northlib""#, r#""southlib""#);
    let disagrees = |source: &str| format!("no tenant: tenant_mismatch {source}");
    let no_tenant = NO_TENANT.to_owned();
    let northlib = NORTHLIB.to_owned();
    for (part, header, value, expected) in [
        // The topic alone names the tenant; a collection is not a tenant.
        ("northlib", "", plain.clone(), northlib.clone()),
        ("ALL", "", plain.clone(), no_tenant.clone()),
        ("EAST", "northlib", plain.clone(), northlib.clone()),
        ("northlib", "northlib", plain.clone(), northlib.clone()),
        ("southlib", "northlib", plain.clone(), disagrees("topic")),
        // Shapes B and C.
        ("ALL", "", enveloped(north), northlib.clone()),
        ("ALL", "", enveloped("null"), no_tenant.clone()),
        ("ALL", "", enveloped(r#"" ""#), no_tenant.clone()),
        ("ALL", "", enveloped(r#"" northlib ""#), northlib.clone()),
        ("ALL", "northlib", enveloped(south), disagrees("tenant")),
        ("northlib", "", enveloped(south), disagrees("topic")),
        ("northlib", "northlib", enveloped(south), disagrees("tenant")),
        ("ALL", "", enveloped(r#""North Lib""#), disagrees("tenant")),
        ("ALL", "", changed(north), northlib.clone()),
        ("ALL", "northlib", changed(south), disagrees("tenant")),
        // Shape D, also around another envelope.
        ("ALL", "", stored(north, &text), northlib.clone()),
        ("ALL", "", stored("null", &text), no_tenant.clone()),
        ("ALL", "northlib", stored(south, &text), disagrees("eventMetadata.tenantId")),
        ("northlib", "", stored(south, &text), disagrees("topic")),
        ("ALL", "", stored(r#""North Lib""#, &text), disagrees("eventMetadata.tenantId")),
        ("ALL", "", around(north, north), northlib.clone()),
        ("ALL", "", around(north, south), disagrees("eventMetadata.tenantId")),
        // An undecodable record still belongs to a tenant.
        ("northlib", "", "no JSON".to_owned(), "northlib: malformed_json -".to_owned()),
        ("ALL", "northlib", "no JSON".to_owned(), "northlib: malformed_json -".to_owned()),
        ("ALL", "", "no JSON".to_owned(), no_tenant.clone()),
        ("ALL", "", enveloped(north).replace(LOAN, "0"), "northlib: bad_field loanId".to_owned()),
        (
            "ALL",
            "",
            stored(north, r#""no JSON""#),
            "northlib: malformed_json eventPayload".to_owned(),
        ),
    ] {
        let headers: Headers<'_> = &[("folio.tenantId", header.as_bytes())];
        let read = outcome(&sent(part, headers, value.as_bytes()));
        assert_eq!(read, expected, "{part} {header} {value}");
    }
}

#[test]
fn record_key_is_ignored() {
    let nil = b"00000000-0000-0000-0000-000000000000".to_vec();
    for key in
        [None, Some(Vec::new()), Some(b"ITEM_CHECKED_IN".to_vec()), Some(nil), Some(vec![0xff])]
    {
        let mut record = sent("northlib", &[], &check_in());
        let without = super::event(&record);
        record.key = key;
        assert_eq!(super::event(&record), without);
    }
}

/// The records of mod-pubsub have neither headers nor a key.
#[test]
fn mod_pubsub_topic_is_checked_against_tenant_and_type() {
    let stored = |tenant: &str, kind: &str| {
        let text = serde_json::to_string(&format!(r#"{{"loanId":"{LOAN}"}}"#)).unwrap();
        let metadata = format!(r#"{{"tenantId":"{tenant}","eventTTL":1}}"#);
        let id = r#""id":"6a3c9d15-2f84-4e07-9b5a-d1e8f0c27b99""#;
        format!(r#"{{{id},"eventType":"{kind}","eventMetadata":{metadata},"eventPayload":{text}}}"#)
    };
    for (value, expected) in [
        (
            stored("northlib", "ITEM_CHECKED_IN"),
            "northlib: key by envelope_and_time, time by record",
        ),
        (stored("southlib", "ITEM_CHECKED_IN"), "no tenant: tenant_mismatch topic"),
        (stored("northlib", "LOAN_CLOSED"), "northlib: bad_field eventType"),
    ] {
        let topic = "folio.pub-sub.northlib.ITEM_CHECKED_IN.mod-pubsub-2.16.0";
        let record = Record {
            position: RecordPosition { topic: topic.into(), partition: 0, offset: 7 },
            ..sent("northlib", &[], value.as_bytes())
        };
        assert_eq!(outcome(&record), expected, "{value}");
    }
}

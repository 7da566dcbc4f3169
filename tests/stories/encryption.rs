//! Encrypted connections to the database and to Kafka.
#![expect(clippy::disallowed_methods, reason = "dev/up sets the addresses of its engines")]

use patron_blocks::{
    config::{Sasl, SecurityConfig, Tls},
    event::Kind,
};
use uuid::Uuid;

use crate::support::{
    payloads::{check_out, minutes_from_now},
    world::World,
};

/// Returns the certificate of the development engine. Another engine may offer no encryption.
fn certificate(variable: &str) -> Option<String> {
    let path = std::env::var(variable).ok()?;
    Some(std::fs::read_to_string(path).expect("dev/up names an existing file"))
}

/// A certificate that belongs to no engine, so a connection must fail.
const FOREIGN_CERTIFICATE: &str = include_str!("another.pem");

/// The numbers of encrypted and unencrypted connections of the service. One query counts both, because
/// connections change.
const CONNECTION_COUNTS: &str = "select count(*) filter (where ssl), count(*) filter (where not ssl) from pg_stat_ssl join pg_stat_activity using (pid)
    where datname = current_database() and application_name like 'mod-patron-blocks%'";

#[tokio::test(flavor = "multi_thread")]
async fn database_tls_encrypts_all_and_rejects_wrong_certificate() {
    let Some(certificate) = certificate("POSTGRES_CERTIFICATE") else { return };
    World::run(async |world| {
        let connection_counts = async |world: &World| -> (i64, i64) {
            sqlx::query_as(CONNECTION_COUNTS).fetch_one(&world.db).await.unwrap()
        };
        let (encrypted, open) = connection_counts(world).await;
        assert!(encrypted == 0 && open > 0, "without a certificate no connection is encrypted");
        world.stop().await;
        world.config.database.login.server_pem = Some(certificate);
        world.start().await;
        world.enable().await;
        // Connections of the stopped instance end some time after the instance.
        let all_are = async |world: &World| {
            let (encrypted, open) = connection_counts(world).await;
            encrypted > 0 && open == 0
        };
        world.until("all connections are encrypted", all_are).await;

        world.stop().await;
        world.config.database.login.server_pem = Some(FOREIGN_CERTIFICATE.to_owned());
        world.start_unready().await;
        let (status, body) = world.get("/admin/ready").await;
        assert!(status == 503 && body.contains("certificate verify failed"), "{body}");
        let none = async |world: &World| connection_counts(world).await == (0, 0);
        world.until("no connection exists", none).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_requires_valid_tls_and_credentials() {
    let Some(certificate) = certificate("KAFKA_CERTIFICATE") else { return };
    let port = std::env::var("KAFKA_SECURE_PORT").expect("dev/up sets both variables");
    World::run(async |world| {
        let user = Uuid::new_v4();
        let tls = |pem: &str| Tls {
            trusted_certificates: Some(pem.to_owned()),
            client_certificate: None,
            verify_host_name: true,
        };
        let us = |password: &str| Sasl {
            mechanism: "PLAIN".to_owned(),
            username: "patron_blocks".to_owned(),
            password: password.to_owned(),
        };
        world.stop().await;
        world.config.kafka.broker_host = "127.0.0.1".to_owned();
        world.config.kafka.broker_port = port.parse().expect("a port");
        let checked_out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
        world.publish(Kind::ItemCheckedOut, &checked_out).await;
        let right = SecurityConfig {
            tls: Some(tls(&certificate)),
            sasl: Some(us("patron_blocks")),
            ..SecurityConfig::default()
        };
        for wrong in [
            SecurityConfig { tls: Some(tls(FOREIGN_CERTIFICATE)), ..right.clone() },
            SecurityConfig { sasl: Some(us("wrong")), ..right.clone() },
            SecurityConfig { sasl: None, ..right.clone() },
        ] {
            world.config.kafka.security = wrong;
            world.start_unready().await;
            world
                .until("readiness reports Kafka as unavailable", async |world: &World| {
                    let (status, body) = world.get("/admin/ready").await;
                    status == 503 && body.contains("\"part\":\"kafka\"")
                })
                .await;
            world.stop().await;
        }
        world.config.kafka.security = right;
        world.start().await;
        world.until_committed().await;
        assert_eq!(world.get(&format!("/user-summary/{user}")).await.0, 200);
    })
    .await;
}

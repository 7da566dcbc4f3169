//! Encrypted connections to the database.

use crate::world::World;

/// The certificate of the development's own server; somebody else's may offer no encryption.
fn certificate() -> Option<String> {
    let path = std::env::var("POSTGRES_CERTIFICATE").ok()?;
    Some(std::fs::read_to_string(path).expect("dev/up names a file that is there"))
}

/// Of nobody: a server that shows another one is not who it should be.
const ANOTHER: &str = include_str!("another.pem");

const OURS: &str = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid)
    where datname = current_database() and application_name like 'mod-patron-blocks%'";

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_all_connections_are_encrypted_and_an_impostor_gets_none() {
    let Some(certificate) = certificate() else { return };
    World::tell(async |world| {
        let encrypted = format!("{OURS} and ssl");
        assert!(world.count(OURS).await > 0);
        assert_eq!(world.count(&encrypted).await, 0, "nothing was asked for");
        world.stop().await;
        world.config.database.login.server_pem = Some(certificate);
        world.start().await;
        world.enable().await;
        let all = world.count(OURS).await;
        assert_eq!((world.count(&encrypted).await, all > 0), (all, true));

        world.stop().await;
        world.config.database.login.server_pem = Some(ANOTHER.to_owned());
        world.start_anyhow().await;
        let (status, told) = world.get("/admin/ready").await;
        assert!(status == 503 && told.contains("certificate verify failed"), "{told}");
        assert_eq!(world.count(OURS).await, 0);
    })
    .await;
}

//! A console at which persons sign in, with its provider.

use std::net::Ipv4Addr;

use patron_blocks::config::{ConsoleConfig, CookieKey, SignInConfig, SignInSettings};
use reqwest::StatusCode;

use crate::support::{
    oidc_provider::{CLIENT, OidcProvider, person},
    visitor::{Front, Visitor},
    world::World,
};

/// The roles of the console.
pub(crate) const VIEW: &str = "patron-blocks-view";
pub(crate) const ACT: &str = "patron-blocks-act";

/// The secret of the confidential client. A shared-key signature with it must not be accepted.
pub(crate) const SECRET: &str = "secret-of-a-story";

/// The console with its provider.
pub(crate) struct Console {
    pub(crate) provider: OidcProvider,
    pub(crate) front: Front,
}

impl Console {
    /// Runs a story with a console that requires a sign-in.
    pub(crate) async fn run(
        configure: impl FnOnce(&mut SignInConfig),
        story: impl AsyncFnOnce(&mut World, &Console),
    ) {
        let console =
            Self { provider: OidcProvider::start(Some(SECRET)).await, front: Front::open() };
        let mut sign_in = sign_in_config(&console.provider, &console.front);
        configure(&mut sign_in);
        World::run_with(
            |config| config.console.sign_in = Some(sign_in),
            async |world| {
                console.front.forward_to(&world.console_url());
                story(world, &console).await;
            },
        )
        .await;
    }

    /// Returns a new browser.
    pub(crate) fn visitor(&self) -> Visitor {
        Visitor::new(self.front.url())
    }

    /// Returns a browser in which a person with these roles has signed in.
    pub(crate) async fn signed_in(&self, name: &str, roles: &[&str]) -> Visitor {
        self.provider.sign_in_as(person(name, roles));
        let mut visitor = self.visitor();
        let shown = visitor.open(HOME).await;
        assert_eq!(shown.status, StatusCode::OK, "{}", shown.body);
        visitor
    }
}

/// The first page of the tenant.
pub(crate) const HOME: &str = "tenants/northlib/home";

/// Returns the settings of the sign-in at this provider.
pub(crate) fn sign_in_config(provider: &OidcProvider, front: &Front) -> SignInConfig {
    SignInConfig {
        issuer: provider.issuer(),
        client_id: CLIENT.to_owned(),
        client_secret: Some(SECRET.to_owned()),
        roles_claim: "realm_access.roles".to_owned(),
        view_role: VIEW.to_owned(),
        act_role: ACT.to_owned(),
        tenants_claim: None,
        public_url: front.url(),
        cookie_key: CookieKey::new(vec![7; CookieKey::BYTES]),
    }
}

/// Returns the settings of a console for this machine, without a sign-in.
pub(crate) fn local_console() -> ConsoleConfig {
    let (port, settings) = (Some(0), SignInSettings::default());
    ConsoleConfig { port, address: Ipv4Addr::LOCALHOST.into(), sign_in: None, settings }
}

//! Who reads a page of the console port after a sign-in, and what the person may see and do.

use serde::{Deserialize, Serialize};

use crate::{config::SignInConfig, console::roles::Roles, event::TenantId, oidc::Identity};

/// A person who has signed in. The cookie of the session contains nothing else, so it stays small.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::console) struct Session {
    /// The id at the provider, for the log.
    #[serde(rename = "s")]
    pub(in crate::console) subject: String,
    /// The name in the frame of pages and in the log of acts.
    #[serde(rename = "n")]
    pub(in crate::console) name: String,
    #[serde(rename = "r")]
    role: Role,
    #[serde(rename = "t")]
    tenants: Tenants,
}

/// What a person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// Read.
    #[serde(rename = "v")]
    View,
    /// Read, and do all acts.
    #[serde(rename = "a")]
    Act,
}

impl Role {
    /// Returns the name in the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Act => "act",
        }
    }
}

/// The tenants whose pages a person may read: `*`, or their ids with commas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
enum Tenants {
    All,
    Of(Vec<TenantId>),
}

/// The member of the claim that means all tenants.
const ALL_TENANTS: &str = "*";

impl From<String> for Tenants {
    fn from(text: String) -> Self {
        Self::from_texts(text.split(','))
    }
}

impl From<Tenants> for String {
    fn from(tenants: Tenants) -> Self {
        match tenants {
            Tenants::All => ALL_TENANTS.to_owned(),
            Tenants::Of(ids) => ids.iter().map(TenantId::as_str).collect::<Vec<_>>().join(","),
        }
    }
}

impl Tenants {
    /// Returns the tenants of these texts. A text that is no tenant id counts as absent.
    fn from_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut ids = Vec::new();
        for text in texts {
            if text == ALL_TENANTS {
                return Self::All;
            }
            ids.extend(TenantId::parse(text));
        }
        ids.sort();
        ids.dedup();
        Self::Of(ids)
    }
}

impl Session {
    /// Returns the session of a person; `None` if the person has neither role.
    pub(super) fn of(person: &Identity, config: &SignInConfig) -> Option<Self> {
        let roles = person.texts(&config.roles_claim);
        let has = |role: &str| roles.contains(&role);
        let role = match (has(&config.act_role), has(&config.view_role)) {
            (true, _) => Role::Act,
            (false, true) => Role::View,
            (false, false) => return None,
        };
        let tenants = match &config.tenants_claim {
            Some(claim) => Tenants::from_texts(person.texts(claim)),
            None => Tenants::All,
        };
        Some(Self { subject: person.subject.clone(), name: person.name.clone(), role, tenants })
    }

    /// Returns what the person may do.
    pub(in crate::console) fn roles(&self) -> Roles {
        match self.role {
            Role::Act => Roles::All,
            Role::View => Roles::none(),
        }
    }

    /// Returns the role, for the log.
    pub(super) fn role(&self) -> Role {
        self.role
    }

    /// Returns whether the person may only read.
    pub(in crate::console) fn is_read_only(&self) -> bool {
        self.role == Role::View
    }

    /// Returns whether the person may read the pages of a tenant.
    pub(in crate::console) fn may_see(&self, tenant: &TenantId) -> bool {
        match &self.tenants {
            Tenants::All => true,
            Tenants::Of(ids) => ids.contains(tenant),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};
    use url::Url;

    use super::*;

    pub(in crate::console::sign_in) fn config() -> SignInConfig {
        SignInConfig {
            issuer: "https://id.example".to_owned(),
            client_id: "blocks".to_owned(),
            client_secret: None,
            roles_claim: "realm_access.roles".to_owned(),
            view_role: "view".to_owned(),
            act_role: "act".to_owned(),
            tenants_claim: None,
            public_url: Url::parse("https://blocks.example/").unwrap(),
            cookie_key: None,
        }
    }

    fn session(config: &SignInConfig, claims: Value) -> Option<Session> {
        let claims = claims.as_object().cloned().unwrap_or_default();
        Session::of(&Identity::with_claims("s-1", "kim", claims), config)
    }

    fn with_roles(roles: Value) -> Option<Session> {
        session(&config(), json!({ "realm_access": { "roles": roles } }))
    }

    fn tenant(id: &str) -> TenantId {
        TenantId::parse(id).unwrap()
    }

    #[test]
    fn role_decides_who_reads_and_who_acts() {
        for (roles, expected) in [
            (json!(["view"]), Some(Role::View)),
            (json!(["act"]), Some(Role::Act)),
            (json!(["act", "view", "other"]), Some(Role::Act)),
            (json!("view"), Some(Role::View)),
            (json!(["VIEW", "views", "vie"]), None),
            (json!([]), None),
            (json!({ "view": true }), None),
            (json!(true), None),
            (Value::Null, None),
        ] {
            assert_eq!(with_roles(roles.clone()).map(|session| session.role), expected, "{roles}");
        }
        assert_eq!(session(&config(), json!({ "roles": ["act"] })), None, "another path");
    }

    #[test]
    fn only_the_claim_gives_tenants_once_it_is_configured() {
        let config = SignInConfig { tenants_claim: Some("tenants".to_owned()), ..config() };
        let visible = |tenants: Value| {
            let claims = json!({ "realm_access": { "roles": ["view"] }, "tenants": tenants });
            let session = session(&config, claims).unwrap();
            ["north", "south"].map(|id| session.may_see(&tenant(id)))
        };
        assert_eq!(visible(json!(["north"])), [true, false]);
        assert_eq!(visible(json!("south")), [false, true]);
        assert_eq!(visible(json!(["*"])), [true, true]);
        assert_eq!(visible(json!(["no-id", "north"])), [true, false]);
        for nothing in
            [json!([]), Value::Null, json!("north,south"), json!(""), json!({ "north": 1 })]
        {
            assert_eq!(visible(nothing.clone()), [false, false], "{nothing}");
        }
        let session = with_roles(json!(["view"])).unwrap();
        assert!(session.may_see(&tenant("north")), "without a claim, a person has all tenants");
    }

    #[test]
    fn session_is_the_same_after_its_cookie() {
        let config = SignInConfig { tenants_claim: Some("tenants".to_owned()), ..config() };
        for tenants in [json!(["*"]), json!(["south", "north", "north"]), json!([])] {
            let claims = json!({ "realm_access": { "roles": ["act"] }, "tenants": tenants });
            let session = session(&config, claims).unwrap();
            let text = serde_json::to_string(&session).unwrap();
            assert_eq!(serde_json::from_str::<Session>(&text).unwrap(), session, "{text}");
        }
        assert!(serde_json::from_str::<Session>(r#"{"s":"1","n":"k","r":"x","t":"*"}"#).is_err());
    }
}

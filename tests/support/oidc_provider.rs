//! An OpenID Connect provider on this host, which signs in whom a story names. It can be made to misbehave.
//!
//! It shares no code with the service: OpenSSL signs the tokens.

use std::{
    collections::HashMap,
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, web};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use openssl::{
    bn::BigNumContext,
    ec::{EcGroup, EcKey},
    ecdsa::EcdsaSig,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    rsa::Rsa,
    sha::sha256,
    sign::Signer,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{payloads::now, proxy::Proxy};

/// The client of the console.
pub(crate) const CLIENT: &str = "mod-patron-blocks";

/// How the provider signs a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signature {
    Rs256,
    Es256,
    /// With a key that the provider does not publish, under the name of the published one.
    OtherKey,
    /// With the client's secret as a shared key.
    Hs256,
    /// No signature, and the algorithm `none`.
    None,
}

/// What the token endpoint does.
#[derive(Debug, Clone)]
pub(crate) struct TokenBehavior {
    pub(crate) signature: Signature,
    /// Members that replace those of the claims; null removes a member.
    pub(crate) claims: Value,
    /// A response other than a token.
    pub(crate) response: Option<(u16, &'static str)>,
}

impl Default for TokenBehavior {
    fn default() -> Self {
        Self { signature: Signature::Rs256, claims: json!({}), response: None }
    }
}

impl TokenBehavior {
    pub(crate) fn signed_by(signature: Signature) -> Self {
        Self { signature, ..Self::default() }
    }

    pub(crate) fn with_claims(claims: Value) -> Self {
        Self { claims, ..Self::default() }
    }

    pub(crate) fn responding(status: u16, body: &'static str) -> Self {
        Self { response: Some((status, body)), ..Self::default() }
    }
}

/// The numbers of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ProviderRequests {
    pub(crate) discoveries: usize,
    pub(crate) tokens: usize,
}

struct Keys {
    /// The name of both keys, with a suffix for each.
    name: String,
    rsa: PKey<Private>,
    ec: EcKey<Private>,
    unpublished: PKey<Private>,
}

impl Keys {
    fn generate() -> Self {
        let rsa = || PKey::from_rsa(Rsa::generate(2048).expect("a key")).expect("a key");
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("a curve");
        let ec = EcKey::generate(&group).expect("a key");
        Self { name: Uuid::new_v4().simple().to_string(), rsa: rsa(), ec, unpublished: rsa() }
    }

    /// Returns the public keys as a set.
    fn published(&self) -> Value {
        let rsa = self.rsa.rsa().expect("a key");
        let (n, e) = (encode(&rsa.n().to_vec()), encode(&rsa.e().to_vec()));
        let mut context = BigNumContext::new().expect("a context");
        let [mut x, mut y] = [(); 2].map(|()| openssl::bn::BigNum::new().expect("a number"));
        let point = self.ec.public_key();
        point.affine_coordinates(self.ec.group(), &mut x, &mut y, &mut context).expect("a point");
        let coordinate =
            |number: &openssl::bn::BigNum| encode(&number.to_vec_padded(32).expect("32 bytes"));
        json!({ "keys": [
            { "kty": "RSA", "use": "sig", "alg": "RS256", "kid": format!("{}-rsa", self.name), "n": n, "e": e },
            {
                "kty": "EC", "use": "sig", "alg": "ES256", "kid": format!("{}-ec", self.name), "crv": "P-256",
                "x": coordinate(&x), "y": coordinate(&y),
            },
        ] })
    }

    fn sign(&self, signature: Signature, secret: &str, claims: &Value) -> String {
        let (algorithm, key) = match signature {
            Signature::Rs256 | Signature::OtherKey => ("RS256", format!("{}-rsa", self.name)),
            Signature::Es256 => ("ES256", format!("{}-ec", self.name)),
            Signature::Hs256 => ("HS256", String::new()),
            Signature::None => ("none", String::new()),
        };
        let mut header = json!({ "typ": "JWT", "alg": algorithm });
        if !key.is_empty() {
            header["kid"] = json!(key);
        }
        let text = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        let rsa = |key: &PKey<Private>| {
            let mut signer = Signer::new(MessageDigest::sha256(), key).expect("a signer");
            signer.sign_oneshot_to_vec(text.as_bytes()).expect("a signature")
        };
        let bytes = match signature {
            Signature::Rs256 => rsa(&self.rsa),
            Signature::OtherKey => rsa(&self.unpublished),
            Signature::Hs256 => rsa(&PKey::hmac(secret.as_bytes()).expect("a key")),
            Signature::Es256 => {
                let pair = EcdsaSig::sign(&sha256(text.as_bytes()), &self.ec).expect("a signature");
                let padded =
                    |number: &openssl::bn::BigNumRef| number.to_vec_padded(32).expect("32 bytes");
                [padded(pair.r()), padded(pair.s())].concat()
            }
            Signature::None => Vec::new(),
        };
        format!("{text}.{}", encode(&bytes))
    }
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A code that the provider has issued.
struct Grant {
    challenge: String,
    nonce: String,
    redirect_uri: String,
    person: Value,
}

struct State {
    issuer: String,
    secret: Option<String>,
    keys: Keys,
    person: Value,
    /// Whether a person chooses on a page, as in a browser.
    asks: bool,
    behavior: TokenBehavior,
    /// Members that replace those of the metadata.
    metadata: Value,
    grants: HashMap<String, Grant>,
    requests: ProviderRequests,
}

pub(crate) struct OidcProvider {
    /// The connection between the service and the provider, which a story can interrupt.
    pub(crate) proxy: Proxy,
    state: Arc<Mutex<State>>,
    server: ServerHandle,
}

impl OidcProvider {
    /// Starts a provider. With a secret, the client is confidential.
    pub(crate) async fn start(secret: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let proxy = Proxy::start(address.to_string()).await;
        let state = Arc::new(Mutex::new(State {
            issuer: format!("http://127.0.0.1:{}", proxy.port()),
            secret: secret.map(str::to_owned),
            keys: Keys::generate(),
            person: person("kim", &[]),
            asks: false,
            behavior: TokenBehavior::default(),
            metadata: json!({}),
            grants: HashMap::new(),
            requests: ProviderRequests::default(),
        }));
        let shared = web::Data::from(state.clone());
        let app = move || {
            App::new()
                .app_data(shared.clone())
                .route("/.well-known/openid-configuration", web::get().to(discovery))
                .route("/keys", web::get().to(keys))
                .route("/authorize", web::get().to(authorize))
                .route("/token", web::post().to(token))
                .route("/end-session", web::get().to(end_session))
        };
        let server = HttpServer::new(app)
            .workers(1)
            .disable_signals()
            .shutdown_timeout(0)
            .listen(listener)
            .expect("the provider listens")
            .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { proxy, state, server: handle }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    pub(crate) fn issuer(&self) -> String {
        self.state().issuer.clone()
    }

    /// Signs in this person from now on. The claims come from [`person`].
    pub(crate) fn sign_in_as(&self, claims: Value) {
        self.state().person = claims;
    }

    /// Shows a page with a button, as a provider does for a person without a session.
    pub(crate) fn ask(&self) {
        self.state().asks = true;
    }

    pub(crate) fn behave(&self, behavior: TokenBehavior) {
        self.state().behavior = behavior;
    }

    /// Publishes these members instead of the usual ones.
    pub(crate) fn publish(&self, metadata: Value) {
        self.state().metadata = metadata;
    }

    /// Replaces the keys by new ones.
    pub(crate) fn rotate_keys(&self) {
        let keys = Keys::generate();
        self.state().keys = keys;
    }

    pub(crate) fn requests(&self) -> ProviderRequests {
        self.state().requests
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        drop(self.server.stop(false));
    }
}

/// Returns the claims of a person with these realm roles.
pub(crate) fn person(name: &str, roles: &[&str]) -> Value {
    json!({
        "sub": format!("subject-of-{name}"),
        "preferred_username": name,
        "realm_access": { "roles": roles },
        // Numbers of other claims must not disturb.
        "updated_at": 1_700_000_000, "level": 1.5,
    })
}

type Shared = web::Data<Mutex<State>>;
type Parameters = HashMap<String, String>;

async fn discovery(state: Shared) -> HttpResponse {
    let mut state = state.lock().expect("no panic");
    state.requests.discoveries += 1;
    let at = |path: &str| format!("{}/{path}", state.issuer);
    let mut metadata = json!({
        "issuer": state.issuer,
        "authorization_endpoint": at("authorize"),
        "token_endpoint": at("token"),
        "jwks_uri": at("keys"),
        "end_session_endpoint": at("end-session"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256", "none"],
    });
    merge(&mut metadata, &state.metadata);
    HttpResponse::Ok().json(metadata)
}

async fn keys(state: Shared) -> HttpResponse {
    HttpResponse::Ok().json(state.lock().expect("no panic").keys.published())
}

/// Issues a code, and redirects to the console.
async fn authorize(
    request: HttpRequest,
    query: web::Query<Parameters>,
    state: Shared,
) -> HttpResponse {
    let mut state = state.lock().expect("no panic");
    let expected =
        [("client_id", CLIENT), ("response_type", "code"), ("code_challenge_method", "S256")];
    for (name, value) in expected {
        assert_eq!(query.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(query["scope"].split(' ').any(|scope| scope == "openid"), "{}", query["scope"]);
    if state.asks && !query.contains_key("yes") {
        let action = format!("authorize?{}&yes=1", request.query_string());
        let page = format!(
            "<!doctype html><title>Provider</title><link rel=icon href=data:,><a id=yes href=\"{}\">Sign in</a>",
            action.replace('&', "&amp;")
        );
        return HttpResponse::Ok().content_type("text/html").body(page);
    }
    let code = Uuid::new_v4().simple().to_string();
    let grant = Grant {
        challenge: query["code_challenge"].clone(),
        nonce: query["nonce"].clone(),
        redirect_uri: query["redirect_uri"].clone(),
        person: state.person.clone(),
    };
    let answer = [("code", &code), ("state", &query["state"]), ("iss", &state.issuer)];
    let answer = serde_urlencoded::to_string(answer).expect("texts");
    let location = format!("{}?{answer}", grant.redirect_uri);
    state.grants.insert(code, grant);
    HttpResponse::Found().insert_header(("Location", location)).finish()
}

/// Redeems a code once.
async fn token(request: HttpRequest, form: web::Form<Parameters>, state: Shared) -> HttpResponse {
    let mut state = state.lock().expect("no panic");
    state.requests.tokens += 1;
    let rejected = |error: &str| HttpResponse::BadRequest().json(json!({ "error": error }));
    if let Some((status, body)) = state.behavior.response {
        let status = actix_web::http::StatusCode::from_u16(status).expect("a status");
        return HttpResponse::build(status).content_type("application/json").body(body);
    }
    let credentials = state.secret.as_ref().map(|secret| format!("{CLIENT}:{secret}"));
    let expected =
        credentials.map(|text| format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(text)));
    let header = request.headers().get("Authorization").and_then(|value| value.to_str().ok());
    let is_client = expected.is_some() || form.get("client_id").is_some_and(|id| id == CLIENT);
    if header != expected.as_deref() || !is_client {
        return rejected("invalid_client");
    }
    let Some(grant) = form.get("code").and_then(|code| state.grants.remove(code)) else {
        return rejected("invalid_grant");
    };
    let challenge = form.get("code_verifier").map(|verifier| encode(&sha256(verifier.as_bytes())));
    if challenge.as_ref() != Some(&grant.challenge)
        || form.get("redirect_uri") != Some(&grant.redirect_uri)
    {
        return rejected("invalid_grant");
    }
    let issued_at = now().timestamp();
    let mut claims = json!({
        "iss": state.issuer, "aud": CLIENT, "azp": CLIENT, "nonce": grant.nonce,
        "iat": issued_at, "exp": issued_at + 300,
    });
    merge(&mut claims, &grant.person);
    merge(&mut claims, &state.behavior.claims);
    let secret = state.secret.clone().unwrap_or_else(|| "public".to_owned());
    let token = state.keys.sign(state.behavior.signature, &secret, &claims);
    HttpResponse::Ok().json(json!({
        "access_token": "access-of-a-story", "token_type": "Bearer", "expires_in": 300, "id_token": token,
    }))
}

/// Replaces members of a JSON object; null removes a member.
fn merge(object: &mut Value, changes: &Value) {
    let members = object.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => members.remove(name),
            value => members.insert(name.clone(), value.clone()),
        };
    }
}

async fn end_session(query: web::Query<Parameters>) -> HttpResponse {
    assert_eq!(query.get("client_id").map(String::as_str), Some(CLIENT));
    let location = query["post_logout_redirect_uri"].clone();
    HttpResponse::Found().insert_header(("Location", location)).finish()
}

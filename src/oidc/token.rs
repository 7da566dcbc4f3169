//! The checks of an ID token: signature, algorithm, issuer, audience, party, nonce and times.

use chrono::{DateTime, TimeDelta, Utc};
use openidconnect::{
    ClaimsVerificationError, Client, ClientId, EmptyExtraTokenFields, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, IdToken, IdTokenClaims, IdTokenFields, IdTokenVerifier, Nonce,
    RequestTokenError, SignatureVerificationError, StandardErrorResponse, StandardTokenResponse,
    core::{
        CoreAuthDisplay, CoreAuthPrompt, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
        CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreRevocableToken,
        CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
    },
};

use super::{
    claims::{ExtraClaims, Identity},
    http,
    metadata::Metadata,
};

/// The algorithms of signatures. All have a public key: with a shared key, anyone with the secret of the client could
/// sign. `none` is no algorithm here.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// How far the clocks of the provider and of this host may differ.
const CLOCK_LEEWAY: TimeDelta = TimeDelta::seconds(60);

type ProviderToken = IdToken<
    ExtraClaims,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

type ProviderTokenFields = IdTokenFields<
    ExtraClaims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

/// The client of the crate, with all claims of the ID token.
pub(super) type ProviderClient = Client<
    ExtraClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    StandardTokenResponse<ProviderTokenFields, CoreTokenType>,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// The error of the token endpoint.
pub(super) type ExchangeError =
    RequestTokenError<http::CallError, StandardErrorResponse<CoreErrorResponseType>>;

/// Why an ID token is rejected.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error(transparent)]
    Claims(#[from] ClaimsVerificationError),
    #[error("the party azp is another client")]
    OtherParty,
    #[error("the token has several audiences and no party azp")]
    NoParty,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the subject is not usable")]
    SubjectUnusable,
}

impl TokenError {
    /// Returns whether other keys of the provider may verify the token.
    pub(super) fn is_about_key(&self) -> bool {
        let Self::Claims(ClaimsVerificationError::SignatureVerification(error)) = self else {
            return false;
        };
        matches!(
            error,
            SignatureVerificationError::NoMatchingKey | SignatureVerificationError::CryptoError(_)
        )
    }
}

/// Checks an ID token, and returns the person whom it names.
pub(super) fn check(
    token: &ProviderToken,
    metadata: &Metadata,
    client_id: &ClientId,
    nonce: &Nonce,
    now: DateTime<Utc>,
) -> Result<Identity, TokenError> {
    let (issuer, keys) = (metadata.issuer().clone(), metadata.jwks().clone());
    let is_issued = move |at: DateTime<Utc>| {
        let is_past = at <= now + CLOCK_LEEWAY;
        is_past.then_some(()).ok_or_else(|| format!("the token is of {at}, which is in the future"))
    };
    // A verifier of a public client accepts no shared key.
    let verifier = IdTokenVerifier::new_public_client(client_id.clone(), issuer, keys)
        .set_allowed_algs(ALGORITHMS)
        .set_time_fn(move || now - CLOCK_LEEWAY)
        .set_issue_time_verifier_fn(is_issued)
        .set_other_audience_verifier_fn(|_| true);
    let claims = token.claims(&verifier, nonce)?;
    check_party(claims, client_id)?;
    if claims.additional_claims().not_before().is_some_and(|at| at > now + CLOCK_LEEWAY) {
        return Err(TokenError::NotYetValid);
    }
    let name = claims.preferred_username().map(|name| name.as_str());
    let members = claims.additional_claims().clone();
    Identity::new(claims.subject(), name, members).ok_or(TokenError::SubjectUnusable)
}

/// Checks that the token was issued to this client. Several audiences need a party that is this client.
fn check_party(
    claims: &IdTokenClaims<ExtraClaims, CoreGenderClaim>,
    client_id: &ClientId,
) -> Result<(), TokenError> {
    match claims.authorized_party() {
        Some(party) if party == client_id => Ok(()),
        Some(_) => Err(TokenError::OtherParty),
        None if claims.audiences().len() > 1 => Err(TokenError::NoParty),
        None => Ok(()),
    }
}

//! Who a sidecar is: its projected ServiceAccount token, asked of the API server by TokenReview. Pod and uid come from
//! there, never from what a sidecar says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use super::index::Key;
use crate::contract::{AUDIENCE, Token};
use crate::telemetry::causes;

/// TokenReviews under way at once: a fleet that reconnects must not flood the API server.
const AT_ONCE: usize = 32;
/// The longest that one may take.
const REQUEST: Duration = Duration::from_secs(10);
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// A pod that proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its namespace and name.
    pub pod: Key,
    /// Its uid.
    pub uid: String,
    /// When the token expires.
    pub expires: SystemTime,
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The API server says no.
    #[error("the token is not valid here: {0}")]
    Refused(String),
    /// It belongs to no pod.
    #[error("the token is not bound to a pod: a projected ServiceAccount token is needed")]
    NoPod,
    /// It says nothing about its end.
    #[error("the token's expiry can't be read")]
    NoExpiry,
    /// The API server could not be asked.
    #[error("the token could not be reviewed: {0}")]
    Unavailable(String),
}

/// Asks the API server.
#[derive(Debug)]
pub struct Reviewer {
    api: Api<TokenReview>,
    slots: Semaphore,
}

impl Reviewer {
    /// By this client.
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client), slots: Semaphore::new(AT_ONCE) }
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// When it is nobody's, or the API server can't be asked.
    pub async fn review(&self, token: &Token) -> Result<Identity, AuthError> {
        if token.expose().is_empty() {
            return Err(AuthError::Refused("there is none".into()));
        }
        let unavailable = |why: String| AuthError::Unavailable(why);
        let _slot = self.slots.acquire().await.map_err(|error| unavailable(error.to_string()))?;
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.into()]), token: Some(token.expose().into()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let params = PostParams::default();
        let review = tokio::time::timeout(REQUEST, self.api.create(&params, &review)).await;
        let review = review.map_err(|_| unavailable("no answer in time".into()))?;
        let status = review.map_err(|error| unavailable(causes(&error)))?.status.unwrap_or_default();
        identity(&status, token)
    }
}

/// What an answer says.
fn identity(status: &TokenReviewStatus, token: &Token) -> Result<Identity, AuthError> {
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if status.authenticated != Some(true) {
        let why = status.error.as_deref().unwrap_or("not authenticated");
        return Err(AuthError::Refused(crate::telemetry::escape(why)));
    }
    // An API server that knows nothing of audiences answers with none.
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(AuthError::Refused(format!("it is not for the audience {AUDIENCE}")));
    }
    let user = status.user.clone().unwrap_or_default();
    let extra = user.extra.unwrap_or_default();
    let one = |key: &str| extra.get(key).and_then(|values| values.first()).cloned();
    let mut account = user.username.as_deref().unwrap_or_default().splitn(4, ':');
    let namespace = match (account.next(), account.next(), account.next()) {
        (Some("system"), Some("serviceaccount"), Some(namespace)) => namespace.to_owned(),
        _ => return Err(AuthError::NoPod),
    };
    match (one(POD_NAME), one(POD_UID)) {
        (Some(name), Some(uid)) => {
            let expires = expiry(token).ok_or(AuthError::NoExpiry)?;
            Ok(Identity { pod: Key { namespace, name }, uid, expires })
        }
        _ => Err(AuthError::NoPod),
    }
}

/// When a JSON Web Token expires (RFC 7519, 4.1.4). The API server has checked its signature.
fn expiry(token: &Token) -> Option<SystemTime> {
    let claims = token.expose().split('.').nth(1)?;
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(claims["exp"].as_u64()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use k8s_openapi::api::authentication::v1::UserInfo;

    fn token() -> Token {
        Token::new(format!("e30.{}.x", URL_SAFE_NO_PAD.encode(r#"{"exp":1000}"#)))
    }

    fn status() -> TokenReviewStatus {
        let extra = [(POD_NAME, "orders-1"), (POD_UID, "u-1")].map(|(key, value)| (key.into(), vec![value.into()]));
        TokenReviewStatus {
            audiences: Some(vec![AUDIENCE.into()]),
            authenticated: Some(true),
            user: Some(UserInfo {
                username: Some("system:serviceaccount:shop:default".into()),
                extra: Some(extra.into()),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    #[test]
    fn a_pod_is_who_the_api_server_says() {
        let expires = UNIX_EPOCH + Duration::from_secs(1000);
        let wanted = Identity { pod: Key::new("shop", "orders-1"), uid: "u-1".into(), expires };
        assert_eq!(identity(&status(), &token()).unwrap(), wanted);
    }

    #[test]
    fn nobody_else_is() {
        let refused = |change: &dyn Fn(&mut TokenReviewStatus)| {
            let mut status = status();
            change(&mut status);
            identity(&status, &token()).unwrap_err().to_string()
        };
        assert!(refused(&|s| s.authenticated = Some(false)).contains("not authenticated"));
        assert!(refused(&|s| s.authenticated = None).contains("not valid"));
        assert!(refused(&|s| s.audiences = None).contains("audience"));
        assert!(refused(&|s| s.audiences = Some(vec!["kubernetes".into()])).contains("audience"));
        assert!(refused(&|s| s.user.as_mut().unwrap().extra = None).contains("not bound to a pod"));
        assert!(refused(&|s| s.user.as_mut().unwrap().username = Some("admin".into())).contains("not bound"));
        assert!(identity(&status(), &Token::new("x")).is_err());
    }
}

//! A client that validates every response against the OpenAPI document, and records the seen cases.

use std::{cell::RefCell, collections::BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::world::{TENANT, World};

/// Path template, method and status. Path and method of an unknown operation are `*`.
pub(crate) type ResponseCase = (String, String, u16);

pub(crate) const METHODS: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "PATCH"];

/// The content of `docs/openapi.json`.
pub(crate) struct OpenApi(Value);

impl OpenApi {
    pub(crate) fn read() -> Self {
        Self(serde_json::to_value(patron_blocks::http::openapi_json()).unwrap())
    }

    /// Returns path and method of all operations.
    pub(crate) fn operations(&self) -> Vec<(String, String)> {
        let paths = self.0["paths"].as_object().unwrap();
        let of = |(path, item): (&String, &Value)| {
            let methods = METHODS.into_iter().filter(|m| item.get(m.to_lowercase()).is_some());
            methods.map(|method| (path.clone(), method.to_owned())).collect::<Vec<_>>()
        };
        paths.iter().flat_map(of).collect()
    }

    /// Returns all documented responses.
    pub(crate) fn response_cases(&self) -> BTreeSet<ResponseCase> {
        let of = |(path, method): (String, String)| {
            let responses = &self.operation(&path, &method)["responses"];
            let statuses: Vec<String> = responses.as_object().unwrap().keys().cloned().collect();
            let row = move |s: String| (path.clone(), method.clone(), s.parse().unwrap());
            statuses.into_iter().map(row)
        };
        self.operations().into_iter().flat_map(of).collect()
    }

    fn operation(&self, path: &str, method: &str) -> &Value {
        &self.0["paths"][path][method.to_lowercase()]
    }

    /// Returns the path template of a path; literal segments precede parameters.
    fn template(&self, path: &str) -> Option<String> {
        let path = match path.split('?').next().unwrap().trim_end_matches('/') {
            "" => "/",
            path => path,
        };
        let fits = |template: &&String| {
            let (a, b) = (template.split('/'), path.split('/'));
            a.clone().count() == b.clone().count()
                && a.zip(b).all(|(a, b)| a == b || a.starts_with('{'))
        };
        let all = self.0["paths"].as_object().unwrap();
        all.keys().filter(fits).min_by_key(|template| template.matches('{').count()).cloned()
    }

    /// Returns the case of a response; panics if the response violates the document.
    fn response_case(&self, method: &str, path: &str, answer: &ApiResponse) -> ResponseCase {
        let ApiResponse { status, content_type: media, body: text, .. } = answer;
        let template = self.template(path).unwrap_or_default();
        let operation = self.operation(&template, method);
        if operation.is_null() {
            return ("*".to_owned(), "*".to_owned(), *status);
        }
        let what = format!("{method} {path}: {status} {media} {text}");
        let response = &operation["responses"][status.to_string()];
        assert!(response.is_object(), "the document does not describe {what}");
        match response.get("content") {
            None => assert_eq!((media.as_str(), text.as_str()), ("", ""), "{what}"),
            Some(content) => {
                let schema = &content[media]["schema"];
                assert!(schema.is_object(), "the document describes another content type: {what}");
                if media == "application/json" {
                    self.assert_valid(schema, &answer.json(), &what);
                } else {
                    assert!(!text.is_empty(), "{what}");
                }
            }
        }
        (template, method.to_owned(), *status)
    }

    fn assert_valid(&self, schema: &Value, body: &Value, what: &str) {
        let schema = json!({ "allOf": [schema], "components": self.0["components"] });
        let options = jsonschema::options().should_validate_formats(true);
        let wrong: Vec<String> = options
            .build(&schema)
            .unwrap()
            .iter_errors(body)
            .map(|error| format!("{} {error}", error.instance_path()))
            .collect();
        assert_eq!(wrong, [""; 0], "{what}");
    }
}

/// The parts of a response that the tests check.
#[derive(Debug, Default)]
pub(crate) struct ApiResponse {
    pub(crate) status: u16,
    /// Content type without parameters, empty without a header.
    pub(crate) content_type: String,
    pub(crate) location: Option<String>,
    pub(crate) allow: Option<String>,
    pub(crate) body: String,
}

impl ApiResponse {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn assert_is(&self, status: u16, text: &str) {
        assert_eq!((self.status, self.body.as_str()), (status, text));
    }

    /// Returns the only error of an errors object: message, code, and the parameter's key and value.
    pub(crate) fn validation_error(&self) -> [String; 4] {
        assert_eq!(self.status, 422, "{self:?}");
        let error = &self.json()["errors"][0];
        assert_eq!(error["type"], "1");
        let parameter = &error["parameters"][0];
        [&error["message"], &error["code"], &parameter["key"], &parameter["value"]]
            .map(|value| value.as_str().unwrap().to_owned())
    }
}

/// The parts of a request that the tests choose.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ApiRequest<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: Option<&'a str>,
}

/// A client of the service in a story.
pub(crate) struct ApiClient<'w> {
    pub(crate) world: &'w World,
    pub(crate) openapi: OpenApi,
    seen: RefCell<BTreeSet<ResponseCase>>,
}

impl<'w> ApiClient<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        Self { world, openapi: OpenApi::read(), seen: RefCell::default() }
    }

    pub(crate) fn into_seen(self) -> BTreeSet<ResponseCase> {
        self.seen.into_inner()
    }

    /// Sends a request with exactly these headers.
    pub(crate) async fn send(&self, request_parts: ApiRequest<'_>) -> ApiResponse {
        let method = Method::from_bytes(request_parts.method.as_bytes()).unwrap();
        let mut request = self.world.request(method, request_parts.path);
        for (name, value) in request_parts.headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = request_parts.body {
            request = request.body(body.to_owned());
        }
        let response = request.send().await.expect("the service responds");
        let header = |name: &str| {
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let media = header("content-type").unwrap_or_default();
        let mut answer = ApiResponse {
            status: response.status().as_u16(),
            content_type: media.split(';').next().unwrap().to_owned(),
            location: header("location"),
            allow: header("allow"),
            body: String::new(),
        };
        answer.body = response.text().await.expect("a body");
        self.record_response(request_parts.method, request_parts.path, &answer);
        answer
    }

    /// Validates a response against the document, and records its case.
    pub(crate) fn record_response(&self, method: &str, path: &str, answer: &ApiResponse) {
        let row = self.openapi.response_case(method, path, answer);
        self.seen.borrow_mut().insert(row);
    }

    /// Sends a request as the tenant of the story.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> ApiResponse {
        let body = body.map(Value::to_string);
        let url = self.world.users.url();
        let headers = [
            ("X-Okapi-Tenant", TENANT),
            ("X-Okapi-Url", &*url),
            ("Content-Type", "application/json"),
        ];
        let headers = if body.is_some() { &headers[..] } else { &headers[..2] };
        self.send(ApiRequest { method, path, headers, body: body.as_deref() }).await
    }

    pub(crate) async fn get(&self, path: &str) -> ApiResponse {
        self.request("GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> ApiResponse {
        self.request("POST", path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> ApiResponse {
        self.request("PUT", path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> ApiResponse {
        self.request("DELETE", path, None).await
    }
}

//! The server: a request comes in, is told apart, let through or refused, and handed to whoever answers it.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::Response,
};
use futures::FutureExt;
use hitless_store::Store;
use hitless_types::{kinds::Kind, names, patch};
use serde_json::{Value, json};

use crate::{
    apply,
    auth::{self, Identity},
    binding, body, bootstrap,
    codec::text,
    core::Core,
    delete::{self, DeleteOptions},
    discovery::{self, AggregatedVersion, Document},
    eviction,
    fault::Fault,
    logs,
    metrics::RequestLabels,
    negotiate::{self, BodyType, Format},
    openapi,
    options::Options,
    query::Query,
    read,
    reply::{self, Reply},
    route::{self, Place, Target},
    scale,
    strategy::{FieldValidation, Part},
    streaming, subresources, token_request, tokens, watch,
    write::{self, How},
};

/// Why the API server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What a cluster has from the beginning could not be made.
    #[error("the first objects of the cluster could not be made")]
    Bootstrap(#[source] Fault),
}

/// The API server. Clones share it.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) core: Arc<Core>,
}

impl ApiServer {
    /// An API server over this store. Makes the first objects where they are missing.
    ///
    /// # Errors
    /// The store refused to keep them.
    pub async fn new(store: Arc<dyn Store>, options: Options) -> Result<Self, StartError> {
        let core = Arc::new(Core::new(store, options));
        bootstrap::run(&core).await.map_err(StartError::Bootstrap)?;
        Ok(Self { core })
    }

    /// The API as a router. Who asks comes as a request extension [`Identity`]; without one they are anonymous.
    pub fn router(&self) -> Router {
        let core = Arc::clone(&self.core);
        Router::new().fallback(move |request: Request| handle(Arc::clone(&core), request))
    }

    /// The API for a client in this process who is `identity`: no socket, no TLS.
    #[must_use]
    pub fn in_process(&self, identity: Identity) -> InProcess {
        InProcess { core: Arc::clone(&self.core), identity }
    }

    /// Ends every watch, each with a last bookmark. Other requests are still answered.
    pub fn end_watches(&self) {
        self.core.cancel.cancel();
    }
}

/// The API for a client in this process; see [`ApiServer::in_process`].
#[derive(Clone)]
pub struct InProcess {
    pub(crate) core: Arc<Core>,
    identity: Identity,
}

impl<B> tower::Service<http::Request<B>> for InProcess
where
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<tower::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = futures::future::BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let core = Arc::clone(&self.core);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.identity.clone());
        Box::pin(async move { Ok(handle(core, request).await) })
    }
}

/// A request with everything that its path and head say.
struct Call {
    pub(crate) core: Arc<Core>,
    identity: Identity,
    method: Method,
    query: Query,
    headers: HeaderMap,
    body: Body,
    /// Fields that stand twice in the body, as far as that is looked at.
    doubled: Vec<String>,
    /// The connection itself, for what becomes a stream.
    upgrade: Option<hyper::upgrade::OnUpgrade>,
}

/// Answers a request. Never fails and never panics: what goes wrong is an answer.
pub(crate) async fn handle(core: Arc<Core>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let target = route::parse(&path);
    let query = Query::parse(parts.uri.query());
    let verb = verb(&parts.method, target.as_ref(), &query);
    let resource = match &target {
        Some(Target::Resource(place)) => place.kind.plural,
        _ => "",
    };
    let answered = answer(&core, target, verb, parts, query, body);
    // A defect in one request ends that request alone, and not the connection with all others on it.
    let response = match AssertUnwindSafe(answered).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(fault)) => fault.into_response(),
        Err(_) => Fault::internal("this request panicked; it is a defect of the API server").into_response(),
    };
    let labels = RequestLabels { verb, resource, code: response.status().as_u16() };
    let took = started.elapsed();
    tracing::debug!(verb, path, code = labels.code, took_us = took.as_micros(), "answered");
    core.metrics.answered(labels, took.as_secs_f64());
    response
}

/// Kubernetes' word for what is asked.
fn verb(method: &Method, target: Option<&Target>, query: &Query) -> &'static str {
    let Some(Target::Resource(place)) = target else {
        return match *method {
            Method::GET | Method::HEAD => "get",
            Method::POST => "post",
            _ => "other",
        };
    };
    let collection = place.name.is_empty();
    match *method {
        Method::GET | Method::HEAD if query.flag("watch") && place.sub.is_empty() => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "other",
    }
}

async fn answer(
    core: &Arc<Core>,
    target: Option<Target>,
    verb: &'static str,
    mut parts: Parts,
    query: Query,
    body: Body,
) -> Result<Response, Fault> {
    let upgrade = parts.extensions.remove();
    let identity = parts.extensions.get::<Identity>().cloned().unwrap_or_else(Identity::anonymous);
    let by_token = identity.is_anonymous() && parts.headers.contains_key(header::AUTHORIZATION);
    let identity = if by_token { tokens::authenticate(core, &parts.headers).await? } else { identity };
    let open = matches!(target, Some(Target::Health | Target::Version));
    let Some(Target::Resource(place)) = target else {
        auth::authorize_path(&identity, verb, parts.uri.path(), open)?;
        return document(core, target, &parts, &query);
    };
    auth::authorize(&identity, verb, &place)?;
    check_name(&place)?;
    let (core, method, headers) = (Arc::clone(core), parts.method, parts.headers);
    let doubled = Vec::new();
    let call = Call { core: Arc::clone(&core), identity, method, query, headers, body, doubled, upgrade };
    // Watches, followed logs and streams last; everything else has an end.
    if verb == "watch" || place.sub == "log" || streaming::is_stream(&place.sub) {
        return call.run(&place, verb).await;
    }
    let permit = core.in_flight.try_acquire();
    let _permit =
        permit.map_err(|_| Fault::too_many_requests("Too many requests, please try again later.", 1))?;
    match tokio::time::timeout(core.options.limits.request_timeout, call.run(&place, verb)).await {
        Ok(answer) => answer,
        Err(_) => Err(hitless_types::status::ApiFault::Timeout(
            "request did not complete within the allotted timeout".to_owned(),
        )
        .into()),
    }
}

/// A name is one segment of a path; anything else could reach another object's key.
///
/// # Errors
/// 400 in Kubernetes' words.
fn check_name(place: &Place) -> Result<(), Fault> {
    let faults = names::path_segment_faults(&place.name);
    if faults.is_empty() {
        return Ok(());
    }
    let name = &place.name;
    Err(Fault::bad_request(format!("Name parameter invalid: {name:?}: {}", faults.join(";"))))
}

/// Answers what is no resource.
fn document(core: &Core, target: Option<Target>, parts: &Parts, query: &Query) -> Result<Response, Fault> {
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Err(if target.is_some() { Fault::method_not_allowed() } else { Fault::no_resource() });
    }
    let format = || negotiate::accept(&parts.headers, query);
    let json = |value: Value| Ok(Reply::new(StatusCode::OK, value).into_response(format()?));
    match target.ok_or_else(Fault::no_resource)? {
        Target::Root => json(json!({"paths": root_paths()})),
        Target::Health => Ok(reply::plain(StatusCode::OK, "ok")),
        Target::Version => json(version(&core.options.git_version)),
        Target::Metrics => {
            let mut response = reply::plain(StatusCode::OK, core.metrics.text(core.revision()));
            let media =
                HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            Ok(response)
        }
        target @ (Target::CoreVersions | Target::Groups) => {
            let is_core = matches!(target, Target::CoreVersions);
            if let Some(version) = AggregatedVersion::accepted(&parts.headers) {
                let media = version.media_type();
                return Ok(tagged(core.documents.aggregated(is_core, version), &parts.headers, &media));
            }
            json(if is_core {
                discovery::core_versions(core.options.advertise)
            } else {
                discovery::group_list()
            })
        }
        Target::Group(name) => json(discovery::group(&name).ok_or_else(Fault::no_resource)?),
        Target::Resources(group, version) => {
            json(discovery::resource_list(&group, &version).ok_or_else(Fault::no_resource)?)
        }
        Target::OpenApiV2 => {
            let accepted =
                parts.headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
            let protobuf = openapi::PROTOBUF_MEDIA.iter().any(|media| accepted.contains(media));
            let media = if protobuf { openapi::PROTOBUF_MEDIA[0] } else { "application/json" };
            Ok(tagged(&discovery::openapi_v2(protobuf), &parts.headers, media))
        }
        Target::OpenApiIndex => {
            Ok(tagged(core.documents.openapi_index(), &parts.headers, "application/json"))
        }
        Target::OpenApi(group, version) => {
            let document = discovery::openapi_v3(&group, &version).ok_or_else(Fault::no_resource)?;
            let mut response = tagged(&document, &parts.headers, "application/json");
            if query.get("hash") == Some(document.etag.as_str()) {
                let forever = HeaderValue::from_static("public, immutable");
                response.headers_mut().insert(header::CACHE_CONTROL, forever);
            }
            Ok(response)
        }
        Target::Resource(_) => Err(Fault::no_resource()),
    }
}

fn root_paths() -> Vec<String> {
    let mut paths: Vec<String> = [
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .into();
    for (group, version) in discovery::group_versions() {
        paths.push(format!("/{}", discovery::group_version_path(group, version)));
    }
    paths.sort();
    paths
}

fn version(git_version: &str) -> Value {
    let mut numbers = git_version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    json!({
        "major": major, "minor": minor, "gitVersion": git_version, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    })
}

/// A document that the client may have already.
fn tagged(document: &Document, headers: &HeaderMap, media: &str) -> Response {
    let etag = format!("\"{}\"", document.etag);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let known =
        known.is_some_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag));
    let mut response = Response::new(if known { Body::empty() } else { Body::from(document.body.clone()) });
    *response.status_mut() = if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    for (name, value) in
        [(header::ETAG, etag.as_str()), (header::CONTENT_TYPE, media), (header::VARY, "Accept")]
    {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

impl Call {
    async fn run(self, place: &Place, verb: &'static str) -> Result<Response, Fault> {
        if !place.sub.is_empty() {
            let sub = subresources::find(place.kind, &place.sub).ok_or_else(Fault::no_resource)?;
            if !sub.verbs.contains(&verb) || place.name.is_empty() {
                return Err(Fault::method_not_allowed());
            }
            return self.subresource(place).await;
        }
        let collection = place.name.is_empty();
        let somewhere =
            !place.namespace.is_empty() || place.kind.scope == hitless_types::kinds::Scope::Cluster;
        match verb {
            "watch" => watch::watch(&self.core, place, &self.query, self.format()?).await,
            "list" => read::list(&self.core, place, &self.query, self.format()?).await,
            "get" => read::get(&self.core, place, self.format()?).await,
            "create" if collection && somewhere => self.create(place).await,
            "update" if !collection => self.put(place, Part::Main).await,
            "patch" if !collection => self.patch(place, Part::Main).await,
            "delete" => self.delete(place).await,
            "deletecollection" if somewhere => self.delete_collection(place).await,
            _ => Err(Fault::method_not_allowed()),
        }
    }

    async fn subresource(self, place: &Place) -> Result<Response, Fault> {
        match (place.sub.as_str(), &self.method) {
            ("log", _) => logs::logs(&self.core, place, &self.query).await,
            ("exec" | "attach" | "portforward", _) => {
                let Self { core, method, query, headers, upgrade, .. } = self;
                let (method, query, headers) = (&method, &query, &headers);
                streaming::stream(&core, place, streaming::Asked { method, query, headers, upgrade }).await
            }
            ("status", &Method::GET) => read::get(&self.core, place, self.format()?).await,
            ("status", &Method::PUT) => self.put(place, Part::Status).await,
            ("status", _) => self.patch(place, Part::Status).await,
            ("scale", _) => self.scale(place).await,
            ("binding", _) => self.bind(place).await,
            ("eviction", _) => self.evict(place).await,
            ("token", _) => self.token(place).await,
            ("finalize", _) => self.finalize(place).await,
            _ => Err(Fault::no_resource()),
        }
    }

    fn format(&self) -> Result<Format, Fault> {
        negotiate::accept(&self.headers, &self.query)
    }

    /// The body as a value.
    async fn object(&mut self) -> Result<Value, Fault> {
        let form = negotiate::body_type(&self.headers, false)?;
        let bytes =
            body::read(std::mem::take(&mut self.body), self.core.options.limits.body_bytes_max).await?;
        let object = body::parse(&bytes, form)?;
        if FieldValidation::from_query(&self.query)? != FieldValidation::Ignore {
            self.doubled = body::doubled(&bytes, form);
        }
        Ok(object)
    }

    /// What the author of a body in which fields stand twice should be told.
    ///
    /// # Errors
    /// 400 where that is not taken.
    fn doubled(&mut self, kind: &Kind) -> Result<Vec<String>, Fault> {
        let words: Vec<String> = std::mem::take(&mut self.doubled)
            .iter()
            .map(|path| format!("duplicate field {path:?}"))
            .collect();
        if words.is_empty() || FieldValidation::from_query(&self.query)? != FieldValidation::Strict {
            return Ok(words);
        }
        Err(Fault::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            kind.kind,
            kind.version,
            kind.kind,
            words.join(", ")
        )))
    }

    /// The body as a patch.
    async fn patch_body(&mut self) -> Result<(BodyType, Value), Fault> {
        let form = negotiate::body_type(&self.headers, true)?;
        let bytes =
            body::read(std::mem::take(&mut self.body), self.core.options.limits.body_bytes_max).await?;
        let text = if form == BodyType::ApplyPatch { BodyType::Yaml } else { BodyType::Json };
        Ok((form, body::parse(&bytes, text)?))
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn how(&self) -> Result<How<'_>, Fault> {
        Ok(How {
            identity: &self.identity,
            dry_run: self.query.dry_run()?,
            validation: FieldValidation::from_query(&self.query)?,
            manager: apply::manager(&self.query, self.header(header::USER_AGENT), &self.identity.name)?,
        })
    }

    async fn create(mut self, place: &Place) -> Result<Response, Fault> {
        let (raw, format) = (self.object().await?, self.format()?);
        let mut warnings = self.doubled(place.kind)?;
        let written = write::create(&self.core, place, raw, &self.how()?).await?;
        warnings.extend(written.warnings);
        let reply = Reply::new(StatusCode::CREATED, written.object).with_warnings(warnings);
        Ok(reply.shaped(&self.core, place.kind, format).into_response(format))
    }

    async fn put(mut self, place: &Place, part: Part) -> Result<Response, Fault> {
        let (raw, format) = (self.object().await?, self.format()?);
        let mut warnings = self.doubled(place.kind)?;
        let how = self.how()?;
        let written = write::update(&self.core, place, part, &how, |_| Ok(raw.clone())).await?;
        warnings.extend(written.warnings);
        let reply = Reply::new(StatusCode::OK, written.object).with_warnings(warnings);
        Ok(reply.shaped(&self.core, place.kind, format).into_response(format))
    }

    async fn patch(mut self, place: &Place, part: Part) -> Result<Response, Fault> {
        let ((form, patch), format) = (self.patch_body().await?, self.format()?);
        let how = self.how()?;
        let kind = place.kind;
        let force = apply::force(&self.query, form == BodyType::ApplyPatch)?;
        if form == BodyType::ApplyPatch {
            let (written, created) = apply::apply(&self.core, place, part, patch, &how, force).await?;
            let code = if created { StatusCode::CREATED } else { StatusCode::OK };
            let reply = Reply::new(code, written.object).with_warnings(written.warnings);
            return Ok(reply.shaped(&self.core, kind, format).into_response(format));
        }
        let change = |old: &Value| {
            let mut new = old.clone();
            match form {
                BodyType::JsonPatch => patch::json_patch(&mut new, &patch)?,
                BodyType::StrategicMergePatch => patch::strategic_merge(&mut new, &patch, kind)?,
                _ if !patch.is_object() => {
                    return Err(Fault::bad_request("error decoding patch: a merge patch is a map"));
                }
                _ => patch::merge_patch(&mut new, &patch),
            }
            Ok(new)
        };
        let written = write::update(&self.core, place, part, &how, change).await?;
        let reply = Reply::new(StatusCode::OK, written.object).with_warnings(written.warnings);
        Ok(reply.shaped(&self.core, kind, format).into_response(format))
    }

    async fn delete_options(&mut self) -> Result<DeleteOptions, Fault> {
        let form = negotiate::body_type(&self.headers, false)?;
        let bytes =
            body::read(std::mem::take(&mut self.body), self.core.options.limits.body_bytes_max).await?;
        let body = if bytes.is_empty() { Value::Null } else { body::parse(&bytes, form)? };
        DeleteOptions::read(&body, &self.query)
    }

    async fn delete(mut self, place: &Place) -> Result<Response, Fault> {
        let (options, format) = (self.delete_options().await?, self.format()?);
        let deleted = delete::delete(&self.core, place, &self.identity, &options).await?;
        let reply = Reply::new(StatusCode::OK, deleted.answer(place.kind));
        Ok(reply.shaped(&self.core, place.kind, format).into_response(format))
    }

    async fn delete_collection(mut self, place: &Place) -> Result<Response, Fault> {
        let (options, format) = (self.delete_options().await?, self.format()?);
        let kind = place.kind;
        let selection = read::Selection::read(kind, &self.query)?;
        let page = read::page(&self.core, place, &selection, &self.query).await?;
        let mut items = Vec::new();
        for object in page.into_objects(&self.core, kind)? {
            let namespace = text(&object, "/metadata/namespace");
            let one = Place::object(kind, namespace, text(&object, "/metadata/name"));
            match delete::delete(&self.core, &one, &self.identity, &options).await {
                Ok(deleted) => items.push(deleted.object),
                // Somebody else was quicker.
                Err(fault) if fault.code() == 404 => {}
                Err(fault) => return Err(fault),
            }
        }
        let list = json!({
            "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
            "metadata": {"resourceVersion": self.core.revision().to_string()}, "items": items,
        });
        Ok(Reply::new(StatusCode::OK, list).into_response(format))
    }

    async fn scale(mut self, place: &Place) -> Result<Response, Fault> {
        let format = self.format()?;
        let kind = place.kind;
        let object = if self.method == Method::GET {
            let loaded = self.core.load(kind, &place.namespace, &place.name).await?;
            loaded.ok_or_else(|| Fault::not_found(kind, &place.name))?.1
        } else {
            let patched = self.method == Method::PATCH;
            let (form, wanted) =
                if patched { self.patch_body().await? } else { (BodyType::Json, self.object().await?) };
            let how = self.how()?;
            let change = |old: &Value| {
                let mut new = scale::of(old);
                match form {
                    BodyType::JsonPatch => patch::json_patch(&mut new, &wanted)?,
                    _ if patched => patch::merge_patch(&mut new, &wanted),
                    _ => new = wanted.clone(),
                }
                scale::put(kind, old, &new)
            };
            write::update(&self.core, place, Part::Main, &how, change).await?.object
        };
        Ok(Reply::new(StatusCode::OK, scale::of(&object)).into_response(format))
    }

    async fn bind(mut self, place: &Place) -> Result<Response, Fault> {
        let (wanted, format) = (self.object().await?, self.format()?);
        let (how, now) = (self.how()?, self.core.now());
        write::update(&self.core, place, Part::Whole, &how, |pod| binding::bind(pod, &wanted, now)).await?;
        Ok(Reply::new(StatusCode::CREATED, reply::success(StatusCode::CREATED)).into_response(format))
    }

    async fn evict(mut self, place: &Place) -> Result<Response, Fault> {
        let (wanted, format) = (self.object().await?, self.format()?);
        eviction::evict(&self.core, place, &self.identity, &wanted).await?;
        Ok(Reply::new(StatusCode::CREATED, reply::success(StatusCode::CREATED)).into_response(format))
    }

    async fn token(mut self, place: &Place) -> Result<Response, Fault> {
        let (asked, format) = (self.object().await?, self.format()?);
        let token = token_request::create(&self.core, place, &self.identity, &asked).await?;
        Ok(Reply::new(StatusCode::CREATED, token).into_response(format))
    }

    /// A namespace's `spec.finalizers`, which can be changed in no other way.
    async fn finalize(mut self, place: &Place) -> Result<Response, Fault> {
        let (wanted, format) = (self.object().await?, self.format()?);
        let how = self.how()?;
        let change = |old: &Value| {
            let mut new = old.clone();
            let finalizers = wanted.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
            crate::codec::child_mut(&mut new, "spec").insert("finalizers".into(), finalizers);
            for field in ["uid", "resourceVersion"] {
                let said = text(&wanted, &format!("/metadata/{field}"));
                if !said.is_empty() {
                    crate::codec::metadata_mut(&mut new).insert(field.into(), said.into());
                }
            }
            Ok(new)
        };
        let written = write::update(&self.core, place, Part::Whole, &how, change).await?;
        let reply = Reply::new(StatusCode::OK, written.object);
        Ok(reply.shaped(&self.core, place.kind, format).into_response(format))
    }
}

//! The admin API: HTTP and JSON over a Unix socket, and over TCP where that was asked for.
//!
//! Each request is one command to the supervisor, or a read of what it published. Errors are
//! [`Refusal`]s. Who may ask is decided in [`guard`]; nothing in this room changes state itself.
//!
//! [`Refusal`]: super::api::Refusal

mod guard;
mod listen;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

pub use listen::AdminAddresses;
pub(super) use listen::{Offered, Server, bind, remove_stale};

use super::api::{Deadlines, Deploy, NewCanary, NewPlan, NewServer, ServerChange, ServiceChange, Swap};
use super::deploys::{DeployOrder, MOST_NOTES};
use super::error::CommandError;
use super::handle::Handle;
use super::shared::Phase;
use crate::units;

/// Largest body of a command.
const MOST_BODY: usize = 64 << 10;
/// What the command of a deploy notes of its upstream may be as large as the ledger takes.
const MOST_REPORT: usize = MOST_NOTES + MOST_BODY;
/// Largest configuration that is planned.
const MOST_TEXT: usize = 8 << 20;
/// A command's body must be there by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long `?wait=` waits if nothing else is asked for, and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3_600));

type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

#[derive(Clone)]
struct Admin {
    handle: Handle,
    metrics: Metrics,
}

fn router(handle: Handle, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status))
        .route("/reload", post(reload))
        .route("/plan", post(plan))
        .route("/why/{id}", get(why))
        .route("/stop", post(stop))
        .route("/upgrade", post(upgrade))
        .route("/upstreams/{upstream}", put(serve_upstream))
        .route("/upstreams/{upstream}/servers", post(add))
        .route("/upstreams/{upstream}/servers/{server}", get(server).put(change).delete(remove))
        .route("/upstreams/{upstream}/swap", post(swap))
        .route("/upstreams/{upstream}/canary", put(begin_canary).delete(end_canary))
        .route("/upstreams/{upstream}/deploy", post(open_deploy).put(report_deploy).delete(end_deploy))
        .route("/upstreams/{upstream}/deploy/attach", post(attach_deploy))
        .fallback(
            |uri: Uri| async move { CommandError::NotFound { what: format!("there is nothing at {}", uri.path()) } },
        )
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            CommandError::MethodNotAllowed { message: format!("{} does not take {method}", uri.path()) }
        })
        .with_state(Admin { handle, metrics })
}

impl IntoResponse for CommandError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.refusal())).into_response();
        if matches!(self, Self::Unauthorized) {
            // RFC 6750 §3.
            let challenge = header::HeaderValue::from_static("Bearer realm=\"evenkeel admin\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    match admin.handle.phase() {
        Phase::Serving => (StatusCode::OK, "ok\n"),
        Phase::Starting => {
            (StatusCode::SERVICE_UNAVAILABLE, "starting: servers are being checked for the first time\n")
        }
        // This connection was accepted before; what listens now is the new process, which is ready.
        Phase::HandedOver => (StatusCode::OK, "ok: another process has taken over\n"),
        Phase::Draining | Phase::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "draining: evenkeel was told to stop\n"),
    }
}

async fn metrics_text(State(admin): State<Admin>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (admin.metrics)()).into_response()
}

async fn status(State(admin): State<Admin>) -> Result<Response, CommandError> {
    Ok(Json(admin.handle.status().await?).into_response())
}

async fn reload(State(admin): State<Admin>) -> Result<Response, CommandError> {
    Ok(Json(admin.handle.reload().await?).into_response())
}

async fn plan(State(admin): State<Admin>, request: Request) -> Result<Response, CommandError> {
    let plan: NewPlan = parse(&read_up_to(MOST_TEXT, request.into_body()).await?)?;
    Ok(Json(admin.handle.plan(plan).await?).into_response())
}

async fn why(State(admin): State<Admin>, path: UpstreamPath) -> Result<Response, CommandError> {
    let Path(id) = path.map_err(|error| bad(error.body_text()))?;
    Ok(Json(admin.handle.why(&id).await?).into_response())
}

async fn stop(State(admin): State<Admin>) -> Response {
    admin.handle.stop();
    (StatusCode::ACCEPTED, Json(json!({ "phase": Phase::Draining.name() }))).into_response()
}

async fn upgrade(State(admin): State<Admin>) -> Result<Response, CommandError> {
    Ok(Json(admin.handle.upgrade().await?).into_response())
}

/// What may follow the `?` of a server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    /// `drained`: answer when it is safe to stop the server.
    wait: Option<String>,
    /// Answer by then in any case.
    timeout: Option<String>,
}

type UpstreamPath = Result<Path<String>, PathRejection>;
type ServerPath = Result<Path<(String, String)>, PathRejection>;

async fn server(
    State(admin): State<Admin>,
    path: ServerPath,
    query: Result<Query<Wait>, QueryRejection>,
) -> Result<Response, CommandError> {
    let Path((upstream, server)) = path.map_err(|error| bad(error.body_text()))?;
    let Query(Wait { wait, timeout }) = query.map_err(|error| bad(error.body_text()))?;
    let limit = match timeout {
        None => WAIT.0,
        Some(text) => units::parse_duration(&text).map_err(|error| bad(format!("timeout: {error}")))?.min(WAIT.1),
    };
    let status = match wait.as_deref() {
        None => admin.handle.server(&upstream, &server).await?,
        Some("drained") => admin.handle.wait_drained(&upstream, &server, limit).await?,
        Some(other) => return Err(bad(format!("`{other}` cannot be waited for: write `wait=drained`"))),
    };
    Ok(Json(status).into_response())
}

async fn change(State(admin): State<Admin>, path: ServerPath, request: Request) -> Result<Response, CommandError> {
    let Path((upstream, server)) = path.map_err(|error| bad(error.body_text()))?;
    let change: ServerChange = json_of(request.into_body()).await?;
    Ok(Json(admin.handle.change(&upstream, &server, change).await?).into_response())
}

async fn serve_upstream(
    State(admin): State<Admin>,
    path: UpstreamPath,
    request: Request,
) -> Result<Response, CommandError> {
    let Path(upstream) = path.map_err(|error| bad(error.body_text()))?;
    let change: ServiceChange = json_of(request.into_body()).await?;
    Ok(Json(admin.handle.serve(&upstream, change).await?).into_response())
}

async fn add(State(admin): State<Admin>, path: UpstreamPath, request: Request) -> Result<Response, CommandError> {
    let Path(upstream) = path.map_err(|error| bad(error.body_text()))?;
    let server: NewServer = json_of(request.into_body()).await?;
    Ok((StatusCode::CREATED, Json(admin.handle.add(&upstream, server).await?)).into_response())
}

async fn deploy<T: DeserializeOwned>(
    admin: &Admin,
    path: UpstreamPath,
    request: Request,
    order: impl FnOnce(T) -> DeployOrder,
) -> Result<Json<Deploy>, CommandError> {
    let Path(upstream) = path.map_err(|error| bad(error.body_text()))?;
    let said: T = parse(&read_up_to(MOST_REPORT, request.into_body()).await?)?;
    Ok(Json(admin.handle.deploy(&upstream, order(said)).await?))
}

async fn open_deploy(
    State(admin): State<Admin>,
    path: UpstreamPath,
    request: Request,
) -> Result<Response, CommandError> {
    let opened = deploy(&admin, path, request, DeployOrder::Open).await?;
    Ok((StatusCode::CREATED, opened).into_response())
}

async fn report_deploy(
    State(admin): State<Admin>,
    path: UpstreamPath,
    request: Request,
) -> Result<Json<Deploy>, CommandError> {
    deploy(&admin, path, request, DeployOrder::Report).await
}

async fn attach_deploy(
    State(admin): State<Admin>,
    path: UpstreamPath,
    request: Request,
) -> Result<Json<Deploy>, CommandError> {
    deploy(&admin, path, request, DeployOrder::Attach).await
}

async fn end_deploy(
    State(admin): State<Admin>,
    path: UpstreamPath,
    request: Request,
) -> Result<Json<Deploy>, CommandError> {
    deploy(&admin, path, request, DeployOrder::End).await
}

async fn begin_canary(
    State(admin): State<Admin>,
    path: UpstreamPath,
    request: Request,
) -> Result<Response, CommandError> {
    let Path(upstream) = path.map_err(|error| bad(error.body_text()))?;
    let canary: NewCanary = json_of(request.into_body()).await?;
    Ok(Json(admin.handle.canary(&upstream, Some(canary)).await?).into_response())
}

async fn end_canary(State(admin): State<Admin>, path: UpstreamPath) -> Result<Response, CommandError> {
    let Path(upstream) = path.map_err(|error| bad(error.body_text()))?;
    Ok(Json(admin.handle.canary(&upstream, None).await?).into_response())
}

async fn swap(State(admin): State<Admin>, path: UpstreamPath, request: Request) -> Result<Response, CommandError> {
    let Path(upstream) = path.map_err(|error| bad(error.body_text()))?;
    let swap: Swap = json_of(request.into_body()).await?;
    Ok(Json(admin.handle.swap(&upstream, swap).await?).into_response())
}

async fn remove(State(admin): State<Admin>, path: ServerPath, request: Request) -> Result<Response, CommandError> {
    let Path((upstream, server)) = path.map_err(|error| bad(error.body_text()))?;
    let body = read(request.into_body()).await?;
    let deadlines = if body.is_empty() { Deadlines::default() } else { parse(&body)? };
    Ok((StatusCode::ACCEPTED, Json(admin.handle.remove(&upstream, &server, deadlines).await?)).into_response())
}

async fn json_of<T: DeserializeOwned>(body: Body) -> Result<T, CommandError> {
    parse(&read(body).await?)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, CommandError> {
    serde_json::from_slice(body).map_err(|error| bad(format!("the body is wrong: {error}")))
}

async fn read(body: Body) -> Result<Bytes, CommandError> {
    read_up_to(MOST_BODY, body).await
}

async fn read_up_to(most: usize, body: Body) -> Result<Bytes, CommandError> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(CommandError::TooLarge { most_kib: most >> 10 })
        }
        Ok(Err(error)) => Err(bad(format!("the body did not arrive: {error}"))),
        Err(_) => Err(bad("the body did not arrive in time".to_owned())),
    }
}

fn bad(message: String) -> CommandError {
    CommandError::BadRequest { message }
}

#[cfg(test)]
mod tests;

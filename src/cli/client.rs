//! A client of the admin API: one connection for each call, every call with a deadline.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use super::admin::{Admin, AdminAddress};
use super::exit::{Exit, Failure};
use crate::control::api::Refusal;

/// How long an answer may take that waits for nothing.
pub(super) const PROMPT: Duration = Duration::from_secs(10);
/// How soon a question is asked again that came to a process that another has taken over from.
const AGAIN: Duration = Duration::from_millis(50);
/// No answer of the admin API is larger; a larger one comes from something else.
const LARGEST_ANSWER: usize = 64 << 20;

/// A client of one admin API.
#[derive(Debug, Clone)]
pub(super) struct Client {
    admin: Admin,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Why there is no answer to judge.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens, or who listens does not let us in.
    #[error("{}", unreachable(address, source, doubt.as_deref()))]
    Unreachable { address: AdminAddress, source: io::Error, doubt: Option<String> },
    /// Connected, and then nothing in time.
    #[error("{address} did not answer within {} s", after.as_secs_f32())]
    Late { address: AdminAddress, after: Duration },
    /// Connected, and then something that is not HTTP/1.1.
    #[error("{address} does not answer like evenkeel's admin API: {source}")]
    Garbled { address: AdminAddress, source: Box<dyn std::error::Error + Send + Sync> },
    /// An answer that is not a success.
    #[error("{}", refused(address, *status, refusal.as_ref()))]
    Refused { address: AdminAddress, status: StatusCode, refusal: Option<Refusal> },
}

fn unreachable(address: &AdminAddress, source: &io::Error, doubt: Option<&str>) -> String {
    let advice = match source.kind() {
        io::ErrorKind::PermissionDenied => "It may be used by the user that runs evenkeel and by the socket's group",
        _ => "Is it running? Say where with --admin",
    };
    let doubt = doubt.map(|doubt| format!("{doubt}. ")).unwrap_or_default();
    format!("no evenkeel answers at {address} ({}). {doubt}{advice}", words(source))
}

/// The system's words: `(os error 2)` tells an operator nothing that the words before it do not.
pub(super) fn words(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

fn refused(address: &AdminAddress, status: StatusCode, refusal: Option<&Refusal>) -> String {
    match refusal {
        Some(refusal) if refusal.error == "unauthorized" => {
            format!("{}. Show the token with --admin-token or EVENKEEL_ADMIN_TOKEN", full_stop_off(&refusal.message))
        }
        Some(refusal) => refusal.message.clone(),
        None => format!("{address} answered {status}; is that evenkeel's admin API?"),
    }
}

fn full_stop_off(text: &str) -> &str {
    text.strip_suffix('.').unwrap_or(text)
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Refused { refusal: Some(refusal), .. } => {
                let exit = Exit::of_refusal(&refusal.error);
                match refusal.report {
                    Some(report) => Self::verbatim(exit, report),
                    None => Self::new(exit, message),
                }
            }
            ClientError::Refused { refusal: None, .. } => Self::new(Exit::Failure, message),
            _ => Self::new(Exit::AdminUnreachable, message),
        }
    }
}

impl Answer {
    /// Reads the body of a success.
    ///
    /// # Errors
    /// The refusal that the answer is, or that it is not what the admin API would say.
    pub(super) fn read<T: DeserializeOwned>(&self, client: &Client) -> Result<T, ClientError> {
        self.success(client)?;
        serde_json::from_slice(&self.body).map_err(|e| client.garbled(e))
    }

    /// Whether it is of a process that another has taken over from meanwhile.
    fn is_handed_over(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
            && serde_json::from_slice::<Refusal>(&self.body).is_ok_and(|refusal| refusal.error == "handed_over")
    }

    /// Whether it is a success.
    ///
    /// # Errors
    /// The refusal that the answer is.
    pub(super) fn success(&self, client: &Client) -> Result<(), ClientError> {
        if self.status.is_success() {
            return Ok(());
        }
        let refusal = serde_json::from_slice(&self.body).ok();
        Err(ClientError::Refused { address: client.admin.address.clone(), status: self.status, refusal })
    }
}

impl Client {
    /// A client; nothing is connected before the first call.
    #[must_use]
    pub(super) fn new(admin: Admin) -> Self {
        Self { admin }
    }

    /// Where it calls.
    #[must_use]
    pub(super) fn address(&self) -> &AdminAddress {
        &self.admin.address
    }

    /// Calls `GET path` and reads the answer.
    ///
    /// # Errors
    /// No answer within `deadline`, or one that is not a success.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, deadline: Duration) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new(), deadline).await?.read(self)
    }

    /// Calls `PUT path` with a JSON body and reads the answer.
    ///
    /// # Errors
    /// No answer within `deadline`, or one that is not a success.
    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        self.tell(Method::PUT, path, body, deadline).await
    }

    /// Calls `path` with a JSON body and reads the answer.
    ///
    /// # Errors
    /// No answer within `deadline`, or one that is not a success.
    pub(super) async fn tell<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| self.garbled(e))?;
        self.call(method, path, body.into(), deadline).await?.read(self)
    }

    /// Calls and gives back the answer, whatever its status.
    ///
    /// # Errors
    /// No answer within `deadline`.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Answer, ClientError> {
        let asked = async {
            loop {
                let request = self.request(method.clone(), path, body.clone()).map_err(|e| self.garbled(e))?;
                let answer = self.exchange(request).await?;
                if !answer.is_handed_over() {
                    return Ok(answer);
                }
                // Nothing was done, and another process answers by now.
                sleep(AGAIN).await;
            }
        };
        match timeout(deadline, asked).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::Late { address: self.admin.address.clone(), after: deadline }),
        }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
        let host = match &self.admin.address {
            AdminAddress::Unix(_) => "localhost",
            AdminAddress::Tcp(authority) => authority,
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = &self.admin.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(body))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, ClientError> {
        let unreachable = |source| {
            let Admin { address, doubt, .. } = self.admin.clone();
            ClientError::Unreachable { address, source, doubt }
        };
        match &self.admin.address {
            AdminAddress::Unix(path) => {
                self.over(TokioIo::new(UnixStream::connect(path).await.map_err(unreachable)?), request).await
            }
            AdminAddress::Tcp(authority) => {
                self.over(TokioIo::new(TcpStream::connect(authority).await.map_err(unreachable)?), request).await
            }
        }
    }

    async fn over<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<Answer, ClientError>
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|e| self.garbled(e))?;
        let connection = tokio::spawn(connection);
        let result = async {
            let answer = sender.send_request(request).await.map_err(|e| self.garbled(e))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
            Ok(Answer { status, body: body.map_err(|e| self.garbled(e))?.to_bytes() })
        }
        .await;
        connection.abort();
        result
    }

    fn garbled(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Garbled { address: self.admin.address.clone(), source: source.into() }
    }
}

#[cfg(test)]
#[path = "client/tests.rs"]
mod tests;

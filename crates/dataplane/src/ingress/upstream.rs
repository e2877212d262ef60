//! Connections to endpoints, and one request on one of them.
//!
//! A connection has no task of its own: whoever has a request on it moves it along, from the request's head to the last
//! byte of the answer. So a request costs no switch between tasks, and an idle connection costs nothing at all; that the endpoint has closed
//! one is seen when it is taken up again, before anything is sent.
//!
//! What must hold: a connection goes back to the idle ones only when its answer was read whole and it can take another request.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{body::RequestBody, endpoint::Endpoint, watchdog::Watchdog};

/// A connection that takes one request at a time.
pub struct Connection {
    sender: SendRequest<RequestBody>,
    /// The connection's own work. None: it is over.
    work: Option<Work>,
}

type Work = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// An endpoint as this process talks to it.
pub type Target = Endpoint<Connection>;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nothing of it was sent; here it is back.
    #[error("the connection was closed before the request")]
    NotSent(Box<Request<RequestBody>>),
    /// It may have been sent, in part or whole, and nothing of an answer came.
    #[error("the connection failed before the answer")]
    Failed(#[source] hyper::Error),
    /// No answer began in time.
    #[error("no answer in time")]
    Silent,
}

/// Opens a connection to the endpoint.
///
/// # Errors
/// Nobody took it in time.
pub async fn connect(target: &Target, within: Duration) -> io::Result<Connection> {
    let stream = tokio::time::timeout(within, TcpStream::connect(target.address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    let shaken = http1::Builder::new().max_header_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await;
    let (sender, work) = shaken.map_err(io::Error::other)?;
    Ok(Connection { sender, work: Some(Box::pin(work.with_upgrades())) })
}

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;

impl Connection {
    /// Whether it takes a request now, as far as is known.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.work.is_some() && self.sender.is_ready()
    }

    /// Moves it along.
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(work) = &mut self.work
            && let Poll::Ready(ended) = work.as_mut().poll(cx)
        {
            if let Err(error) = ended {
                tracing::trace!(error = %hitless_base::chain(&error), "a connection to an endpoint ended");
            }
            self.work = None;
        }
    }

    /// Looks whether the endpoint has closed it meanwhile. Costs no system call where nothing has come.
    pub async fn look(&mut self) {
        poll_fn(|cx| {
            self.poll(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// Sends the request and waits for the head of its answer, `silence_max` at most after the last sign of life.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
        watchdog: &mut Watchdog,
    ) -> Result<Response<Incoming>, SendError> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let work = &mut self.work;
        poll_fn(|cx| {
            if let Some(running) = work
                && running.as_mut().poll(cx).is_ready()
            {
                *work = None;
            }
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(|mut error| match error.take_message() {
                    Some(request) => SendError::NotSent(Box::new(request)),
                    None => SendError::Failed(error.into_error()),
                }));
            }
            watchdog.poll(cx).map(|()| Err(SendError::Silent))
        })
        .await
    }

    /// Goes on by itself, for a connection that leaves HTTP behind.
    pub fn run(mut self) {
        if let Some(work) = self.work.take() {
            tokio::spawn(async move {
                // The sender lives as long as the connection: without it the connection would end at once.
                let _sender = self.sender;
                if let Err(error) = work.await {
                    tracing::trace!(error = %hitless_base::chain(&error), "an upgraded connection ended");
                }
            });
        }
    }
}

/// A request counts as the endpoint's until this is dropped.
#[derive(Debug)]
pub struct Busy(Arc<Target>);

impl Busy {
    /// A request begins.
    #[must_use]
    pub fn new(target: Arc<Target>) -> Self {
        target.begin();
        Self(target)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The body of an endpoint's answer, which moves its connection along and gives it back at its end.
#[derive(Debug)]
pub struct Answer {
    incoming: Incoming,
    connection: Option<Connection>,
    busy: Option<Busy>,
    worker: usize,
    watchdog: Watchdog,
}

/// The body of an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The connection failed.
    #[error("the endpoint's answer broke off")]
    Broken(#[source] hyper::Error),
    /// Nothing came for too long.
    #[error("the endpoint fell silent within its answer")]
    Silent,
}

impl Answer {
    /// The body of what `connection` answered.
    #[must_use]
    pub fn new(
        incoming: Incoming,
        connection: Connection,
        busy: Busy,
        worker: usize,
        mut watchdog: Watchdog,
    ) -> Self {
        watchdog.alive();
        Self { incoming, connection: Some(connection), busy: Some(busy), worker, watchdog }
    }

    /// The answer was read whole.
    fn finish(&mut self, cx: &mut Context<'_>) {
        let (Some(mut connection), Some(busy)) = (self.connection.take(), self.busy.take()) else { return };
        connection.poll(cx);
        if connection.is_usable() {
            busy.0.keep(self.worker, connection);
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.watchdog.alive();
                // Most answers end with their first piece: the connection is free before the client has its bytes.
                if self.incoming.is_end_stream() {
                    self.finish(cx);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.connection = None;
                Poll::Ready(Some(Err(AnswerError::Broken(error))))
            }
            Poll::Ready(None) => {
                self.finish(cx);
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = self.get_mut();
        // Asking for the body is what makes the connection read it.
        if let Poll::Ready(frame) = this.poll_incoming(cx) {
            return Poll::Ready(frame);
        }
        if let Some(connection) = &mut this.connection {
            connection.poll(cx);
        }
        if let Poll::Ready(frame) = this.poll_incoming(cx) {
            return Poll::Ready(frame);
        }
        if this.watchdog.poll(cx).is_ready() {
            this.connection = None;
            return Poll::Ready(Some(Err(AnswerError::Silent)));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Answer {
    /// An answer without a body is never asked for one.
    fn drop(&mut self) {
        if self.connection.is_some() && self.incoming.is_end_stream() {
            self.finish(&mut Context::from_waker(std::task::Waker::noop()));
        }
    }
}

//! The body of a request on its way to an endpoint: bounded in length and in silence.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::watchdog::Watchdog;

/// A client may be silent for so long within a body; as nginx has it.
pub const CLIENT_SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why a body broke off, on the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// Longer than its Ingress allows.
    #[error("the request's body is too long")]
    TooLong,
    /// Nothing came for too long.
    #[error("the client fell silent within the request's body")]
    Silent,
    /// It is no body, or the client left.
    #[error("the request's body broke off")]
    Broken,
}

/// What has become of a body, for whoever has given it away.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<AtomicU8>);

impl Watch {
    /// Why it broke off, if the client's side did it.
    #[must_use]
    pub fn fault(&self) -> Option<BodyFault> {
        match self.0.load(Ordering::Relaxed) {
            1 => Some(BodyFault::TooLong),
            2 => Some(BodyFault::Silent),
            3 => Some(BodyFault::Broken),
            _ => None,
        }
    }

    fn note(&self, fault: BodyFault) {
        let word = match fault {
            BodyFault::TooLong => 1,
            BodyFault::Silent => 2,
            BodyFault::Broken => 3,
        };
        self.0.store(word, Ordering::Relaxed);
    }
}

/// The body of a request.
#[derive(Debug)]
pub enum RequestBody {
    /// None at all.
    Empty,
    /// As the client sends it.
    Streamed(Box<Streamed>),
}

/// A body that is still coming.
#[derive(Debug)]
pub struct Streamed {
    incoming: Incoming,
    /// Bytes that may still come; none: as many as it likes.
    left: Option<u64>,
    watchdog: Watchdog,
    watch: Watch,
}

impl RequestBody {
    /// With at most so many bytes.
    #[must_use]
    pub fn new(incoming: Incoming, bytes_max: Option<u64>) -> (Self, Watch) {
        let watch = Watch::default();
        if incoming.is_end_stream() {
            return (Self::Empty, watch);
        }
        let watchdog = Watchdog::new(CLIENT_SILENCE_MAX);
        let streamed = Streamed { incoming, left: bytes_max, watchdog, watch: watch.clone() };
        (Self::Streamed(Box::new(streamed)), watch)
    }

    /// Whether there is nothing to send, so that it can be sent again.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Streamed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.watchdog.alive();
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(left) = &mut self.left {
                    let Some(rest) = left.checked_sub(bytes) else {
                        return Poll::Ready(Some(Err(BodyFault::TooLong)));
                    };
                    *left = rest;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(BodyFault::Broken))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.watchdog.poll(cx).map(|()| Some(Err(BodyFault::Silent))),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streamed(streamed) => {
                let polled = streamed.poll(cx);
                if let Poll::Ready(Some(Err(fault))) = &polled {
                    streamed.watch.note(*fault);
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(streamed) => streamed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed(streamed) => streamed.incoming.size_hint(),
        }
    }
}

//! Which of a Pod's connections still wait for an answer when the Pod is withdrawn. Pure.
//!
//! Withdrawn means that nobody sends the Pod anything *new*. What was sent just before may still be on its way into the
//! process, and a process that exits at once on its stop signal would lose it. So the gate stays closed until every connection that
//! came in has had its answer, for [`ANSWERS_MS_MAX`] at the most. Idle kept-alive connections are nobody's loss and hold nothing up.

/// How long the gate waits for answers, from the moment at which the Pod is seen to be withdrawn. Milliseconds.
pub const ANSWERS_MS_MAX: u32 = 3000;
/// How often the connections are looked at meanwhile, at the most. Milliseconds.
const LOOK_AGAIN_MS: u32 = 2;
/// How often at the least.
const LOOK_AGAIN_MS_MAX: u32 = 50;
/// A client that has connected sends its request at once; one that has not within this time is no request. Milliseconds. On a
/// machine with much to do a client waits for its turn in between: more than a second was seen. Less than [`ANSWERS_MS_MAX`], so that
/// a connection that nothing comes on is not taken for a request that got no answer.
pub const FIRST_BYTE_MS_MAX: u32 = 2900;

/// One TCP connection that somebody opened to the Pod, as its kernel knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The handshake is not done.
    pub opening: bool,
    /// Received, and not read by the process.
    pub unread_bytes: u32,
    /// Received in all.
    pub received_bytes: u64,
    /// Segments with data that were sent in all.
    pub sent_segments: u32,
    /// Since data came last; since the handshake, if none ever came. Milliseconds, in the kernel's ticks.
    pub since_received_ms: u32,
    /// Since data went last; since the handshake, if none ever went.
    pub since_sent_ms: u32,
}

impl Connection {
    /// Whether somebody waits at its other end.
    #[must_use]
    pub fn waits(&self) -> bool {
        if self.opening || self.unread_bytes > 0 {
            return true;
        }
        if self.received_bytes == 0 {
            // A server that speaks first owes its greeting, and then nothing.
            return self.sent_segments == 0 && self.since_received_ms < FIRST_BYTE_MS_MAX;
        }
        // Whoever has waited for longer than the gate would wait gets no more by waiting on: a watch, a long poll.
        let unanswered = self.sent_segments == 0 || self.since_received_ms < self.since_sent_ms;
        unanswered && self.since_received_ms < ANSWERS_MS_MAX
    }
}

/// When to look again after so long a wait: most answers come at once, and one that does not is no reason to keep looking. Milliseconds.
#[must_use]
pub fn look_again_ms(waited_ms: u32) -> u32 {
    (waited_ms / 8).clamp(LOOK_AGAIN_MS, LOOK_AGAIN_MS_MAX)
}

/// How many wait for an answer.
#[must_use]
pub fn waiting(connections: &[Connection]) -> usize {
    connections.iter().filter(|connection| connection.waits()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERED: Connection = Connection {
        opening: false,
        unread_bytes: 0,
        received_bytes: 90,
        sent_segments: 1,
        since_received_ms: 8,
        since_sent_ms: 8,
    };

    #[test]
    fn who_waits_and_who_does_not() {
        let connected = Connection { received_bytes: 0, sent_segments: 0, ..ANSWERED };
        let asked = Connection { sent_segments: 0, ..ANSWERED };
        for (waits, what, connection) in [
            (true, "in its handshake", Connection { opening: true, ..Connection::default() }),
            (true, "just connected", connected),
            (
                false,
                "connected long ago, in reserve",
                Connection { since_received_ms: FIRST_BYTE_MS_MAX, ..connected },
            ),
            (false, "greeted by the server", Connection { sent_segments: 1, ..connected }),
            (true, "asked, nothing answered", asked),
            (true, "not even read", Connection { unread_bytes: 1, since_received_ms: 60_000, ..ANSWERED }),
            (false, "answered", ANSWERED),
            (
                false,
                "answered and idle",
                Connection { since_received_ms: 9_004, since_sent_ms: 9_000, ..ANSWERED },
            ),
            (
                true,
                "the next request on a kept-alive connection",
                Connection { since_sent_ms: 500, ..ANSWERED },
            ),
            (
                false,
                "a long poll that nothing came for",
                Connection { since_received_ms: ANSWERS_MS_MAX, since_sent_ms: 90_000, ..ANSWERED },
            ),
        ] {
            assert_eq!(connection.waits(), waits, "{what}: {connection:?}");
        }
        assert_eq!(waiting(&[ANSWERED, asked, connected]), 2);
    }
}

//! The server's side of a WebSocket: every message comes back as it is, pings are answered, and the end is said before the close.
//!
//! What must hold: after its own close frame nothing more is written, and nothing is read on that is not written yet, so a client
//! that does not read what it gets is held up by its own connection and fills no memory here.

use crate::ws::{self, Event, Reader};

/// A WebSocket that echoes.
pub struct Echo {
    reader: Reader,
    over: bool,
}

impl Echo {
    /// Just opened.
    pub fn new() -> Self {
        Self { reader: Reader::of_client(), over: false }
    }

    /// What is to be written next because of what was read; `None` if more must be read first.
    pub fn next(&mut self, input: &mut Vec<u8>) -> Option<Vec<u8>> {
        if self.over {
            return None;
        }
        Some(match self.reader.next(input) {
            Event::More => return None,
            Event::Message(kind, payload) => ws::message(kind, &payload, None),
            Event::Ping(payload) => ws::pong(&payload, None),
            Event::Close(code) => {
                self.over = true;
                ws::close(code, None)
            }
            Event::Wrong(code, _) => {
                self.over = true;
                ws::close(Some(code), None)
            }
        })
    }

    /// The close frame has been given out: the connection is to be closed once it is written.
    pub fn is_over(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::Kind;

    const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

    #[test]
    fn messages_come_back_until_the_close_and_nothing_after_it() {
        let mut echo = Echo::new();
        let mut input = ws::message(Kind::Text, b"one", MASK);
        input.extend(ws::close(Some(4001), MASK));
        input.extend(ws::message(Kind::Text, b"two", MASK));
        assert_eq!(echo.next(&mut input), Some(ws::message(Kind::Text, b"one", None)));
        assert!(!echo.is_over());
        assert_eq!(echo.next(&mut input), Some(ws::close(Some(4001), None)));
        assert!(echo.is_over());
        assert_eq!(echo.next(&mut input), None);
    }

    #[test]
    fn a_wrong_frame_is_the_end() {
        let mut echo = Echo::new();
        let mut input = ws::message(Kind::Text, b"not masked", None);
        assert_eq!(echo.next(&mut input), Some(ws::close(Some(ws::WRONG), None)));
        assert!(echo.is_over());
    }
}

//! The wire format: fields by number, each a varint, eight or four bytes, or a run of bytes.

/// Why bytes are not the wire format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("it breaks off")]
    Short,
    #[error("a number is longer than 64 bits")]
    Long,
    #[error("wire type {0} is not in use")]
    Type(u64),
}

/// A field's value as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raw<'b> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'b [u8]),
    /// Four bytes; no field of Kubernetes uses them.
    Fixed32,
}

/// Reads field by field. Ends after an error.
pub(super) struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?.first().copied().ok_or(WireError::Short)?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(WireError::Long)
    }

    fn field(&mut self) -> Result<(u64, Raw<'b>), WireError> {
        let tag = self.varint()?;
        let raw = match tag & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Raw::Fixed64(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
            }
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| WireError::Short)?;
                Raw::Bytes(self.take(len)?)
            }
            5 => {
                self.take(4)?;
                Raw::Fixed32
            }
            other => return Err(WireError::Type(other)),
        };
        Ok((tag >> 3, raw))
    }
}

impl<'b> Iterator for Reader<'b> {
    type Item = Result<(u64, Raw<'b>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = b"";
        }
        Some(field)
    }
}

/// Numbers one after another.
pub(super) fn packed(bytes: &[u8]) -> impl Iterator<Item = Result<u64, WireError>> + '_ {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(move || {
        if reader.rest.is_empty() {
            return None;
        }
        let number = reader.varint();
        if number.is_err() {
            reader.rest = b"";
        }
        Some(number)
    })
}

//! Who said what: `metadata.managedFields`, and server-side apply.
//!
//! Each author of an object has an entry with the set of fields that they own. Whoever writes a field owns it; whoever
//! *applies* an object states all that they want, so what they stated before and do not any more goes (unless
//! somebody else owns it), and another value for a field that somebody else owns is a conflict.
//! See <https://kubernetes.io/docs/reference/using-api/server-side-apply/>.
//!
//! Pure: objects in, objects out. Invariant: an entry whose set is empty is not kept; the count of entries is bounded.

mod managers;
mod set;
mod typed;

pub use managers::{ApplyError, Conflict, Writer, apply, note_update};
pub use set::{FieldSet, Step, field_step};
pub use typed::TypedError;

#[cfg(test)]
mod tests;

//! The query string: Kubernetes' parameters, read once.

use crate::fault::Fault;

/// Query parameters in the order in which they came, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads a query string. Text that is not UTF-8 after decoding is taken with replacement characters.
    pub(crate) fn parse(raw: Option<&str>) -> Self {
        let pairs = raw
            .unwrap_or_default()
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                (decode(name, true), decode(value, true))
            })
            .collect();
        Self { pairs }
    }

    /// The first value of a parameter, if it is there and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// Every value of a parameter.
    pub(crate) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A switch. As in Kubernetes, `0` and `false` are false and whatever else is there is true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        match self.pairs.iter().find(|(n, _)| n == name) {
            None => false,
            Some((_, value)) => !matches!(value.to_ascii_lowercase().as_str(), "0" | "false" | "f"),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// 400 when it is not one.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Fault> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    Fault::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax ({name})"))
                })
            })
            .transpose()
    }

    /// Whether nothing is to be kept: `dryRun=All`.
    ///
    /// # Errors
    /// 422 for any other value.
    pub(crate) fn dry_run(&self) -> Result<bool, Fault> {
        match self.all("dryRun").find(|v| *v != "All") {
            Some(other) if !other.is_empty() => Err(Fault::invalid_options(
                "Options",
                &format!("dryRun: Unsupported value: {other:?}: supported values: \"All\""),
            )),
            _ => Ok(self.all("dryRun").any(|v| v == "All")),
        }
    }
}

/// Percent-decoding; `+` is a space in query strings only.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'+' if plus_is_space => out.push(b' '),
            b'%' => {
                let ahead = rest.as_slice();
                let code = ahead.first().zip(ahead.get(1)).and_then(|(&high, &low)| {
                    let high = char::from(high).to_digit(16)?;
                    let low = char::from(low).to_digit(16)?;
                    u8::try_from(high * 16 + low).ok()
                });
                match code {
                    Some(code) => {
                        out.push(code);
                        rest.nth(1);
                    }
                    None => out.push(b'%'),
                }
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query =
            Query::parse(Some("labelSelector=a%3Db%2Cc+in+%28d%29&watch=true&x=%zz&limit=5&dryRun=All"));
        assert_eq!(query.get("labelSelector"), Some("a=b,c in (d)"));
        assert!(query.flag("watch"));
        assert!(!query.flag("pretty"));
        assert_eq!(query.get("x"), Some("%zz"));
        assert_eq!(query.number("limit"), Ok(Some(5)));
        assert_eq!(query.dry_run(), Ok(true));
        assert!(Query::parse(Some("limit=x")).number("limit").is_err());
        assert!(Query::parse(Some("dryRun=Some")).dry_run().is_err());
        assert!(!Query::parse(Some("watch=0")).flag("watch"));
    }
}

//! Flags as `--name value` or `--name=value`; every unknown or malformed one is refused in one sentence.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

/// The flags that were given, each at most once.
pub struct Flags(BTreeMap<String, String>);

impl Flags {
    /// Reads the words; refuses a flag that is not in `known`.
    pub fn parse(words: &[String], known: &[&str]) -> Result<Self, String> {
        let mut flags = BTreeMap::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(rest) = word.strip_prefix("--") else {
                return Err(format!("expected a flag, found {word:?}"));
            };
            let (name, value) = match rest.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => {
                    (rest.to_owned(), words.next().ok_or_else(|| format!("--{rest} needs a value"))?.clone())
                }
            };
            if !known.contains(&name.as_str()) {
                return Err(format!("--{name} is not known here; known are --{}", known.join(", --")));
            }
            if flags.insert(name.clone(), value).is_some() {
                return Err(format!("--{name} is given twice"));
            }
        }
        Ok(Self(flags))
    }

    /// The flag's text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The flag's text; an error where it is missing.
    pub fn required(&self, name: &str) -> Result<&str, String> {
        self.text(name).ok_or_else(|| format!("--{name} is missing"))
    }

    /// The flag as a number, or `default`.
    pub fn number_or<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        self.text(name).map_or(Ok(default), |text| number(name, text))
    }

    /// The flag as seconds (fractions allowed), or `default`.
    pub fn seconds_or(&self, name: &str, default: Duration) -> Result<Duration, String> {
        self.text(name).map_or(Ok(default), |text| seconds(name, text))
    }
}

/// A whole number.
pub fn number<T: FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name}: {text:?} is not a number in range"))
}

/// Seconds, fractions allowed, from 0 to a day.
pub fn seconds(name: &str, text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.0..=86_400.0).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err(format!("{name}: {text:?} is not a number of seconds from 0 to 86400")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn flags_come_with_a_space_or_an_equals_sign() {
        let flags = Flags::parse(&words("--port 80 --mode=new"), &["port", "mode"]).unwrap();
        assert_eq!(flags.number_or("port", 1), Ok(80_u16));
        assert_eq!(flags.text("mode"), Some("new"));
        assert_eq!(flags.number_or("other", 7), Ok(7));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, want) in [
            ("--port", "needs a value"),
            ("--prot 1", "not known"),
            ("port 1", "expected a flag"),
            ("--port 1 --port 2", "given twice"),
        ] {
            let error = Flags::parse(&words(text), &["port"]).err().unwrap();
            assert!(error.contains(want), "{text}: {error}");
        }
        assert!(number::<u16>("port", "70000").is_err());
        assert!(seconds("s", "-1").is_err() && seconds("s", "NaN").is_err());
    }
}

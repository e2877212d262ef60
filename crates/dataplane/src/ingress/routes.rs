//! Which rule a request's host and path meet: built once from the Ingresses, then only read.
//!
//! The order, as the Ingress API documents it: an exact host before a wildcard before none; within the host an exact path before a
//! prefix, and the longest prefix first. What meets no path of its host goes to the default backend of an Ingress that has the host, else to
//! that of any Ingress. Where two Ingresses claim the same, the older has it (then the first by name).

use std::{borrow::Cow, collections::HashMap};

use super::{
    path,
    records::{BackendRef, IngressRecord, TlsRecord},
    settings::Settings,
};

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index among the backends. None: a rule whose backend is no Service.
    pub backend: Option<usize>,
    /// Limits of its Ingress.
    pub settings: Settings,
}

/// Every rule, ready to be looked up.
#[derive(Debug, Default)]
pub struct Routes {
    /// By whole host name.
    hosts: HashMap<Box<str>, Paths>,
    /// By what follows the first label, with its dot.
    wildcards: HashMap<Box<str>, Paths>,
    any_host: Paths,
    default: Option<Route>,
}

#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Route>,
    /// Without slashes at their ends.
    prefixes: HashMap<Box<str>, Route>,
    /// Of the longest prefix.
    bytes_max: usize,
    /// Of the Ingresses with this host.
    default: Option<Route>,
}

/// What follows from the Ingresses alone.
#[derive(Debug, Default)]
pub struct Routing {
    /// The rules.
    pub routes: Routes,
    /// Every backend that a rule names, each once.
    pub backends: Vec<BackendRef>,
    /// Every certificate that is asked for, the oldest Ingress's first.
    pub tls: Vec<TlsRecord>,
}

impl Routing {
    /// From the Ingresses that are served here, in any order.
    #[must_use]
    pub fn build<'a>(ingresses: impl Iterator<Item = &'a IngressRecord>) -> Self {
        let mut ingresses: Vec<_> = ingresses.collect();
        ingresses.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
        let mut routing = Self::default();
        let mut numbers = HashMap::new();
        for ingress in ingresses {
            let Self { routes, backends, tls } = &mut routing;
            let mut route = |backend: Option<&BackendRef>| {
                let number = backend.map(|backend| {
                    *numbers.entry(backend.clone()).or_insert_with(|| {
                        backends.push(backend.clone());
                        backends.len() - 1
                    })
                });
                Route { backend: number, settings: ingress.settings }
            };
            let default = ingress.default.as_ref().map(|backend| route(Some(backend)));
            for rule in &ingress.rules {
                let route = route(rule.backend.as_ref());
                let paths = routes.paths(rule.host.as_deref());
                paths.default = paths.default.or(default);
                paths.add(&rule.path, rule.exact, route);
            }
            routes.default = routes.default.or(default);
            tls.extend(ingress.tls.iter().cloned());
        }
        routing
    }
}

impl Paths {
    fn add(&mut self, path: &str, exact: bool, route: Route) {
        // A rule is brought to the same form as the paths that it is compared with.
        let path = path::plain(path).unwrap_or(Cow::Borrowed(path));
        if exact {
            self.exact.entry(path.into()).or_insert(route);
        } else {
            let prefix = path::prefix(&path);
            self.bytes_max = self.bytes_max.max(prefix.len());
            self.prefixes.entry(prefix.into()).or_insert(route);
        }
    }

    fn find(&self, path: &str) -> Option<Route> {
        if !self.exact.is_empty()
            && let Some(route) = self.exact.get(path)
        {
            return Some(*route);
        }
        path::prefixes(path, self.bytes_max).find_map(|prefix| self.prefixes.get(prefix)).copied()
    }
}

impl Routes {
    fn paths(&mut self, host: Option<&str>) -> &mut Paths {
        match host {
            None => &mut self.any_host,
            Some(host) => match host.strip_prefix('*') {
                Some(suffix) => self.wildcards.entry(suffix.into()).or_default(),
                None => self.hosts.entry(host.into()).or_default(),
            },
        }
    }

    /// The route of a request; `host` as [`host_name`] gives it, `path` as [`path::plain`] does.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<Route> {
        let paths = self.paths_of(host);
        paths.find(path).or(paths.default).or(self.default)
    }

    fn paths_of(&self, host: &str) -> &Paths {
        let exact = if self.hosts.is_empty() { None } else { self.hosts.get(host) };
        exact.or_else(|| by_wildcard(&self.wildcards, host)).unwrap_or(&self.any_host)
    }
}

/// What a map of `*.example.org`, kept as `.example.org`, holds for a host: the star stands for exactly one label.
pub fn by_wildcard<'a, T>(map: &'a HashMap<Box<str>, T>, host: &str) -> Option<&'a T> {
    if map.is_empty() {
        return None;
    }
    let dot = host.find('.').filter(|at| *at > 0)?;
    map.get(host.get(dot..)?)
}

/// The name in a Host header or an authority: in lower case, without port and without the dot at its end.
#[must_use]
pub fn host_name(authority: &str) -> Cow<'_, str> {
    let name = if authority.starts_with('[') {
        authority.split_inclusive(']').next().unwrap_or(authority)
    } else {
        authority.split(':').next().unwrap_or(authority)
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use hitless_base::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    fn ingress(name: &str, second: i64, spec: &Value) -> IngressRecord {
        let object = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
        let mut record = IngressRecord::of(&serde_json::from_value(object).unwrap());
        record.created = Timestamp::from_second(second).unwrap();
        record
    }

    fn path(path: &str, kind: &str, service: &str) -> Value {
        json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"number": 80}}}})
    }

    fn default(service: &str) -> Value {
        json!({"service": {"name": service, "port": {"name": "web"}}})
    }

    /// The Service that a request meets.
    fn meets(ingresses: &[IngressRecord], host: &str, request: &str) -> String {
        let routing = Routing::build(ingresses.iter());
        let plain = path::plain(request).unwrap();
        let Some(route) = routing.routes.find(&host_name(host), &plain) else { return "404".to_owned() };
        let Some(backend) = route.backend else { return "503".to_owned() };
        routing.backends[backend].service.trim_start_matches("ns/").to_owned()
    }

    #[test]
    fn paths_match_as_the_api_documents_them() {
        // The table of the Ingress documentation, and what it leaves open.
        for (kind, rule, request, matches) in [
            ("Prefix", "/", "/any/path", true),
            ("Exact", "/foo", "/foo", true),
            ("Exact", "/foo", "/bar", false),
            ("Exact", "/foo", "/foo/", false),
            ("Exact", "/foo/", "/foo", false),
            ("Prefix", "/foo", "/foo", true),
            ("Prefix", "/foo", "/foo/", true),
            ("Prefix", "/foo/", "/foo", true),
            ("Prefix", "/foo/", "/foo/", true),
            ("Prefix", "/aaa/bb", "/aaa/bbb", false),
            ("Prefix", "/aaa/bbb", "/aaa/bbb", true),
            ("Prefix", "/aaa/bbb/", "/aaa/bbb", true),
            ("Prefix", "/aaa/bbb", "/aaa/bbb/ccc", true),
            ("Prefix", "/aaa/bbb", "/aaa/bbbxyz", false),
            ("Prefix", "/foo", "/Foo", false),
            ("ImplementationSpecific", "/foo", "/foo/bar", true),
            ("Prefix", "/foo", "/bar/../foo/x", true),
            ("Prefix", "/foo", "/%66oo", true),
            ("Prefix", "/foo", "/foo/../bar", false),
        ] {
            let one = [ingress("a", 0, &json!({"rules": [{"http": {"paths": [path(rule, kind, "s")]}}]}))];
            let want = if matches { "s" } else { "404" };
            assert_eq!(meets(&one, "h", request), want, "{kind} {rule} {request}");
        }
    }

    #[test]
    fn the_longest_path_wins_and_exact_before_prefix() {
        let paths = [
            path("/", "Prefix", "root"),
            path("/aaa", "Prefix", "aaa"),
            path("/aaa/bbb", "Prefix", "bbb"),
            path("/aaa/bbb", "Exact", "exact"),
        ];
        let one = [ingress("a", 0, &json!({"rules": [{"http": {"paths": paths}}]}))];
        for (request, want) in [
            ("/", "root"),
            ("/x", "root"),
            ("/aaa", "aaa"),
            ("/aaa/ccc", "aaa"),
            ("/aaa/bbb", "exact"),
            ("/aaa/bbb/", "bbb"),
            ("/aaa/bbb/c/d/e/f/g", "bbb"),
        ] {
            assert_eq!(meets(&one, "h", request), want, "{request}");
        }
    }

    #[test]
    fn the_most_specific_host_decides() {
        let rules = json!([
            {"host": "Foo.example.org", "http": {"paths": [path("/a", "Prefix", "foo")]}},
            {"host": "*.example.org", "http": {"paths": [path("/", "Prefix", "star")]}},
            {"http": {"paths": [path("/", "Prefix", "any")]}},
        ]);
        let one = [ingress("a", 0, &json!({"rules": rules}))];
        for (host, request, want) in [
            ("foo.example.org", "/a", "foo"),
            ("FOO.example.org:8080", "/a", "foo"),
            ("foo.example.org.", "/a", "foo"),
            ("foo.example.org", "/b", "404"),
            ("bar.example.org", "/a", "star"),
            ("x.bar.example.org", "/a", "any"),
            ("example.org", "/a", "any"),
            (".example.org", "/a", "any"),
            ("", "/a", "any"),
            ("[::1]:80", "/a", "any"),
        ] {
            assert_eq!(meets(&one, host, request), want, "{host}{request}");
        }
    }

    #[test]
    fn what_meets_no_rule_goes_to_a_default_backend() {
        let rules = |host: &str| json!([{"host": host, "http": {"paths": [path("/x", "Exact", "x")]}}]);
        let all = [
            ingress("c", 3, &json!({"defaultBackend": default("late")})),
            ingress("b", 2, &json!({"defaultBackend": default("own"), "rules": rules("b.org")})),
            ingress("a", 1, &json!({"rules": rules("a.org")})),
        ];
        assert_eq!(meets(&all, "b.org", "/x"), "x");
        assert_eq!(meets(&all, "b.org", "/y"), "own");
        assert_eq!(meets(&all, "a.org", "/y"), "own", "the oldest that there is");
        assert_eq!(meets(&all[..1], "a.org", "/y"), "late");
        assert_eq!(meets(&all[2..], "a.org", "/y"), "404");
        let none = [ingress(
            "n",
            0,
            &json!({"rules": [{"http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": {"resource": {"kind": "Bucket", "name": "b"}}}]}}]}),
        )];
        assert_eq!(meets(&none, "h", "/"), "503");
    }

    #[test]
    fn of_two_that_claim_the_same_the_older_has_it() {
        let spec = |service: &str| json!({"rules": [{"http": {"paths": [path("/", "Prefix", service)]}}]});
        let all = [ingress("a", 2, &spec("late")), ingress("b", 1, &spec("early"))];
        assert_eq!(meets(&all, "h", "/"), "early");
        let same = [ingress("b", 1, &spec("b")), ingress("a", 1, &spec("a"))];
        assert_eq!(meets(&same, "h", "/"), "a");
    }
}

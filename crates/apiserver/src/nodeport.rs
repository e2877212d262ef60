//! Node ports: which are taken, by whom, and what a write of a Service does to them. The stored Services are the truth; this is
//! filled from them at start.
//!
//! What must hold: a number belongs to one Service at a time (which may use it once for each protocol), a number that a failed
//! write took is free again, and an update that does not mention a number keeps it.

use std::collections::{BTreeSet, HashMap};

use hitless_types::{field::FieldError, kinds::Kind};
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::{
    codec::{child_mut, text},
    core::Core,
    fault::Fault,
};

const FIRST: u16 = 30_000;
const LAST: u16 = 32_767;

/// The numbers that Services hold, each with its Service's uid.
#[derive(Default)]
pub(crate) struct NodePorts {
    taken: Mutex<HashMap<u16, String>>,
}

/// Why a wanted number cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PortError {
    /// It lies elsewhere.
    #[error("provided port is not in the valid range. The range of valid ports is {FIRST}-{LAST}")]
    OutOfRange,
    /// Somebody has it.
    #[error("provided port is already allocated")]
    Taken,
    /// Nothing is left.
    #[error("failed to allocate a nodePort: range is full")]
    Full,
}

impl NodePorts {
    /// Takes the wanted number for the Service with this uid.
    pub(crate) fn take(&self, wanted: i64, uid: &str) -> Result<u16, PortError> {
        let port = u16::try_from(wanted).ok().filter(|port| (FIRST..=LAST).contains(port));
        let port = port.ok_or(PortError::OutOfRange)?;
        let mut taken = self.taken.lock();
        match taken.get(&port) {
            Some(owner) if owner != uid => Err(PortError::Taken),
            _ => {
                taken.insert(port, uid.to_owned());
                Ok(port)
            }
        }
    }

    /// Takes some free number for the Service with this uid.
    fn take_any(&self, uid: &str) -> Result<u16, PortError> {
        let mut taken = self.taken.lock();
        let count = LAST - FIRST + 1;
        // From a random place on, so that a number that was just given back is not given out at once.
        let start = rand::random_range(0..count);
        let free =
            (0..count).map(|step| FIRST + (start + step) % count).find(|port| !taken.contains_key(port));
        let free = free.ok_or(PortError::Full)?;
        taken.insert(free, uid.to_owned());
        Ok(free)
    }

    fn give_back(&self, port: u16, uid: &str) {
        let mut taken = self.taken.lock();
        if taken.get(&port).is_some_and(|owner| owner == uid) {
            taken.remove(&port);
        }
    }
}

/// Numbers that were taken for a write. Given back when dropped, unless the write was done.
pub(crate) struct Taken<'c> {
    core: &'c Core,
    ports: Vec<u16>,
    uid: String,
}

impl Taken<'_> {
    /// The write was done.
    pub(crate) fn keep(mut self) {
        self.ports.clear();
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for port in &self.ports {
            self.core.node_ports.give_back(*port, &self.uid);
        }
    }
}

/// The numbers that a Service holds.
pub(crate) fn held(service: &Value) -> BTreeSet<i64> {
    ports(service).map(number).filter(|port| *port != 0).collect()
}

fn ports(service: &Value) -> impl Iterator<Item = &Value> {
    service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten()
}

fn number(port: &Value) -> i64 {
    port.get("nodePort").and_then(Value::as_i64).unwrap_or_default()
}

fn is_outward(service: &Value) -> bool {
    matches!(text(service, "/spec/type"), "NodePort" | "LoadBalancer")
}

/// Whether a Service gets numbers that it does not name.
fn wants_any(service: &Value) -> bool {
    let on_demand = service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    match text(service, "/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => !on_demand,
        _ => false,
    }
}

/// Gives a Service the numbers that it needs and `old` did not have. Two ports of one number and different protocols share theirs.
///
/// # Errors
/// 422 when a wanted number cannot be had; 500 when none is left.
pub(crate) fn reserve<'c>(
    core: &'c Core,
    kind: &Kind,
    old: Option<&Value>,
    new: &mut Value,
) -> Result<Option<Taken<'c>>, Fault> {
    if !is_outward(new) {
        return Ok(None);
    }
    let name = text(new, "/metadata/name").to_owned();
    let before = old.map(held).unwrap_or_default();
    let mut taken = Taken { core, ports: Vec::new(), uid: text(new, "/metadata/uid").to_owned() };
    let mut by_port: HashMap<i64, i64> = HashMap::new();
    // What is named goes first, so that nothing of it is given to a port that takes any.
    for (i, port) in ports(new).enumerate().filter(|(_, port)| number(port) != 0) {
        let wanted = number(port);
        by_port.entry(port_of(port)).or_insert(wanted);
        if before.contains(&wanted) || taken.ports.iter().any(|had| i64::from(*had) == wanted) {
            continue;
        }
        let had = core.node_ports.take(wanted, &taken.uid).map_err(|error| {
            let at = format!("spec.ports[{i}].nodePort");
            Fault::invalid(kind, &name, vec![FieldError::invalid(at, wanted, &error.to_string())])
        })?;
        taken.ports.push(had);
    }
    if wants_any(new) {
        let list = child_mut(new, "spec").get_mut("ports").and_then(Value::as_array_mut);
        for port in list.into_iter().flatten().filter(|port| number(port) == 0) {
            let given = match by_port.get(&port_of(port)) {
                Some(shared) => *shared,
                None => {
                    let had = core.node_ports.take_any(&taken.uid).map_err(Fault::internal)?;
                    taken.ports.push(had);
                    i64::from(had)
                }
            };
            by_port.insert(port_of(port), given);
            if let Some(fields) = port.as_object_mut() {
                fields.insert("nodePort".to_owned(), given.into());
            }
        }
    }
    Ok(Some(taken))
}

fn port_of(port: &Value) -> i64 {
    port.get("port").and_then(Value::as_i64).unwrap_or_default()
}

/// Keeps the numbers that an update does not mention, by the names of the ports; and lets go of what only a Service of the former type has.
pub(crate) fn keep_or_drop(old: &Value, new: &mut Value) {
    if wants_any(old) && wants_any(new) {
        let mut used: BTreeSet<i64> = held(old).intersection(&held(new)).copied().collect();
        let by_name: HashMap<String, i64> =
            ports(old).map(|port| (text(port, "/name").to_owned(), number(port))).collect();
        for port in ports_mut(new).into_iter().flatten().filter(|port| number(port) == 0) {
            let former = by_name.get(text(port, "/name")).copied().unwrap_or_default();
            if former != 0
                && used.insert(former)
                && let Some(fields) = port.as_object_mut()
            {
                fields.insert("nodePort".to_owned(), former.into());
            }
        }
    }
    if is_outward(old) && !is_outward(new) {
        if held(old) == held(new) {
            for port in ports_mut(new).into_iter().flatten().filter_map(Value::as_object_mut) {
                port.shift_remove("nodePort");
            }
        }
        for field in ["externalTrafficPolicy", "allocateLoadBalancerNodePorts"] {
            let before = old.get("spec").and_then(|spec| spec.get(field));
            let spec: &mut Map<String, Value> = child_mut(new, "spec");
            if before.is_some() && spec.get(field) == before {
                spec.shift_remove(field);
            }
        }
    }
}

fn ports_mut(service: &mut Value) -> Option<&mut Vec<Value>> {
    service.pointer_mut("/spec/ports").and_then(Value::as_array_mut)
}

/// Gives back what a Service held that is gone or has let go of it.
pub(crate) fn release(core: &Core, old: &Value, new: Option<&Value>) {
    let left = new.map(held).unwrap_or_default();
    for port in held(old).difference(&left).filter_map(|port| u16::try_from(*port).ok()) {
        core.node_ports.give_back(port, text(old, "/metadata/uid"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_has_one_owner_and_can_be_given_back() {
        let ports = NodePorts::default();
        assert_eq!(ports.take(30_080, "a"), Ok(30_080));
        assert_eq!(ports.take(30_080, "a"), Ok(30_080), "for its other protocol");
        assert_eq!(ports.take(30_080, "b"), Err(PortError::Taken));
        for outside in [0, 29_999, 32_768, 65_536 + 30_001, -1] {
            assert_eq!(ports.take(outside, "b"), Err(PortError::OutOfRange), "{outside}");
        }
        for _ in 1..2768 {
            ports.take_any("c").unwrap();
        }
        assert_eq!(ports.take_any("c"), Err(PortError::Full));
        ports.give_back(30_080, "c");
        assert_eq!(ports.take_any("c"), Err(PortError::Full), "it is not c's");
        ports.give_back(30_080, "a");
        assert_eq!(ports.take_any("c"), Ok(30_080));
    }

    #[test]
    fn an_update_keeps_numbers_by_name_and_a_change_of_type_drops_them() {
        let service = |type_: &str, ports: Value| json!({"spec": {"type": type_, "externalTrafficPolicy": "Cluster", "ports": ports}});
        let old = service(
            "NodePort",
            json!([{"name": "a", "port": 80, "nodePort": 30_001}, {"name": "b", "port": 81, "nodePort": 30_002}]),
        );
        let mut new = service(
            "NodePort",
            json!([{"name": "b", "port": 82}, {"name": "c", "port": 83}, {"name": "a", "port": 80, "nodePort": 30_009}]),
        );
        keep_or_drop(&old, &mut new);
        let numbers: Vec<i64> = ports(&new).map(number).collect();
        assert_eq!(numbers, [30_002, 0, 30_009]);

        let mut inward = service("ClusterIP", old["spec"]["ports"].clone());
        keep_or_drop(&old, &mut inward);
        assert_eq!(
            inward["spec"],
            json!({"type": "ClusterIP", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]})
        );
        let mut changed = service("ClusterIP", json!([{"name": "a", "port": 80, "nodePort": 30_005}]));
        keep_or_drop(&old, &mut changed);
        assert_eq!(held(&changed), BTreeSet::from([30_005]), "validation is to refuse it");
    }
}

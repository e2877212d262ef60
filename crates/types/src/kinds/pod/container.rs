//! What is wrong with one container.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerPort, EnvVar, ExecAction, HTTPGetAction, LifecycleHandler, Probe,
        ResourceRequirements, TCPSocketAction, VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity as Text, util::intstr::IntOrString},
};

use super::validate::{check_name, check_word};
use crate::{field::FieldError, names, quantity::Quantity};

/// What a container may refer to in its Pod.
pub(super) struct Scene<'a> {
    /// Names of the Pod's volumes.
    pub(super) volumes: &'a [String],
    /// The Pod's grace period in seconds.
    pub(super) grace_s: i64,
}

pub(super) fn validate(
    at: &str,
    container: &Container,
    scene: &Scene<'_>,
    seen: &mut Vec<String>,
    faults: &mut Vec<FieldError>,
) {
    if container.name.is_empty() {
        faults.push(FieldError::required(format!("{at}.name"), ""));
    } else {
        check_name(format!("{at}.name"), &container.name, names::dns1123_label_faults, faults);
        if seen.contains(&container.name) {
            faults.push(FieldError::duplicate(format!("{at}.name"), container.name.as_str()));
        }
        seen.push(container.name.clone());
    }
    match container.image.as_deref().unwrap_or_default() {
        "" => faults.push(FieldError::required(format!("{at}.image"), "")),
        image if image.trim() != image => {
            faults.push(FieldError::invalid(
                format!("{at}.image"),
                image,
                "must not have leading or trailing whitespace",
            ));
        }
        _ => {}
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    check_word(format!("{at}.imagePullPolicy"), container.image_pull_policy.as_deref(), &policies, faults);
    let messages = ["FallbackToLogsOnError", "File"];
    check_word(
        format!("{at}.terminationMessagePolicy"),
        container.termination_message_policy.as_deref(),
        &messages,
        faults,
    );
    check_ports(at, container.ports.as_deref().unwrap_or_default(), faults);
    for (i, env) in container.env.iter().flatten().enumerate() {
        check_env(&format!("{at}.env[{i}]"), env, faults);
    }
    for (i, source) in container.env_from.iter().flatten().enumerate() {
        let count = usize::from(source.config_map_ref.is_some()) + usize::from(source.secret_ref.is_some());
        if count != 1 {
            let words = if count == 0 {
                "must specify one of: `configMapRef` or `secretRef`"
            } else {
                "may not have more than one field specified at a time"
            };
            faults.push(FieldError::invalid(format!("{at}.envFrom[{i}]"), "", words));
        }
    }
    check_mounts(at, container.volume_mounts.as_deref().unwrap_or_default(), scene, faults);
    check_probes_and_hooks(at, container, scene.grace_s, faults);
    check_resources(&format!("{at}.resources"), &container.resources.clone().unwrap_or_default(), faults);
}

fn check_probes_and_hooks(at: &str, container: &Container, grace_s: i64, faults: &mut Vec<FieldError>) {
    for (name, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        if let Some(probe) = probe {
            check_probe(&format!("{at}.{name}"), probe, name == "readinessProbe", faults);
        }
    }
    let lifecycle = container.lifecycle.as_ref();
    for (name, hook) in [
        ("postStart", lifecycle.and_then(|l| l.post_start.as_ref())),
        ("preStop", lifecycle.and_then(|l| l.pre_stop.as_ref())),
    ] {
        if let Some(hook) = hook {
            check_hook(&format!("{at}.lifecycle.{name}"), hook, grace_s, faults);
        }
    }
}

/// Rules for init containers beyond those for all.
pub(super) fn validate_init(at: &str, container: &Container, sidecar: bool, faults: &mut Vec<FieldError>) {
    let policy = container.restart_policy.as_deref();
    check_word(format!("{at}.restartPolicy"), policy, &["Always", "Never", "OnFailure"], faults);
    if sidecar {
        return;
    }
    for (field, given) in [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ] {
        if given {
            let words = "may not be set for init containers without restartPolicy=Always";
            faults.push(FieldError::forbidden(format!("{at}.{field}"), words));
        }
    }
}

fn check_number(field: String, port: i32, faults: &mut Vec<FieldError>) {
    faults.extend(
        names::port_number_faults(port.into())
            .into_iter()
            .map(|f| FieldError::invalid(field.as_str(), port, &f)),
    );
}

fn check_ports(at: &str, ports: &[ContainerPort], faults: &mut Vec<FieldError>) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let at = format!("{at}.ports[{i}]");
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            check_name(format!("{at}.name"), name, names::port_name_faults, faults);
            if seen.contains(&name) {
                faults.push(FieldError::duplicate(format!("{at}.name"), name));
            }
            seen.push(name);
        }
        if port.container_port == 0 {
            faults.push(FieldError::required(format!("{at}.containerPort"), ""));
        } else {
            check_number(format!("{at}.containerPort"), port.container_port, faults);
        }
        if let Some(host_port) = port.host_port.filter(|p| *p != 0) {
            check_number(format!("{at}.hostPort"), host_port, faults);
        }
        check_word(format!("{at}.protocol"), port.protocol.as_deref(), &["SCTP", "TCP", "UDP"], faults);
    }
}

fn check_env(at: &str, env: &EnvVar, faults: &mut Vec<FieldError>) {
    if env.name.is_empty() {
        faults.push(FieldError::required(format!("{at}.name"), ""));
    } else {
        check_name(format!("{at}.name"), &env.name, names::env_name_faults, faults);
    }
    let Some(from) = &env.value_from else { return };
    let count = [
        from.field_ref.is_some(),
        from.resource_field_ref.is_some(),
        from.config_map_key_ref.is_some(),
        from.secret_key_ref.is_some(),
        from.file_key_ref.is_some(),
    ]
    .into_iter()
    .filter(|given| *given)
    .count();
    let field = format!("{at}.valueFrom");
    if count == 0 {
        let words =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        faults.push(FieldError::invalid(field, "", words));
    } else if env.value.as_deref().is_some_and(|v| !v.is_empty()) {
        faults.push(FieldError::invalid(field, "", "may not be specified when `value` is not empty"));
    } else if count > 1 {
        faults.push(FieldError::invalid(field, "", "may not have more than one field specified at a time"));
    }
    for (source, key) in [
        ("configMapKeyRef", from.config_map_key_ref.as_ref().map(|r| &r.key)),
        ("secretKeyRef", from.secret_key_ref.as_ref().map(|r| &r.key)),
    ] {
        if key.is_some_and(String::is_empty) {
            faults.push(FieldError::required(format!("{at}.valueFrom.{source}.key"), ""));
        }
    }
}

fn check_mounts(at: &str, mounts: &[VolumeMount], scene: &Scene<'_>, faults: &mut Vec<FieldError>) {
    let mut paths: Vec<&str> = Vec::new();
    for (i, mount) in mounts.iter().enumerate() {
        let at = format!("{at}.volumeMounts[{i}]");
        if mount.name.is_empty() {
            faults.push(FieldError::required(format!("{at}.name"), ""));
        } else if !scene.volumes.contains(&mount.name) {
            faults.push(FieldError::not_found(format!("{at}.name"), mount.name.as_str()));
        }
        if mount.mount_path.is_empty() {
            faults.push(FieldError::required(format!("{at}.mountPath"), ""));
        } else if paths.contains(&mount.mount_path.as_str()) {
            faults.push(FieldError::invalid(
                format!("{at}.mountPath"),
                mount.mount_path.as_str(),
                "must be unique",
            ));
        }
        paths.push(&mount.mount_path);
        let sub_path = mount.sub_path.as_deref().unwrap_or_default();
        if sub_path.starts_with('/') {
            faults.push(FieldError::invalid(format!("{at}.subPath"), sub_path, "must be a relative path"));
        }
        if sub_path.split('/').any(|step| step == "..") {
            faults.push(FieldError::invalid(format!("{at}.subPath"), sub_path, "must not contain '..'"));
        }
    }
}

fn check_probe(at: &str, probe: &Probe, may_need_more: bool, faults: &mut Vec<FieldError>) {
    let mut handlers = Handlers { at, count: 0 };
    handlers.exec(probe.exec.as_ref(), faults);
    handlers.http(probe.http_get.as_ref(), faults);
    handlers.tcp(probe.tcp_socket.as_ref(), faults);
    if let Some(grpc) = &probe.grpc
        && handlers.first("grpc", faults)
    {
        check_number(format!("{at}.grpc.port"), grpc.port, faults);
    }
    handlers.at_least_one(faults);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if let Some(value) = value.filter(|v| *v < 0) {
            faults.push(FieldError::invalid(
                format!("{at}.{field}"),
                value,
                "must be greater than or equal to 0",
            ));
        }
    }
    let successes = probe.success_threshold.unwrap_or(1);
    if !may_need_more && successes > 1 {
        faults.push(FieldError::invalid(format!("{at}.successThreshold"), successes, "must be 1"));
    }
    if let Some(grace_s) = probe.termination_grace_period_seconds {
        let field = format!("{at}.terminationGracePeriodSeconds");
        if may_need_more {
            faults.push(FieldError::invalid(field, grace_s, "must not be set for readinessProbes"));
        } else if grace_s <= 0 {
            faults.push(FieldError::invalid(field, grace_s, "must be greater than 0"));
        }
    }
}

fn check_hook(at: &str, hook: &LifecycleHandler, grace_s: i64, faults: &mut Vec<FieldError>) {
    let mut handlers = Handlers { at, count: 0 };
    handlers.exec(hook.exec.as_ref(), faults);
    handlers.http(hook.http_get.as_ref(), faults);
    handlers.tcp(hook.tcp_socket.as_ref(), faults);
    if let Some(sleep) = &hook.sleep
        && handlers.first("sleep", faults)
        && !(0..=grace_s).contains(&sleep.seconds)
    {
        let words = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_s})");
        faults.push(FieldError::invalid(format!("{at}.sleep"), sleep.seconds, &words));
    }
    handlers.at_least_one(faults);
}

/// Of the ways in which a probe or a hook acts, exactly one is given.
struct Handlers<'a> {
    at: &'a str,
    count: usize,
}

impl Handlers<'_> {
    fn first(&mut self, field: &str, faults: &mut Vec<FieldError>) -> bool {
        self.count += 1;
        if self.count > 1 {
            faults.push(FieldError::forbidden(
                format!("{}.{field}", self.at),
                "may not specify more than 1 handler type",
            ));
        }
        self.count == 1
    }

    fn at_least_one(&self, faults: &mut Vec<FieldError>) {
        if self.count == 0 {
            faults.push(FieldError::required(self.at, "must specify a handler type"));
        }
    }

    fn exec(&mut self, exec: Option<&ExecAction>, faults: &mut Vec<FieldError>) {
        let Some(exec) = exec else { return };
        if self.first("exec", faults) && exec.command.as_ref().is_none_or(Vec::is_empty) {
            faults.push(FieldError::required(format!("{}.exec.command", self.at), ""));
        }
    }

    fn http(&mut self, get: Option<&HTTPGetAction>, faults: &mut Vec<FieldError>) {
        let Some(get) = get else { return };
        if !self.first("httpGet", faults) {
            return;
        }
        if get.path.as_deref().unwrap_or_default().is_empty() {
            faults.push(FieldError::required(format!("{}.httpGet.path", self.at), ""));
        }
        check_word(format!("{}.httpGet.scheme", self.at), get.scheme.as_deref(), &["HTTP", "HTTPS"], faults);
        check_port_or_name(format!("{}.httpGet.port", self.at), &get.port, faults);
    }

    fn tcp(&mut self, socket: Option<&TCPSocketAction>, faults: &mut Vec<FieldError>) {
        let Some(socket) = socket else { return };
        if self.first("tcpSocket", faults) {
            check_port_or_name(format!("{}.tcpSocket.port", self.at), &socket.port, faults);
        }
    }
}

fn check_port_or_name(field: String, port: &IntOrString, faults: &mut Vec<FieldError>) {
    match port {
        IntOrString::Int(number) => check_number(field, *number, faults),
        IntOrString::String(name) => check_name(field, name, names::port_name_faults, faults),
    }
}

const STANDARD_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

fn check_resources(at: &str, resources: &ResourceRequirements, faults: &mut Vec<FieldError>) {
    let empty = BTreeMap::new();
    let limits = resources.limits.as_ref().unwrap_or(&empty);
    let requests = resources.requests.as_ref().unwrap_or(&empty);
    for (field, list) in [("limits", limits), ("requests", requests)] {
        for (name, amount) in list {
            check_amount(&format!("{at}.{field}[{name}]"), name, amount, faults);
        }
    }
    for (name, request) in requests {
        let (Some(limit), Ok(wanted)) = (limits.get(name), request.0.parse::<Quantity>()) else { continue };
        let Ok(most) = limit.0.parse::<Quantity>() else { continue };
        let field = format!("{at}.requests");
        if name.contains('/') && wanted != most {
            let words = format!("must be equal to {name} limit of {}", limit.0);
            faults.push(FieldError::invalid(field, request.0.as_str(), &words));
        } else if wanted > most {
            let words = format!("must be less than or equal to {name} limit of {}", limit.0);
            faults.push(FieldError::invalid(field, request.0.as_str(), &words));
        }
    }
}

fn check_amount(field: &str, name: &str, amount: &Text, faults: &mut Vec<FieldError>) {
    for fault in names::qualified_name_faults(name) {
        faults.push(FieldError::invalid(field, name, &fault));
    }
    if !name.contains('/') && !STANDARD_RESOURCES.contains(&name) && !name.starts_with("hugepages-") {
        faults.push(FieldError::invalid(field, name, "must be a standard resource type or fully qualified"));
        faults.push(FieldError::invalid(field, name, "must be a standard resource for containers"));
    }
    match amount.0.parse::<Quantity>() {
        Err(error) => faults.push(FieldError::invalid(field, amount.0.as_str(), &error.to_string())),
        Ok(quantity) if quantity.is_negative() => {
            faults.push(FieldError::invalid(field, amount.0.as_str(), "must be greater than or equal to 0"));
        }
        Ok(quantity) if name.contains('/') && !quantity.is_whole() => {
            faults.push(FieldError::invalid(field, amount.0.as_str(), "must be an integer"));
        }
        Ok(_) => {}
    }
}
